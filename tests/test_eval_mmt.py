"""eval.py on a checkpoint of MMT that the published code wrote, in both of its protocols."""

import json
import shutil

import numpy as np
import pytest
import torch

import eval as evaluation
from golden_mmt import DATA, OURS

FOLDER = DATA / "published_ckpt_clotho_mmt"
HEADS = "arch.args.txt_bert_params.num_attention_heads@4"
SINGLE = "data_loader.args.query_shuffling@indiv+data_loader.args.captions_per_video@5"


@pytest.fixture
def data_dir(tmp_path):
    shutil.copytree(OURS / "minidata", tmp_path / "data")
    return tmp_path / "data"


def score(
    data_dir, *custom, checkpoint=FOLDER / "trained_model.pth", config=FOLDER / "config.json"
):
    out = data_dir.parent
    custom_args = "+".join([f"arch.args.vocab@{OURS / 'vocab.txt'}", *custom])
    words = [
        *("--resume", str(checkpoint), "--data_dir", str(data_dir), "--quiet"),
        *("--save_similarities", str(out / "sims.npy"), "--out", str(out / "results")),
        *("--custom_args", custom_args),
        *(("--config", str(config)) if config else ()),
    ]
    status = evaluation.main(words)
    if status:
        return status, None, None
    results = json.loads((out / "results" / "results.json").read_text())
    return status, np.load(out / "sims.npy"), results


def assert_recorded(sims, protocol="cat21"):
    with np.load(FOLDER / f"test_sims_{protocol}.npz") as recorded:
        np.testing.assert_allclose(sims, recorded["sims"], atol=1e-5)


@pytest.mark.parametrize("protocol", ["cat21", "indiv5"])
def test_a_released_checkpoint_in_both_protocols(data_dir, protocol):
    custom = [HEADS] if protocol == "cat21" else [HEADS, SINGLE]
    status, sims, results = score(data_dir, *custom)
    assert status == 0
    assert_recorded(sims, protocol)
    assert results["protocol"]["fused"] is (protocol == "cat21")
    assert results["protocol"]["captions_per_clip"] == (1 if protocol == "cat21" else 5)
    if protocol == "cat21":
        recorded = json.loads((FOLDER / "exp_results.json").read_text())["perfs"]["Clotho_c_test"]
        [found] = results["seeds"].values()
        for direction in ("t2v_metrics", "v2t_metrics"):
            for key in ("R1", "R5", "R10", "MedR", "MeanR"):
                expected = recorded[f"{direction}/{key}/final_eval"]
                assert found[direction][key] == pytest.approx(expected, abs=1e-4)


def test_the_configuration_inside_the_checkpoint_will_do(data_dir, tmp_path):
    alone = tmp_path / "alone" / "trained_model.pth"
    alone.parent.mkdir()
    shutil.copy(FOLDER / "trained_model.pth", alone)
    status, sims, _ = score(data_dir, HEADS, checkpoint=alone, config=None)
    assert status == 0
    assert_recorded(sims)


def test_weights_without_optimiser_and_position_numbers_are_enough(data_dir, tmp_path):
    from trainer.checkpoint import load_checkpoint

    state = load_checkpoint(FOLDER / "trained_model.pth").state_dict
    slim = {key: value for key, value in state.items() if not key.endswith("position_ids")}
    assert len(slim) == len(state) - 1
    torch.save({"state_dict": slim, "epoch": 3}, tmp_path / "slim.pth")
    status, sims, _ = score(data_dir, HEADS, checkpoint=tmp_path / "slim.pth")
    assert status == 0
    assert_recorded(sims)


def test_what_is_missing_is_named(data_dir, capsys):
    assert score(data_dir)[0] == 1  # the heads of the small BERT
    assert "num_attention_heads" in capsys.readouterr().err
    assert score(data_dir, HEADS, "arch.args.vocab@none.txt")[0] == 2  # given twice
    words = ["--resume", str(FOLDER / "trained_model.pth"), "--data_dir", str(data_dir)]
    assert evaluation.main(words) == 2
    assert "arch.args.vocab" in capsys.readouterr().err
    assert evaluation.main([*words, "--custom_args", f"arch.args.vocab@none.txt+{HEADS}"]) == 1
    assert "none.txt" in capsys.readouterr().err
