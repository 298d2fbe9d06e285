"""Make the model that searching answers with when no run is named: measured, trained, written.

python misc/make_default_model.py --sounds FOLDER

FOLDER holds recordings and index.csv (file, phrase, licence, author, source); those under CC0 and
CC BY are used, and mixtures of two of them. Model, card and attributions go to search/default.
"""

from __future__ import annotations

import argparse
import functools
import itertools
import logging
import sys
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from audio.extractors import build_extractors
from audio.reading import read
from misc.default_model.card import write_card
from misc.default_model.corpus import draw_pairs, folds_of, mix, read_list
from misc.default_model.measure import Examples, cross_validate, fit_linear, joined, summary
from misc.default_model.trained import fit_trained
from search.load import DEFAULT, TABLE
from text import build_encoder
from text.captions import RUN_FILE, TextRecord, entry_of
from utils.config import Config, load_config
from utils.errors import run_main
from utils.files import atomic_writer, write_json
from utils.log import start_logging

logger = logging.getLogger("make_default_model")

CONFIG = "configs/default-model.json"
TRAINED = "configs/default-model-ce.json"
FOLDS = 5
RIDGES = (300.0, 1000.0, 3000.0, 10000.0)
WHITENINGS = (0.0, 0.5)
JOINT = "while"


def make_examples(
    folder: Path, config: Config, mixtures: int, seed: int
) -> tuple[Examples, Examples, TextRecord, list]:
    """Return the recordings, the mixtures, the record of the text encoder, and the list."""
    listed = read_list(folder)
    folds = folds_of(listed, FOLDS)
    draw = np.random.default_rng(seed)
    pairs = draw_pairs(listed, folds, mixtures, draw)
    extractors = build_extractors([expert.name for expert in config.experts])
    features = []
    for number, one in enumerate(listed):
        tokens = {e.expert: e.tokens(read(folder / one.file, e.rate)) for e in extractors}
        features.append(tokens)
        if number % 100 == 0:
            logger.info("recording %d of %d", number + 1, len(listed))
    mixed = []
    for number, pair in enumerate(pairs):
        files = [listed[index].file for index in pair]
        one_seed = [seed, number]  # every expert hears the same mixture
        mixed.append(
            {
                e.expert: e.tokens(mix(folder, files, e.rate, np.random.default_rng(one_seed)))
                for e in extractors
            }
        )
        if number % 100 == 0:
            logger.info("mixture %d of %d", number + 1, len(pairs))
    phrases = [one.phrase for one in listed]
    joint = [f"{phrases[first]} {JOINT} {phrases[second]}" for first, second in pairs]
    entry = entry_of(config.text.feature, TABLE) or {}
    encoder = build_encoder(entry, config.text.feature)
    words = sum(len(text.split()) for text in phrases + joint)
    record = TextRecord(dict(entry), encoder.identity, words, 0)
    vectors = np.concatenate(encoder.encode(phrases + joint))
    first_of = np.array([first for first, _ in pairs], dtype=np.int64)
    return (
        Examples(features, phrases, vectors[: len(phrases)], folds),
        Examples(mixed, joint, vectors[len(phrases) :], folds[first_of]),
        record,
        listed,
    )


def measure(config: Config, clips: Examples, mixtures: Examples) -> list[dict[str, Any]]:
    """Return the scores of each form on held-out phrases, with what is needed to make it."""
    trained = load_config(TRAINED)
    scores: list[dict[str, Any]] = []
    for mixed in (mixtures.where(np.arange(0)), mixtures):
        count = len(mixed.phrases)
        for whitening, ridge in itertools.product(WHITENINGS, RIDGES):
            args = {"whitening": whitening, "ridge": ridge}
            fit = functools.partial(fit_linear, config, args)
            ranks = cross_validate(config, clips, mixed, fit)
            name = f"linear alignment, ridge {ridge:g}, whitening {whitening:g}"
            scores.append({"form": name, "args": args, "mixtures": count, **summary(ranks)})
        ranks = cross_validate(trained, clips, mixed, functools.partial(fit_trained, trained, 0))
        scores.append({"form": "CE of one expert", "mixtures": count, **summary(ranks)})
    for one in scores:
        logger.info("%s", one)
    return scores


def best_of(scores: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the linear alignment with the greatest product of R@1, R@5 and R@10."""
    linear = [one for one in scores if "args" in one]
    return max(linear, key=lambda one: one["R@1"] * one["R@5"] * one["R@10"])


def run(args: argparse.Namespace) -> int:
    """Do the work of the command line."""
    from safetensors.torch import save

    start_logging(quiet=args.quiet)
    config = load_config(CONFIG)
    clips, mixtures, record, listed = make_examples(args.sounds, config, args.mixtures, args.seed)
    scores = measure(config, clips, mixtures)
    best = best_of(scores)
    model = fit_linear(config, best["args"], joined(clips, mixtures) if best["mixtures"] else clips)
    args.out.mkdir(parents=True, exist_ok=True)
    state = {name: one.contiguous() for name, one in model.published_state_dict().items()}
    with atomic_writer(args.out / "trained_model.safetensors") as file:
        file.write(save(state))
    raw = load_config(
        CONFIG, {f"arch.args.{key}": value for key, value in best["args"].items()}
    ).raw
    write_json(args.out / "config.json", {**raw, "name": "default-model"})
    write_json(args.out / RUN_FILE, asdict(record))
    write_json(args.out / "scores.json", scores)
    write_card(args.out, listed, scores, best, seed=args.seed)
    print(f"written: {args.out}")
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; return its exit status."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--sounds", type=Path, required=True, help="recordings and index.csv")
    parser.add_argument("--out", type=Path, default=DEFAULT, help="folder of the model")
    parser.add_argument("--mixtures", type=int, default=600, help="mixtures of two recordings")
    parser.add_argument("--seed", type=int, default=0, help="of the mixtures")
    parser.add_argument("--quiet", action="store_true", help="warnings only")
    args = parser.parse_args(argv)
    return run_main(lambda: run(args))


if __name__ == "__main__":
    sys.exit(main())
