"""train.py by whole command lines, in this process, on small made-up data."""

import io
import json
import shutil
import statistics
import subprocess
import sys
import weakref

import pytest
import torch

import eval as evaluation
import train
import trainer.distributed
import trainer.job
import trainer.start
from small_runs import CE, ROOT, Finished, Place, assert_same_run, content_of, same
from synthetic import write_dataset, write_features, write_list
from trainer import loop
from trainer.checkpoint import load_checkpoint
from trainer.distributed import Processes
from trainer.report import curves
from trainer.runs import open_run
from utils.extraction_record import (
    ExtractionRecord,
    record_path,
    write_record,
    write_run_records,
)

METRICS = {"R1", "R5", "R10", "R50", "MedR", "MeanR", "geometric_mean_R1-R5-R10"}
GEOMETRIC = "val_t2v_metrics_geometric_mean_R1-R5-R10"


@pytest.fixture(scope="module")
def trained(tmp_path_factory, made):
    """A finished run of three epochs that tests may read, but not change."""
    place = Place(tmp_path_factory.mktemp("trained"), made)
    config = place.config({"trainer.tensorboard": True}, base=CE)
    return place.train("--config", config)


# What a run leaves


def test_files_of_a_run(trained):
    assert trained.models.match("data/saved/models/clotho-tiny/????-??-??_??-??-??")
    assert trained.log.match("data/saved/log/clotho-tiny/????-??-??_??-??-??")
    kept = {path.name for path in trained.models.iterdir()}
    assert {"config.json", "trained_model.pth", "last.pth"} <= kept
    assert not [name for name in kept if name.endswith(".part")]
    assert {"info.log", "metrics.jsonl", "results.json", "seed-0"} == {
        path.name for path in trained.log.iterdir()
    }
    assert list((trained.log / "seed-0").glob("events.out.tfevents.*"))
    assert "inherit_from" not in trained.config
    assert trained.config["trainer"]["epochs"] == 3
    log = (trained.log / "info.log").read_text()
    assert [f" {epoch}/3 " in log for epoch in (1, 2, 3)] == [True] * 3


def test_metrics_of_every_epoch(trained):
    lines = trained.metrics
    assert [(line["seed"], line["epoch"]) for line in lines] == [(0, 1), (0, 2), (0, 3)]
    for epoch, line in enumerate(lines):
        assert line["learning_rate"] == pytest.approx(0.01 * 0.95**epoch)  # as used
        assert line["loss"] > 0
        assert {f"val_{task}_metrics_{m}" for task in ("t2v", "v2t") for m in METRICS} <= set(line)


def test_results_of_a_run(trained):
    results = trained.results
    assert set(results) == {
        *("config", "config_file", "split", "protocol", "trainable_parameters", "data"),
        *("versions", "device", "wall_seconds", "seeds", "summary"),
    }
    assert results["config"] == "clotho-tiny"
    assert results["split"] == "test"
    assert results["protocol"] == {
        "captions_per_clip": 5,
        "queries": "each caption",
        "fused": False,
        "test_caption_mode": "indep",
        "ties": "mean of all orders",
    }
    assert len(results["data"]["split_list"]["sha256"]) == 64
    assert results["versions"]["torch"] == torch.__version__
    assert results["device"].startswith("cpu")
    seed = results["seeds"]["0"]
    assert set(seed) == {"t2v_metrics", "v2t_metrics", "best_epoch"}
    assert set(seed["t2v_metrics"]) == set(seed["v2t_metrics"]) == METRICS
    for task in ("t2v_metrics", "v2t_metrics"):
        for metric, value in results["summary"][task].items():
            assert value == {"mean": seed[task][metric], "std": None}
    weights = load_checkpoint(trained.trained_model).state_dict
    learnt = [v for k, v in weights.items() if "running_" not in k and "num_batches" not in k]
    assert results["trainable_parameters"] == sum(value.numel() for value in learnt)


def test_the_best_epoch_is_kept_with_its_own_optimiser(trained):
    values = [line[GEOMETRIC] for line in trained.metrics]
    best = max(range(3), key=lambda epoch: (values[epoch], epoch)) + 1  # ties: the later one
    checkpoint = load_checkpoint(trained.trained_model)
    assert checkpoint.epoch == best == trained.results["seeds"]["0"]["best_epoch"]
    assert checkpoint.monitor_best == max(values)
    assert {state["step"] for state in checkpoint.optimizer["state"].values()} == {4 * best}
    last = load_checkpoint(trained.last)
    assert (last.epoch, last.progress["epoch"]) == (3, 3)
    assert checkpoint.config == trained.config


def test_a_finished_run_keeps_as_little_as_asked(place):
    """The weights alone, without what they would be trained on with; the results stay too."""
    changes = {"trainer.keep_last": False, "trainer.include_optim_in_ckpts": False}
    run = place.train("--config", place.config(changes | {"trainer.save_pause": 20.0}))
    kept = {path.name for path in run.models.iterdir() if path.suffix == ".pth"}
    assert kept == {"trained_model.pth"}
    assert load_checkpoint(run.trained_model).optimizer is None
    assert run.results["seeds"]


def test_several_seeds_load_the_data_once(place, capsys, monkeypatch):
    opened = []
    load_splits = train.load_splits
    monkeypatch.setattr(train, "load_splits", lambda c: opened.append(1) or load_splits(c))
    run = place.train("--config", place.config(), "--seeds", "0,2")
    assert opened == [1]
    assert {path.name for path in run.models.glob("seed-*")} == {"seed-0", "seed-2"}
    for seed in (0, 2):
        folder = run.models / f"seed-{seed}"
        assert {"trained_model.pth", "last.pth"} <= {path.name for path in folder.iterdir()}
        assert json.loads((folder / "config.json").read_text())["seed"] == seed
    assert not run.trained_model.exists()
    values = [run.results["seeds"][seed]["t2v_metrics"]["MeanR"] for seed in ("0", "2")]
    assert run.results["summary"]["t2v_metrics"]["MeanR"] == pytest.approx(
        {"mean": statistics.mean(values), "std": statistics.stdev(values)}
    )
    table = capsys.readouterr().out
    assert f"{statistics.mean(values):.1f} ({statistics.stdev(values):.1f})" in table
    assert "clotho-tiny, 2 seeds" in table
    first, second = (content_of(run.models / f"seed-{s}" / "last.pth") for s in (0, 2))
    assert not same(first["state_dict"], second["state_dict"])

    alone = place.train("--config", place.config(), "--seeds", "2")
    assert same(content_of(alone.last)["state_dict"], second["state_dict"])


def test_a_member_of_a_group(place):
    config = place.config({"trainer.epochs": 1})
    flags = ("--config", config, "--group_id", "abc-1", "--group_seed", 7)
    group = place.train(*flags).models
    runs = list(group.glob("seed-7/*"))
    assert group.name == "abc-1"
    assert [(path / "trained_model.pth").is_file() for path in runs] == [True]
    assert set(Finished(runs[0]).results["seeds"]) == {"7"}
    # another member neither shares its folder nor is continued in its place
    assert place.call(train.main, *flags[:-1], 8, "--resume", "auto") == 0
    assert [len(list(group.glob(f"seed-{seed}/*"))) for seed in (7, 8)] == [1, 1]
    other = ("--config", config, "--group_id", "other", "--group_seed", 7, "--resume", "auto")
    assert place.call(train.main, *other) == 0
    assert len(list(group.parent.glob("other/seed-7/*"))) == 1


def test_flags_that_change_the_training(place):
    config = place.config({"data_loader.args.batch_size": 3, "trainer.tensorboard": True})
    run = place.train("--config", config, "--mini_train")
    assert {s["step"] for s in load_checkpoint(run.last).optimizer["state"].values()} == {15}
    assert not list(run.log.glob("seed-*/events*"))  # no TensorBoard

    config = place.config({"trainer.save_period": 2})
    run = place.train(
        "--config", config, "--train_single_epoch", name="clotho-tiny-train-single-epoch"
    )
    assert load_checkpoint(run.last).epoch == 1
    assert run.config["trainer"]["save_period"] == 1

    custom = "trainer.epochs=2+optimizer.args.lr@0.02+experts.modalities@audio,"
    tagged = "clotho-tiny-trainer-epochs-2-args-lr-0.02-experts-modalities-audio--"
    run = place.train("--config", config, "--custom_args", custom, name=tagged)
    assert [line["learning_rate"] for line in run.metrics] == [0.02, pytest.approx(0.019)]
    assert run.results["config"] == tagged


@pytest.mark.parametrize(("verbosity", "lines"), [(0, 0), (1, 1), (2, 1)])
def test_verbosity(place, capsys, verbosity, lines):
    place.train("--config", place.config({"trainer.epochs": 1, "trainer.verbosity": verbosity}))
    assert capsys.readouterr().err.count(" 1/1 ") == lines


def test_workers_change_nothing_but_speed(place):
    config = place.config({"data_loader.args.num_workers": 2})
    first = place.train("--config", config)
    second = place.train("--config", config, "--disable_workers")
    assert same(content_of(first.last)["state_dict"], content_of(second.last)["state_dict"])
    assert second.config["data_loader"]["args"]["num_workers"] == 0


def test_purging_removes_the_runs_of_this_experiment_alone(place):
    config = place.config({"trainer.epochs": 1})
    earlier = place.train("--config", config)
    other = place.config({"trainer.epochs": 1}, name="other")
    other = place.train("--config", other, name="clotho-other")
    (earlier.models / "earlier").touch()  # a new run of the same second has its name
    assert place.call(train.main, "--config", config, "--purge_exp_dir") == 0
    assert not (earlier.models / "earlier").exists()
    assert other.trained_model.exists()
    assert len(place.runs()) == 1


# Continuing


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory, made):
    """A run of four epochs with words left out at random, never stopped."""
    place = Place(tmp_path_factory.mktemp("undisturbed"), made)
    return place.train("--config", place.config(LONG))


LONG = {"trainer.epochs": 4, "data_loader.args.text_dropout": 0.4, "trainer.save_only_best": False}


def test_continuing_from_every_state_ends_the_same(place, undisturbed):
    config = place.config(LONG)
    run = place.train("--config", config)
    for file in ("checkpoint-epoch2.pth", "last.previous.pth", "trained_model.pth", "last.pth"):
        assert place.call(train.main, "--resume", run.models / file) == 0  # with its own config
        assert_same_run(run, undisturbed)
    assert len(place.runs()) == 1
    assert not (run.models / "last.damaged.pth").exists()


def test_continuing_for_more_epochs(place, undisturbed):
    short = place.train("--config", place.config(LONG | {"trainer.epochs": 2}))
    kept = short.results
    leftover = short.models / ".last.pth.123-abc.part"
    leftover.write_bytes(b"half a checkpoint")
    run = place.train("--config", place.config(LONG), "--resume", "auto")
    assert run.models == short.models
    assert_same_run(run, undisturbed)
    assert kept != run.results
    assert not leftover.exists()


def test_a_finished_run_continued_prints_its_results_again(place, capsys):
    config = place.config({"trainer.epochs": 1})
    run = place.train("--config", config)
    first, table = run.results, capsys.readouterr().out
    for resume in ("auto", run.last):
        assert place.train("--config", config, "--resume", resume).models == run.models
        assert capsys.readouterr().out.replace(f"{place.folder}/", "") == table
        assert {**run.results, "wall_seconds": 0} == {**first, "wall_seconds": 0}
    assert [line["epoch"] for line in run.metrics] == [1]


def test_what_was_lost_beside_the_last_state_comes_back(place, undisturbed):
    """A kill may come after the last state was saved, before anything else was written."""
    config = place.config(LONG)
    run = place.train("--config", config)
    for path in (run.log / "metrics.jsonl", run.log / "results.json", run.models / "result.json"):
        path.unlink()
    assert_same_run(place.train("--config", config, "--resume", "auto"), undisturbed)


def test_auto_takes_the_newest_run_of_the_seeds_asked_for(place):
    config = place.config({"trainer.epochs": 1})
    first = place.train("--config", config, "--seeds", "0,1")
    second = place.train("--config", config, "--seeds", "0")
    assert first.models != second.models  # also within one second
    (first.log / "results.json").unlink()
    place.train("--config", config, "--seeds", "0,1", "--resume", "auto")
    assert (first.log / "results.json").exists()
    (second.log / "results.json").unlink()
    place.train("--config", config, "--resume", "auto")
    assert (second.log / "results.json").exists()


def test_finetuning_starts_a_new_run_from_the_weights(place):
    config = place.config({"trainer.epochs": 2})
    source = place.train("--config", config)
    start = source.trained_model
    # a rate so small that the weights stay
    frozen = {"trainer.epochs": 1, "optimizer.args.lr": 1e-12}
    tuned = place.train("--config", place.config(frozen), "--resume", start, "--finetune")
    assert tuned.models != source.models
    before, after = load_checkpoint(start), load_checkpoint(tuned.last)
    for name, value in before.state_dict.items():
        if "running" not in name and "num_batches" not in name:
            assert torch.allclose(after.state_dict[name], value, atol=1e-6), name
    assert {state["step"] for state in after.optimizer["state"].values()} == {4}
    assert [line["epoch"] for line in tuned.metrics] == [1]


@pytest.mark.parametrize("with_optimiser", [False, True])
def test_starting_from_an_experiment_trained_here(place, with_optimiser):
    source = place.train("--config", place.config({"trainer.epochs": 2}), "--seeds", "0,1")
    steps = 4 * source.results["seeds"]["1"]["best_epoch"]
    changes = {
        "trainer.epochs": 1,
        "trainer.start_from": "clotho-tiny",
        "trainer.finetune_optimizer": with_optimiser,
    }
    config = place.config(changes, name="tuned")
    tuned = place.train("--config", config, "--seeds", "1", name="clotho-tuned")
    state = load_checkpoint(tuned.last).optimizer["state"]
    assert {entry["step"] for entry in state.values()} == {4 + with_optimiser * steps}
    rate = tuned.metrics[0]["learning_rate"]
    stored = load_checkpoint(source.models / "seed-1" / "trained_model.pth")
    expected = stored.optimizer["param_groups"][0]["lr"] if with_optimiser else 0.01
    assert rate == expected

    named = place.config(
        changes | {"trainer.start_from": str(source.models / "seed-1" / "trained_model.pth")},
        name="tuned",
    )
    again = place.train("--config", named, "--seeds", "1", name="clotho-tuned")
    assert same(content_of(again.last)["state_dict"], content_of(tuned.last)["state_dict"])


def test_a_damaged_newest_checkpoint(place, capsys, undisturbed, caplog):
    config = place.config(LONG)
    run = place.train("--config", config)
    (run.models / "result.json").unlink()  # as if it was stopped before its end
    content = run.last.read_bytes()
    run.last.unlink()
    run.last.write_bytes(content[: len(content) // 2])
    message = place.fails(capsys, "--resume", run.last, words=[run.last])
    assert f"--resume {run.models / 'last.previous.pth'}" in message
    caplog.clear()
    again = place.train("--config", config, "--resume", "auto")
    assert again.models == run.models
    assert str(run.last.relative_to(place.folder)) in caplog.text
    assert_same_run(again, undisturbed)
    aside = run.models / "last.damaged.pth"
    assert aside.read_bytes() == content[: len(content) // 2]  # not kept as the previous state
    assert load_checkpoint(run.models / "last.previous.pth").epoch == 3


def test_wrong_values_are_refused_before_anything_is_touched(place, capsys):
    run = place.train("--config", place.config({"trainer.epochs": 1}))
    content = torch.load(run.last, weights_only=True)
    content["optimizer"]["state"][0]["exp_avg"][0] = float("nan")
    run.last.unlink()
    torch.save(content, run.last)
    before = {path.name: path.read_bytes() for path in run.models.iterdir()}
    config = place.config({"trainer.epochs": 2})
    words = ["last.pth: ", "exp_avg of", "NaN", "--finetune"]
    place.fails(capsys, "--config", config, "--resume", "auto", words=words)
    assert {path.name: path.read_bytes() for path in run.models.iterdir()} == before


def test_a_lost_best_of_a_finished_training(place, capsys):
    """Killed after its last epoch, before the test."""
    config = place.config(LONG | {"trainer.epochs": 2})
    run = place.train("--config", config)
    (run.models / "result.json").unlink()
    run.trained_model.unlink()
    run.trained_model.write_bytes(b"damaged")
    content = torch.load(run.models / "last.previous.pth", weights_only=True)
    content["progress"]["best"] = 1000.0  # more than the second epoch can reach
    torch.save(content, run.models / "last.previous.pth")
    before = run.models.relative_to(place.folder) / "last.previous.pth"
    words = ["trained_model.pth", "eval.py --resume", "last.pth", f"train.py --resume {before}"]
    place.fails(capsys, "--config", config, "--resume", "auto", words=words)
    assert place.call(train.main, "--resume", before) == 0  # the remedy is one
    assert load_checkpoint(run.trained_model).epoch == 2


def changed(key, there, now):
    return ["--custom_args", f"{key}@{now}"], [f"{key}: {there} there, {now} now", "--finetune"]


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        changed("optimizer.args.lr", "0.01", "1e-05"),
        changed("loss.args.margin", "0.2", "0.5"),
        changed("data_loader.args.batch_size", "6", "3"),
        changed("optimizer.type", "Ranger", "Adam"),
        changed("optimizer.args.k", "6", "3"),
        changed("lr_scheduler.args.gamma", "0.95", "0.5"),
        changed("trainer.ema", "0.0", "0.7"),
        (["--seeds", "4"], ["seeds 0", "4"]),
        (["--mini_train"], ["--mini_train; continue it likewise"]),
    ],
)
def test_a_run_goes_on_as_it_was_begun_alone(place, capsys, trained, flags, words):
    before = (trained.models / "config.json").read_bytes()
    flags = ("--resume", trained.last, *flags)
    place.fails(capsys, *flags, status=2, words=[trained.last, *words])
    assert (trained.models / "config.json").read_bytes() == before


def test_a_run_goes_on_under_its_own_name(place):
    config = place.config({"trainer.epochs": 1})
    tag = "trainer.early_stop@7"
    run = place.train(
        *("--config", config, "--custom_args", tag), name="clotho-tiny-trainer-early_stop-7"
    )
    named = run.config["name"]
    for flags in ([], ["--config", config]):
        more = ("--custom_args", "trainer.epochs@2", "--resume", run.last)
        assert place.call(train.main, *flags, *more) == 0
        assert run.config["name"] == run.results["config"] == named
        assert run.config["trainer"]["epochs"] == 2
        assert load_checkpoint(run.last).config["name"] == named


def test_the_config_inside_a_checkpoint_serves_where_there_is_no_file(place):
    run = place.train("--config", place.config({"trainer.epochs": 1}))
    alone = place.folder / "alone"
    alone.mkdir()
    (alone / "last.pth").write_bytes(run.last.read_bytes())
    more = ("--custom_args", "trainer.epochs@2")
    assert place.call(train.main, "--resume", alone / "last.pth", *more) == 0
    assert load_checkpoint(alone / "last.pth").epoch == 2


def test_a_checkpoint_is_let_go_before_the_training(place, monkeypatch):
    config = place.config({"trainer.epochs": 1})
    run = place.train("--config", config)
    read, alive = [], []

    def noted(load):
        def load_noted(*args):
            checkpoint = load(*args)
            if checkpoint is not None:
                read.append(weakref.ref(checkpoint))
            return checkpoint

        return load_noted

    def fit(*_, **__):
        alive.append([reference() for reference in read if reference() is not None])
        raise KeyboardInterrupt

    for module, name in (
        (trainer.job, "load_checkpoint"),
        (trainer.start, "load_checkpoint"),
        (trainer.job, "last_usable"),
    ):
        monkeypatch.setattr(module, name, noted(getattr(module, name)))
    monkeypatch.setattr(trainer.job, "fit", fit)
    more = place.config({"trainer.epochs": 2})
    for flags in (("auto",), (run.last,), (run.last, "--finetune")):
        assert place.call(train.main, "--config", more, "--resume", *flags) == 130
    assert len(read) >= 4
    assert alive == [[], [], []]


# With other processes


def test_only_the_writer_makes_a_decision(monkeypatch):
    def broadcast(values, **_):
        assert values == [None]
        values[0] = "the writer's"

    monkeypatch.setattr(torch.distributed, "broadcast_object_list", broadcast)
    assert Processes(1, 2).of_writer(refuse, torch.device("cpu")) == "the writer's"


def refuse(*_, **__):
    raise AssertionError("not this process")


def test_nothing_is_purged_when_the_new_run_cannot_begin(place):
    config = place.config({"trainer.epochs": 1})
    earlier = place.train("--config", config)
    without = place.config({"trainer.epochs": 1, "data_loader.args.data_dir": "data/Nothing"})
    assert place.call(train.main, "--config", without, "--purge_exp_dir") == 1
    assert earlier.trained_model.exists()


def test_a_mini_run_is_never_taken_for_a_real_one(place, capsys):
    config = place.config({"trainer.epochs": 1})
    mini = place.train("--config", config, "--mini_train")
    assert mini.results["mini_train"] is True
    whole = place.train("--config", config, "--resume", "auto")
    assert whole.models != mini.models
    assert "mini_train" not in whole.results
    assert place.call(train.main, "--config", config, "--mini_train", "--resume", "auto") == 0
    assert f"continuing {mini.models.relative_to(place.folder)}" in capsys.readouterr().err
    words = ["--mini_train; continue it likewise"]
    place.fails(capsys, "--resume", mini.last, status=2, words=words)
    start = {"trainer.epochs": 1, "trainer.start_from": "clotho-tiny"}
    (whole.models / "result.json").unlink()
    assert place.call(train.main, "--config", place.config(start, name="from")) == 2
    assert "finished seed 0" in capsys.readouterr().err


def test_the_time_of_a_run_is_that_of_all_its_parts(place):
    config = place.config({"trainer.epochs": 1})
    run = place.train("--config", config)
    (record,) = run.metrics
    record["seconds"] = 1000.0
    (run.log / "metrics.jsonl").write_text(json.dumps(record) + "\n")
    place.train("--config", config, "--resume", "auto")
    assert 1000 < run.results["wall_seconds"] < 1100


def test_test_clips_that_are_trained_on_are_told(place, caplog):
    root = place.folder / "data" / "Mine" / "structured-symlinks"
    shutil.copytree(place.data.root, root)
    trained = place.data.clips["train"][0]
    for split in ("val", "test"):
        with (root / f"{split}_list.txt").open("a", encoding="utf-8") as file:
            file.write(f"{trained}\n")
    own = {"dataset_name": "Mine", "layout": "CLOTHO", "data_dir": "data/Mine"}
    changes = {f"data_loader.args.{key}": value for key, value in own.items()}
    place.train("--config", place.config({"trainer.epochs": 1, **changes}))
    for split in ("7 validation", "8 test"):
        words = f"1 of the {split} clips are in the training list too, such as {trained!r}"
        assert words in caplog.text


def test_auto_prefers_the_newest_run_begun_and_names_the_one_before(place, caplog):
    """A run that was killed before its first save is what its user wants to go on with."""
    config = place.config({"trainer.epochs": 1})
    first, second = place.train("--config", config), place.train("--config", config)
    for run in (first, second):
        (run.log / "results.json").unlink()
    for path in [*second.models.glob("*.pth"), second.models / "result.json"]:
        path.unlink()
    place.train("--config", config, "--resume", "auto")
    assert (second.log / "results.json").exists()
    assert not (first.log / "results.json").exists()
    (warning,) = [r.getMessage() for r in caplog.records if "--resume auto" in r.getMessage()]
    assert f"--resume {first.models.relative_to(place.folder)}" in warning
    caplog.clear()
    place.train("--config", config, "--resume", "auto")
    (choice,) = [r.getMessage() for r in caplog.records if "--resume auto" in r.getMessage()]
    assert str(second.models.relative_to(place.folder)) in choice


def test_a_training_that_ends_worse_than_it_began_is_doubted(place, caplog, monkeypatch):
    def end_worse(training, *rest):
        loop.fit(training, *rest)
        training.progress.history[-1]["loss"] = training.progress.history[0]["loss"] + 1

    monkeypatch.setattr(trainer.job, "fit", end_worse)
    place.train("--config", place.config({"trainer.epochs": 2, "trainer.monitor": "off"}))
    assert len([r for r in caplog.records if "optimizer.args.lr" in r.getMessage()]) == 1


def test_the_table_is_in_the_log_and_says_what_it_is_of(place, capsys):
    config = place.config({"trainer.epochs": 1})
    for flags, name in (((), "clotho-tiny, 1 seed"), (("--mini_train",), "(--mini_train), 1 seed")):
        run = place.train("--config", config, *flags)
        printed = capsys.readouterr()
        assert name in printed.out
        assert ("mini" in printed.out) == bool(flags)
        log = (run.log / "info.log").read_text()
        assert printed.out.rstrip() in log
        assert printed.out.splitlines()[1] not in printed.err
        lines = [line for line in printed.err.splitlines() if "data/" not in line]
        assert max(map(len, lines)) <= 80


def test_the_bar_counts_all_seeds(place, monkeypatch):
    """It shows epoch and loss; its time is that of all seeds."""
    bars = []

    class Seen(loop.tqdm):
        def __init__(self, **settings):
            super().__init__(**{**settings, "disable": False, "file": io.StringIO()})
            bars.append((self, self.n))

    monkeypatch.setattr(loop, "tqdm", Seen)
    place.train("--config", place.config({"trainer.epochs": 2}), "--seeds", "0,3")
    assert [(bar.total, begun, bar.n) for bar, begun in bars] == [(16, 0, 8), (16, 8, 16)]
    bar, _ = bars[1]
    assert bar.desc == "seed 3 epoch 2/2: "
    assert bar.postfix.startswith("loss ")


# What is refused


@pytest.mark.parametrize(
    ("flags", "words"),
    [
        ([], ["--config"]),
        (["--config", "C", "--group_seed", "1"], ["--group_id"]),
        (["--config", "C", "--group_id", "a"], ["--group_seed"]),
        (["--config", "C", "--group_seed", "1", "--group_id", "../x"], ["letters"]),
        (["--config", "C", "--group_seed", "-1", "--group_id", "x"], ["-1"]),
        (["--config", "C", "--group_seed", "1,2", "--group_id", "x"], ["--group_seed"]),
        (["--config", "C", "--seeds", "0,x"], ["0,x", "whole numbers"]),
        (["--config", "C", "--seeds", "0, 0"], ["different"]),
        (["--config", "C", "--seeds", "4294967296"], ["4294967295"]),
        (["--config", "C", "--finetune"], ["--resume"]),
        (["--config", "C", "--purge_exp_dir", "--resume", "auto"], ["--purge_exp_dir"]),
        (["--config", "C", "--device", "3"], ["--device 3", "GPU"]),
        (["--config", "C", "--device", "gpu"], ["number of a GPU"]),
        (["--config", "C", "--custom_args", "trainer.epoch@1"], ["did you mean"]),
        (["--config", "C", "--custom_args", "trainer.epochs@0"], ["trainer.epochs"]),
        (["--config", "nowhere.json"], ["nowhere.json"]),
        (["--config", "C", "--sedes", "1"], ["--sedes"]),
    ],
)
def test_wrong_usage(place, capsys, monkeypatch, flags, words):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    config = place.config()
    flags = [config if flag == "C" else flag for flag in flags]
    place.fails(capsys, *flags, status=2, words=words)
    assert not (place.folder / "data" / "saved").exists()


@pytest.mark.parametrize(
    ("changes", "status", "words"),
    [
        (
            {"data_loader.args.data_dir": "data/elsewhere/CLOTHO"},
            1,
            ["vggish-raw.hickle", "missing", "python misc/sync_experts.py --dataset CLOTHO"],
        ),
        (
            {"trainer.start_from": "clotho-train-vggish-vggsoundd"},
            2,
            ["clotho-train-vggish-vggsoundd", "did you mean 'clotho-train-vggish-vggsound'"],
        ),
    ],
)
def test_a_configuration_that_cannot_be_trained(place, capsys, changes, status, words):
    place.fails(capsys, "--config", place.config(changes), status=status, words=words)
    assert not (place.folder / "data" / "saved").exists()


def test_a_checkpoint_of_another_architecture(place, capsys):
    run = place.train("--config", place.config({"trainer.epochs": 1}))
    kept = {path.name: path.read_bytes() for path in run.models.iterdir()}
    both = place.config(base=CE)
    words = [f"{run.last} does not fit ", "tiny.json: the weights belong to another architecture"]
    words += ["missing: pooling.vggsound.clusters", "config.json"]
    place.fails(capsys, "--config", both, "--resume", run.last, words=words)
    assert {path.name: path.read_bytes() for path in run.models.iterdir()} == kept


def test_a_checkpoint_that_is_none(place, capsys):
    config, path = place.config(), place.folder / "none.pth"
    for flags, status in (([], 1), (["--finetune"], 2)):
        flags = ["--config", config, *flags, "--resume", path]
        place.fails(capsys, *flags, status=status, words=[path])
    path.write_text("not a checkpoint")
    for finetune in ([], ["--finetune"]):
        flags = ["--config", config, *finetune, "--resume", path]
        place.fails(capsys, *flags, words=[path])


def test_a_run_is_trained_by_one_process_at_a_time(place, capsys):
    config = place.config({"trainer.epochs": 1})
    run = place.train("--config", config)
    held = open_run("data/saved", run.last, 0)[0]
    with held.locked():
        flags = ("--config", config, "--resume", run.last)
        place.fails(capsys, *flags, status=2, words=["another process"])
        assert place.call(train.main, "--config", config, "--purge_exp_dir") == 0
    assert run.last.exists()


def second_is_nan(made):
    made.experts["audio"]["clip003_3000"][1, 5] = float("nan")
    write_features(made.files["audio"], made.experts["audio"])


def one_clip(made):
    write_list(made.files["train list"], made.clips["train"][:1])


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (second_is_nan, ["audio", "clip003_3000", "NaN"]),
        (one_clip, ["train_list.txt", "batch", "two"]),
    ],
)
def test_data_that_cannot_be_trained_on(tmp_path, capsys, spoil, words):
    sizes = {"train": 6, "val": 3, "test": 3}
    made = write_dataset(tmp_path / "CLOTHO", "CLOTHO", sizes=sizes, experts=("audio",))
    spoil(made)
    (tmp_path / "place").mkdir()
    place = Place(tmp_path / "place", made)
    place.fails(capsys, "--config", place.config(), words=words)
    assert not (place.folder / "data" / "saved").exists()


# Failing on the way


def test_a_loss_that_is_no_number_stops_the_run(place, capsys):
    config = place.config({"optimizer.args.lr": 1e30, "optimizer.type": "Adam"})
    message = place.fails(capsys, "--config", config, words=["step", "epoch"])
    assert "nan" in message
    run = place.newest()
    assert not (run.log / "results.json").exists()
    assert not (run.models / "result.json").exists()
    assert message.splitlines()[-1].removeprefix("error: ") in (run.log / "info.log").read_text()


def test_a_failing_seed_is_named_and_the_others_are_trained(place, capsys, monkeypatch):
    from utils.errors import ProjectError

    evaluate = trainer.job.evaluate

    def fail_once(model, data, **options):
        if torch.initial_seed() == 1:
            raise ProjectError("no luck")
        return evaluate(model, data, **options)

    monkeypatch.setattr(trainer.job, "evaluate", fail_once)
    config = place.config({"trainer.epochs": 1})
    words = ["1 of 3 seeds failed", "seed 1: no luck"]
    place.fails(capsys, "--config", config, "--seeds", "0,1,2", words=words)
    run = place.newest()
    assert (run.models / "seed-2" / "result.json").exists()
    assert not (run.log / "results.json").exists()
    monkeypatch.undo()
    place.train("--config", config, "--seeds", "0,1,2", "--resume", "auto")
    assert set(run.results["seeds"]) == {"0", "1", "2"}


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
def test_help_is_there_without_torch_and_without_docstrings(script):
    probe = (
        "import runpy, sys; sys.argv = [sys.argv[1], '--help']\n"
        "try: runpy.run_path(sys.argv[0], run_name='__main__')\n"
        "finally: assert not {'torch', 'numpy'} & set(sys.modules)"
    )
    done = subprocess.run(
        [sys.executable, "-OO", "-c", probe, str(ROOT / script)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")
    assert "--resume" in done.stdout


def test_without_a_terminal_at_all(place, monkeypatch):
    """pythonw and some services have no standard streams."""
    config = place.config({"trainer.epochs": 1})
    monkeypatch.setattr(sys, "stderr", None)
    place.train("--config", config)
    assert place.call(train.main, "--config", "nowhere.json") == 2


@pytest.mark.parametrize("way", ["--resume", "--finetune"])
def test_features_of_another_extractor_are_refused(place, way, capsys):
    run = place.train("--config", place.config({"trainer.epochs": 1}))
    write_run_records(run.models, {"audio": ExtractionRecord("vggish", 1)})
    features = place.data.files["audio"]
    write_record(features, ExtractionRecord("vggish", 2))
    try:
        flags = ["--finetune", "--resume"] if way == "--finetune" else ["--resume"]
        config = place.config({"trainer.epochs": 2})
        assert place.call(train.main, "--config", config, *flags, run.last) == 1
        assert place.call(evaluation.main, "--resume", run.models) == 1
    finally:
        record_path(features).unlink()
    assert capsys.readouterr().err.count("vggish version 2") == 2


def test_the_curves_of_a_continued_training_go_on(place, monkeypatch):
    firsts = []

    def spy(folder, first_epoch):
        firsts.append(first_epoch)
        return curves(folder, first_epoch)

    monkeypatch.setattr(trainer.job, "curves", spy)
    run = place.train("--config", place.config({"trainer.epochs": 2}))
    more = ("--custom_args", "trainer.epochs@3")
    assert place.call(train.main, "--resume", run.last, *more) == 0
    assert firsts == [1, 2]
