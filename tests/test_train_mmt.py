"""MMT by the command lines: trained, killed, continued bit by bit, scored in both protocols."""

import signal

import pytest
import torch

from small_runs import Place, assert_same_run, make_data
from text.vocabulary import write_vocabulary
from trainer.checkpoint import load_checkpoint

BERT = {
    "hidden_size": 16,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "intermediate_size": 8,
    "max_position_embeddings": 24,
}
NOISY = ("cg.fc.bias", "self.key.bias", "running_mean")
"""Biases that change no loss have rounding for gradients, which Adam turns into whole steps."""
CLIPS = {key: value for key, value in BERT.items() if key != "max_position_embeddings"}


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    made = make_data(tmp_path_factory.mktemp("made"))
    captions = (" ".join(words) for texts in made.captions.values() for words in texts)
    write_vocabulary(made.data_dir / "vocab.txt", captions)
    return made


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, made):
    place = Place(tmp_path_factory.mktemp("undisturbed"), made)
    return place.train("--config", config_of(place, trainer__save_every_minutes=1e-9))


def settings(**changes):
    return {
        "experts.ce_shared_dim": 768,
        "arch": {"type": "MMT"},
        "arch.args": {
            "vocab": "data/CLOTHO/vocab.txt",
            "txt_bert_weights": None,
            "same_dim": 16,
            "txt_bert_params": BERT,
            "vid_bert_params": CLIPS,
        },
        "data_loader.args.batch_size": 6,
        "trainer.epochs": 2,
        "trainer.tensorboard": False,
        "optimizer.args.lr": 0.001,
        **{key.replace("__", "."): value for key, value in changes.items()},
    }


def config_of(place, **changes):
    return place.config(settings(**changes), base="configs/clotho/train-mmt.json")


def test_trained_and_scored(place):
    run = place.train("--config", config_of(place))
    [seed] = run.results["seeds"].values()
    assert seed["best_epoch"] == 2  # the last one, as published
    assert run.results["protocol"]["fused"] is True
    assert run.results["data"]["vocabulary"]
    scored = place.evaluate("--resume", run.trained_model)
    [again] = scored["seeds"].values()
    assert again["t2v_metrics"] == seed["t2v_metrics"]
    single = "data_loader.args.query_shuffling@indiv+data_loader.args.captions_per_video@5"
    other = place.evaluate("--resume", run.trained_model, "--custom_args", single)
    assert other["protocol"]["fused"] is False
    assert other["protocol"]["captions_per_clip"] == 5


@pytest.mark.parametrize("step", [2, 5])
def test_killed_and_continued_bit_by_bit_with_dropout(place, undisturbed, step):
    config = config_of(place, trainer__save_every_minutes=1e-9)
    death = place.train_in_child("--config", config, at="step", count=step)
    assert death == -signal.SIGKILL
    assert_same_run(place.train("--config", config, "--resume", "auto"), undisturbed)


def test_optimisers_of_checkpoints_skip_the_poolers(place):
    run = place.train("--config", config_of(place))
    content = torch.load(run.trained_model, weights_only=True)
    names = [key for key in content["state_dict"] if "running" not in key and "tracked" not in key]
    without = {names[i] for i in range(len(names)) if i not in content["optimizer"]["state"]}
    assert without == {
        f"{part}.pooler.dense.{kind}"
        for part in ("txt_bert", "vid_bert")
        for kind in ("weight", "bias")
    }


STILL = {"hidden_dropout_prob": 0.0, "attention_probs_dropout_prob": 0.0}


def test_several_processes_repeat_one_without_dropout(place):
    config = config_of(
        place,
        arch__args__txt_bert_params=BERT | STILL,
        arch__args__vid_bert_params=CLIPS | STILL,
        loss={"type": "InfoNCE", "args": {}},
        data_loader__args__batch_size=5,  # of the last two of 22 clips one process gets none
        data_loader__args__drop_last=False,
        data_loader__args__fuse_captions=False,
        trainer__epochs=1,
    )
    alone = place.train("--config", config)
    together, _ = place.train_by_torchrun(3, "--config", config)
    assert together.models != alone.models
    assert together.metrics[0]["loss"] == pytest.approx(alone.metrics[0]["loss"], abs=1e-5)
    weights, own = (load_checkpoint(run.last).state_dict for run in (alone, together))
    assert own.keys() == weights.keys()
    for name, value in weights.items():
        if not name.endswith(NOISY):
            torch.testing.assert_close(own[name], value, rtol=0, atol=1e-4, msg=name)
