"""Stored runs that no training made: results.json, ranks and curves of drawn similarities."""

import json
from types import SimpleNamespace

import numpy as np

from results.ranks import ranks_of, save_ranks

PROTOCOL = {"captions_per_clip": 2, "fused": False, "test_caption_mode": "indep"}


def write_run(
    folder,
    *,
    name="clotho-a",
    seeds=(0, 1, 2),
    clips=20,
    per_clip=2,
    skill=1.0,
    names=None,
    captions=None,
    list_sha="ab",
    protocol=None,
    ranks=True,
    curves=True,
    change=None,
):
    """Write a run into `folder`; return the ranks of its seeds."""
    names = names or [f"clip {number}" for number in range(clips)]
    texts = captions or [[f"sound {c} of kind {k}" for k in range(per_clip)] for c in range(clips)]
    stored = {}
    for seed in seeds:
        draw = np.random.default_rng([seed, len(name), ord(name[-1])])
        sims = draw.normal(size=(clips * per_clip, clips))
        sims[np.arange(clips * per_clip), np.arange(clips * per_clip) // per_clip] += skill
        share = draw.random(clips * per_clip)
        scored = SimpleNamespace(
            similarities=sims,
            query_masks=np.ones((clips, per_clip)),
            weights={"audio": share, "vggsound": 1 - share},
        )
        stored[str(seed)] = ranks_of(scored, names, captions=texts)
        if ranks:
            save_ranks(folder / f"seed-{seed}", stored[str(seed)])
    content = {
        "config": name,
        "split": "test",
        "protocol": PROTOCOL | (protocol or {}),
        "trainable_parameters": 1234567,
        "data": {"split_list": {"file": "test_list.txt", "sha256": list_sha}},
        "seeds": {seed: {**found.metrics(), "best_epoch": 2} for seed, found in stored.items()},
        **(change or {}),
    }
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "results.json").write_text(json.dumps(content))
    if curves:
        lines = [
            {
                "seed": seed,
                "epoch": epoch,
                "loss": 0.2 / (epoch + 1 + seed),
                "val_t2v_metrics_geometric_mean_R1-R5-R10": 5.0 * epoch + seed,
            }
            for seed in seeds
            for epoch in range(4)
        ]
        (folder / "metrics.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return stored
