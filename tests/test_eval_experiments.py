"""Published experiments from fetching to the table, and fine-tuning from them, by whole commands.

A server on this machine has all of them: released-style files of small models with random weights.
"""

import contextlib
import io
import json
import re
import shutil
import socket
import sys
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urlsplit

import numpy as np
import pytest
import requests
import torch

import eval as evaluation
import train
from file_server import FileServer
from model import build_model
from released import STEPS, released_config, write_released
from results import scoring
from results.published import summarise
from small_runs import Finished, working_in
from synthetic import write_dataset
from trainer.checkpoint import load_checkpoint
from utils.config import load_config
from utils.fetching.experiments import (
    CHECKPOINT,
    JOINED,
    RUN_CONFIG,
    Experiment,
    find_experiment,
    load_experiments,
)

EXPERIMENTS = load_experiments()
PUBLISHED = [name for name, experiment in EXPERIMENTS.items() if experiment.published]
UNPUBLISHED = [name for name in EXPERIMENTS if name not in PUBLISHED]
CE, MOEE = "clotho-train-vggish-vggsound", "clotho-train-vggish-vggsound-moee"
AUDIO = "clotho-train-full-ce-only-audio"
MMT = "clotho-train-vggish-vggsound-mmt"
VOCABULARY = "bert-base-cased/vocab.txt"
PIECES = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *"abcdefghijklmnopqrstuvwxyz"]
TINY = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2,
        "intermediate_size": 8}  # fmt: skip
SHARED_DIM = 8
CLUSTERS = {"text": 1, "audio": 2, "vggsound": 1}
FILE_RATE = 0.00377  # learning rate in the published files
BATCHES = 2  # of an epoch of fine-tuning
VISUAL = ("imagenet.resnext101_32x48d.0", "r2p1d.r2p1d-ig65m.0", "scene.densenet161.0")
DATA = {
    "AudioCaps": ("AudioCaps", ("audio", "vggsound", *VISUAL)),
    "CLOTHO": ("CLOTHO", ("audio", "vggsound")),
    "SoundDescs": ("SoundDescs", ("audio", "vggsound")),
    "QuerYDSegments": ("QuerYDSegments", ("audio",)),
    "activity-net": ("ActivityNet", ("audio",)),
}
RESULTS = {"config", "split", "protocol", "trainable_parameters", "data", "versions", "device"}
RESULTS |= {"wall_seconds", "seeds", "summary"}


@pytest.fixture(autouse=True, scope="module")
def small_mmt(tmp_path_factory):
    """Published checkpoints of MMT come without a config: ours, of small widths here."""
    folder, own = tmp_path_factory.mktemp("mmt"), Experiment.config_file

    def config_file(experiment, seed, data_dir):
        file = own(experiment, seed, data_dir)
        if experiment.group:
            return file
        assert (file.is_absolute(), file.name) == (True, "train-mmt.json")
        args = {"same_dim": 16, "vid_bert_params": TINY, "txt_bert_params": TINY}
        small = folder / f"{experiment.name}.json"
        content = {"inherit_from": experiment.config, "arch": {"args": args}}
        small.write_text(json.dumps(content))
        return small

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Experiment, "config_file", config_file)
        yield


def write_vocabulary(data_dir):
    (data_dir / VOCABULARY).parent.mkdir()
    (data_dir / VOCABULARY).write_text("".join(f"{piece}\n" for piece in PIECES))


@pytest.fixture(scope="module")
def data_sets(tmp_path_factory):
    """The four published data sets, with a handful of clips each."""
    folder = tmp_path_factory.mktemp("features")
    for number, (name, (layout, experts)) in enumerate(DATA.items()):
        write_dataset(folder / name, layout, experts=experts, seed=number)
    return folder


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """Every seed of every experiment where it is published."""
    file = tmp_path_factory.mktemp("made") / CHECKPOINT
    write_vocabulary(file.parent)
    with FileServer() as running:
        for number, experiment in enumerate(EXPERIMENTS.values()):
            if experiment.group:
                config = released_config(experiment, ce_shared_dim=SHARED_DIM, clusters=CLUSTERS)
                file.with_name(RUN_CONFIG).write_text(json.dumps(config, indent=4))
                settings = load_config(file.with_name(RUN_CONFIG))
            else:
                small = {"arch.args.txt_bert_weights": None}
                own = experiment.config_file(0, file.parent)
                settings = load_config(own, small, data_dir=file.parent)
                config = settings.raw
            is_start = experiment.name.startswith("audiocaps-train-vggish-vggsound")
            for seed in experiment.runs:
                torch.manual_seed(10 * number + seed)
                weights = build_model(settings).published_state_dict()
                rate = FILE_RATE if is_start else None
                write_released(file, weights, config=config, seed=seed, learning_rate=rate)
                for name in experiment.files:
                    content = file.with_name(name).read_bytes()
                    running.files[path_of(experiment.key, seed, name)] = content
        yield running


def path_of(name, seed, file=CHECKPOINT):
    """Return the path of a published file on the server."""
    return urlsplit(f"{EXPERIMENTS[name].url(seed, 'http://here')}/{file}").path


@dataclass
class Called:
    """What a command did."""

    status: int
    out: str
    err: str
    requests: list[str]  # paths asked for
    opened: list[str] = field(default_factory=list)  # data sets


@dataclass
class Home:
    """A folder to call commands from, with features at data/."""

    folder: Path
    server: FileServer

    @property
    def data(self):
        return self.folder / "data"

    def call(self, main, *flags):
        """Call a command of ours; return what it did."""
        out, err, before = io.StringIO(), io.StringIO(), len(self.server.requests)
        opened = []

        def build_dataset(config, split):
            opened.append(config.data.dataset_name)
            return build(config, split)

        with (
            working_in(self.folder),
            pytest.MonkeyPatch.context() as patch,
            contextlib.redirect_stdout(out),
            contextlib.redirect_stderr(err),
        ):
            build = scoring.build_dataset
            patch.setattr(scoring, "build_dataset", build_dataset)
            status = main([str(flag) for flag in flags])
        assert "Traceback" not in err.getvalue()
        asked = [request.path for request in self.server.requests[before:]]
        return Called(status, out.getvalue(), err.getvalue(), asked, opened)

    def evaluate(self, *flags):
        return self.call(evaluation.main, "--root_url", self.server.root, *flags)

    def results(self, name):
        """Return the newest results.json of an experiment, and the folder of it."""
        folder = max((self.data / "saved/eval" / name).iterdir(), key=lambda p: p.stat().st_mtime)
        return json.loads((folder / "results.json").read_text()), folder


def make_home(folder, data_sets, server, names=DATA):
    (folder / "data").mkdir()
    for name in names:
        (folder / "data" / name).symlink_to(data_sets / name)
    return Home(folder, server)


@pytest.fixture(scope="module")
def home(tmp_path_factory, data_sets, server):
    made = make_home(tmp_path_factory.mktemp("home"), data_sets, server)
    write_vocabulary(made.data)
    return made


@pytest.fixture(scope="module")
def first(home):
    """The first `python eval.py`."""
    return home.evaluate()


@pytest.fixture
def clotho(tmp_path, data_sets, server):
    """Another folder, with one data set and nothing fetched yet."""
    return make_home(tmp_path, data_sets, server, ["CLOTHO"])


# All experiments


def test_all_experiments_are_fetched_and_scored(first, server):
    assert first.status == 0, first.err
    assert sorted(first.requests) == sorted(server.files)
    # five rows of the second paper are of checkpoints of the first, three have no config
    assert len(first.requests) == (24 + 28 - 5) * 3 * 2 - 3 * 3


def test_data_is_opened_once_for_all_seeds(first):
    expected = [EXPERIMENTS[name].dataset for name in EXPERIMENTS]
    assert [{"ActivityNet": "activity-net"}.get(n, n) for n in first.opened] == expected


def test_the_table_has_every_experiment_with_its_published_row(first):
    for title in ("text-to-audio (t2v)", "audio-to-text (v2t)"):
        block = first.out.split(title)[1].split("\n\n")[0]
        head, *rows = block.strip().splitlines()
        assert head.split() == ["R@1", "R@5", "R@10", "R@50", "MdR", "MnR", "Geom", "params"]
        task = "t2v" if "t2v" in title else "v2t"
        for name, experiment in EXPERIMENTS.items():
            (at,) = [i for i, row in enumerate(rows) if row.startswith(f"{name}, 3 seeds ")]
            here = re.findall(r"(\d+\.\d) \((\d+\.\d)\)", rows[at])
            assert len(here) == 7
            if name in UNPUBLISHED:
                assert at + 1 == len(rows) or re.match(r"\S+, 3 seeds", rows[at + 1])
                continue
            assert rows[at + 1].strip().startswith(f"published: {experiment.label} ")
            published = re.findall(r"(\d+\.\d) \((\d+\.\d)\)", rows[at + 1])
            assert published == [
                (f"{mean:.1f}", f"{std:.1f}") for mean, std in experiment.published[task].values()
            ]
            differences = re.findall(r"[+-]\d+\.\d(?!\d)", rows[at + 2])
            for ours, theirs, difference in zip(here, published, differences, strict=True):
                apart = float(ours[0]) - float(theirs[0])
                assert float(difference) == pytest.approx(apart, abs=0.1001)
            assert f"{experiment.parameters:,}" in rows[at + 1]


def test_the_verdict_names_what_lies_outside(first):
    lines = first.out.split("\n\n")[-1].splitlines()
    outside = [line for line in lines if line.startswith("OUTSIDE two published deviations: ")]
    named = {line.split(": ")[1] for line in outside}
    assert named == {f"{name} {task}" for name in PUBLISHED for task in ("t2v", "v2t")}
    assert sum(line.startswith("OTHER SIZE: ") for line in lines) == 52
    assert f"Without a published row: {', '.join(UNPUBLISHED)}" in lines
    assert len(UNPUBLISHED) == 4
    (joined,) = [line for line in lines if line.startswith(f"Queries, {JOINED}: ")]
    assert joined.split(": ")[1].split(", ") == [
        key for key, experiment in EXPERIMENTS.items() if experiment.protocol == JOINED
    ]


def test_results_of_an_experiment_are_written(first, home):
    results, folder = home.results(CE)
    assert set(results) >= RESULTS
    assert (results["split"], results["protocol"]["captions_per_clip"]) == ("test", 5)
    weights = load_checkpoint(EXPERIMENTS[CE].folder(1, home.data) / CHECKPOINT).state_dict
    moved = ("running_mean", "running_var", "num_batches_tracked")
    trained = [value.numel() for name, value in weights.items() if not name.endswith(moved)]
    assert results["trainable_parameters"] == sum(trained)
    assert set(results["seeds"]) == {"0", "1", "2"}
    assert results["summary"] == summarise(results["seeds"])
    assert {seed["best_epoch"] for seed in results["seeds"].values()} == {7}
    (comparison,) = json.loads((folder / "summary.json").read_text())
    here = comparison["tasks"]["t2v"]["R1"]
    assert here["mean"] == results["summary"]["t2v_metrics"]["R1"]["mean"]
    assert here["published"] == {"mean": 6.7, "std": 0.4}
    assert "published: CE - VGGish + VGGSound" in (folder / "summary.md").read_text()


def test_the_summary_of_all_is_written(first, home):
    (folder,) = (home.data / "saved/eval/all").iterdir()
    everything = json.loads((folder / "summary.json").read_text())
    assert [comparison["experiment"] for comparison in everything] == list(EXPERIMENTS)
    assert all(comparison["seeds"] == ["0", "1", "2"] for comparison in everything)
    activity_net, _ = home.results("activity-net-train-full-ce-audio-only")
    assert activity_net["split"] == "val1"
    assert activity_net["protocol"]["fused"]
    assert (folder / "summary.md").read_text().count("published: ") == 2 * 48


def test_a_second_run_downloads_nothing_and_says_the_same(first, home):
    again = home.evaluate("--format", "json")
    assert (again.status, again.requests) == (0, [])
    table = json.loads(again.out)
    assert [comparison["experiment"] for comparison in table] == list(EXPERIMENTS)
    for comparison in table:
        for task, cells in comparison["tasks"].items():
            block = first.out.split(f"({task})")[1]
            row = block.split(f"\n{comparison['experiment']}, 3 seeds ")[1].splitlines()[0]
            means = [f"{cell['mean']:.1f} ({cell['std']:.1f})" for cell in cells.values()]
            parameters = f"{comparison['parameters']:,}"
            row = row.strip().removeprefix(f"({JOINED})").strip()
            assert re.split(r"\s\s+", row) == [*means, parameters]
            has_row = comparison["experiment"] in PUBLISHED
            assert all(("difference" in cell) == has_row for cell in cells.values())


def test_seeds_that_cannot_be_had_are_named_and_all_others_scored(first, home, server, monkeypatch):
    missing, damaged = (path_of(AUDIO, 1), path_of(MOEE, 2))
    monkeypatch.delitem(server.files, missing)
    monkeypatch.setitem(server.files, damaged, server.files[damaged][:-3000])
    for name, seed in ((AUDIO, 1), (MOEE, 2)):
        forget(EXPERIMENTS[name].folder(seed, home.data) / CHECKPOINT)
    called = home.evaluate("--format", "markdown")
    assert called.status == 1
    failures = called.err.split("error: ")[-1]
    assert f"{AUDIO} seed 1: could not fetch {server.url(missing)}" in failures
    assert "status 404" in failures
    assert f"{MOEE} seed 2: {server.url(damaged)}" in failures
    touched = {name: f"{name}@2022" for name in (AUDIO, MOEE)}  # rows of the same files
    assert failures.count(" seed ") == 4
    assert all(f"{other} seed " in failures for other in touched.values())
    _, t2v, v2t = called.out.split("### ")
    rules = [line for line in t2v.splitlines() if line.startswith("|")]
    assert {line.count("|") for line in rules} == {10}
    for name, experiment in EXPERIMENTS.items():
        seeds = 2 if name in {*touched, *touched.values()} else 3
        joined = f" ({JOINED})" if experiment.protocol == JOINED else ""
        row = f"| {name.replace('_', chr(92) + '_')}, {seeds} seeds{joined} |"
        assert row in t2v
        assert row in v2t
    results, _ = home.results(AUDIO)
    assert set(results["seeds"]) == {"0", "2"}
    assert results["failed"][0].startswith(f"{AUDIO} seed 1: ")
    for name, seed in ((AUDIO, 1), (MOEE, 2)):
        assert not (EXPERIMENTS[name].folder(seed, home.data) / CHECKPOINT).exists()


def forget(file):
    """Remove a fetched file and its manifest."""
    file.unlink()
    file.with_name(f"{file.name}.manifest.json").unlink()


# One experiment


@pytest.mark.parametrize(
    ("asked", "key", "paper", "r1"),
    [
        (CE, CE, "2021", 6.7),
        (f"{AUDIO}@4f58ef05", AUDIO, "2021", 4.0),
        (f"{CE}-finetuned-from-ac", f"{CE}-finetuned-from-ac", "2022", 9.1),
        (f"{CE}@2022", f"{CE}@2022", "2022", 6.7),
    ],
)
def test_the_paper_of_a_row_is_named(clotho, asked, key, paper, r1):
    called = clotho.evaluate("--experiment", asked, "--format", "json")
    assert called.status == 0, called.err
    (row,) = json.loads(called.out)
    assert (row["experiment"], row["paper"], row["queries"]) == (key, paper, "each caption")
    assert row["tasks"]["t2v"]["R1"]["published"]["mean"] == r1
    results, folder = clotho.results(key)
    assert (results["experiment"], results["paper"]) == (key, paper)
    assert f" ({paper}) |" in (folder / "summary.md").read_text()


def test_a_group_chooses_the_row_of_the_second_paper(tmp_path, data_sets, server):
    home = make_home(tmp_path, data_sets, server, ["AudioCaps"])
    name, group = "audiocaps-train-only-vggsound", "1d130268"
    called = home.evaluate("--experiment", f"{name}@{group}")
    assert called.status == 0, called.err
    assert re.search(r"published: CE - VGGSound \(2022\) +22\.4 \(0\.3\) ", called.out)
    assert len(called.requests) == 6
    assert all(f"/models/{name}/{group}/seed-" in path for path in called.requests)


def test_mmt_is_fetched_by_seed_and_its_protocol_named(clotho):
    called = clotho.evaluate("--experiment", MMT)
    assert called.status == 1
    assert f"data/{VOCABULARY} is missing" in called.err
    assert called.requests == []
    write_vocabulary(clotho.data)
    called = clotho.evaluate("--experiment", MMT)
    assert called.status == 0, called.err
    assert [path.split("/models/")[1] for path in called.requests] == [
        f"{MMT}/seed-{seed}/{CHECKPOINT}" for seed in range(3)
    ]
    assert f"{MMT}, 3 seeds ({JOINED})" in called.out
    assert "published: MMT - VGGish + VGGSound (2022, captions joined)" in called.out
    assert f"Note on {MMT}: the five test captions of a clip are one query" in called.out
    results, _ = clotho.results(MMT)
    assert (results["config"], results["paper"]) == (MMT, "2022")
    assert results["protocol"]["queries"] == JOINED
    assert results["protocol"]["fused"]
    assert clotho.evaluate("--experiment", MMT).requests == []


def test_list_shows_what_is_here(clotho):
    before = clotho.call(evaluation.main, "--list")
    assert before.status == 0
    assert len(before.out.splitlines()) == 52
    (clotho.data / "saved").mkdir()
    folder = EXPERIMENTS[CE].folder(2, clotho.data)
    folder.mkdir(parents=True)
    for file in (CHECKPOINT, RUN_CONFIG):
        (folder / file).write_bytes(clotho.server.files[path_of(CE, 2, file)])
    listed = {
        line.split()[0]: line for line in clotho.call(evaluation.main, "--list").out.splitlines()
    }
    assert "seeds here: 2 " in listed[CE]
    assert "features: here" in listed[CE]
    assert "seeds here: none" in listed[MOEE]
    other = listed["audiocaps-train-vggish-vggsound-train_list_10"]
    assert re.search(r"features: [4-9] files missing", other)
    assert "without a published row" in other


TOUCHED = []
LISTENING = []


def listen(event, arguments):
    if LISTENING and (
        event in ("open", "subprocess.Popen") or event.startswith(("os.", "shutil."))
    ):
        TOUCHED.append(str(arguments))


sys.addaudithook(listen)  # hooks cannot be removed: this one sleeps


@pytest.mark.parametrize(
    "name",
    [
        "clotho-train-vggish-vgsound",
        "../../../hostile",
        "hostile/clotho",
        "clotho-train-vggish-vggsound; touch hostile",
        "clotho-train-vggish-vggsound hostile",
        "hostile ",
        "$(hostile)",
    ],
)
def test_a_name_that_is_none_reaches_no_path(clotho, name):
    TOUCHED.clear()
    LISTENING.append(True)
    try:
        called = clotho.evaluate("--experiment", name)
    finally:
        LISTENING.clear()
    assert called.status == 2
    assert f"unknown experiment {name!r}" in called.err
    assert "python eval.py --list" in called.err
    assert called.requests == []
    assert TOUCHED  # the registry was read
    word = "hostile" if "hostile" in name else name
    assert not [path for path in TOUCHED if word in path]
    assert sorted(path.name for path in clotho.data.iterdir()) == ["CLOTHO"]
    if "vgsound" in name:
        assert f"did you mean '{CE}'" in called.err


def test_a_dead_server_is_asked_once_and_named_once(clotho, monkeypatch):
    """It leaves no folders among the runs either, of which the newest would be taken."""
    asked = []
    get = requests.Session.get
    monkeypatch.setattr(
        requests.Session, "get", lambda *args, **more: asked.append(args[1]) or get(*args, **more)
    )
    with socket.socket() as held:  # bound, but nobody listens
        held.bind(("127.0.0.1", 0))
        root_url = f"http://127.0.0.1:{held.getsockname()[1]}"
        called = clotho.call(evaluation.main, "--experiment", CE, "--root_url", root_url)
    assert called.status == 1
    assert len(asked) == 1
    assert called.err.count("could not fetch") == 1
    assert f"{CE} seeds 0, 1, 2: " in called.err
    assert not (clotho.data / "saved").exists()


def test_missing_features_name_the_command_that_fetches_them(clotho, server):
    called = clotho.evaluate("--experiment", "audiocaps-train-vggish-vggsound")
    assert called.status == 1
    told = called.err.split("error: ")[-1]
    assert told.count("python misc/sync_experts.py --dataset AudioCaps --root_url ") == 1
    assert "audiocaps-train-vggish-vggsound: " in told
    assert not (clotho.data / "saved").exists()  # nothing was fetched
    elsewhere = clotho.folder / "other disk"
    called = clotho.evaluate("--experiment", AUDIO, "--data_dir", elsewhere)
    assert f"--dataset CLOTHO --data_dir '{elsewhere}'" in called.err.split("error: ")[-1]


def test_a_checkpoint_that_changed_is_refused(clotho):
    assert clotho.evaluate("--experiment", AUDIO).status == 0
    file = EXPERIMENTS[AUDIO].folder(0, clotho.data) / CHECKPOINT
    other = EXPERIMENTS[AUDIO].folder(1, clotho.data) / CHECKPOINT
    shutil.copy(other, file)  # a good checkpoint, but another one
    called = clotho.evaluate("--experiment", AUDIO)
    assert called.status == 1
    refresh = (
        f"rm {file.relative_to(clotho.folder)} {file.relative_to(clotho.folder)}.manifest.json"
    )
    assert f"{AUDIO} seed 0: " in called.err
    assert "is not the file that was fetched on" in called.err
    assert f"{refresh}, then start again" in called.err
    assert set(clotho.results(AUDIO)[0]["seeds"]) == {"1", "2"}
    forget(file)  # what the message says
    assert clotho.evaluate("--experiment", AUDIO).status == 0


# Training here, and fine-tuning


@dataclass
class Trained:
    home: Home
    runs: dict  # experiment -> Finished


def reduced(home, config, changes=None):
    """Write a config that inherits from a published one, with reduced widths, under its name."""
    content = {
        "inherit_from": config,
        "experts": {"ce_shared_dim": SHARED_DIM},
        "arch": {"args": {"vlad_clusters": CLUSTERS}},
        "data_loader": {"args": {"batch_size": 6}},
        "trainer": {"epochs": 1, "tensorboard": False, **(changes or {})},
    }
    path = home.folder / Path(config).parent.name / Path(config).name
    path.parent.mkdir(exist_ok=True)
    path.write_text(json.dumps(content))
    return path


def trained(home, config, *flags, changes=None, seeds="0,2"):
    """Train a reduced form of a config; return its run."""
    path = reduced(home, config, changes)
    called = home.call(train.main, "--config", path, "--seeds", seeds, *flags)
    assert called.status == 0, called.err
    models = home.data / "saved/models" / load_config(path).name
    run = max(models.glob("*/run.json"), key=lambda p: p.stat().st_mtime).parent
    return Finished(run), called


@pytest.fixture(scope="module")
def tuning(tmp_path_factory, data_sets, server):
    return make_home(tmp_path_factory.mktemp("tuning"), data_sets, server, ["AudioCaps", "CLOTHO"])


@pytest.fixture(scope="module", params=["", "-moee"])
def source(request, tuning):
    """AudioCaps trained here with two seeds, one epoch each."""
    config = f"configs/audiocaps/train-vggish-vggsound{request.param}.json"
    run, _ = trained(tuning, config)
    return request.param, run


def test_a_released_checkpoint_scores_as_the_same_weights_of_ours(tuning, source, tmp_path):
    form, run = source
    ours = run.models / "seed-2" / CHECKPOINT
    experiment = find_experiment(f"audiocaps-train-vggish-vggsound{form}")
    config = released_config(experiment, ce_shared_dim=SHARED_DIM, clusters=CLUSTERS)
    (tmp_path / RUN_CONFIG).write_text(json.dumps(config))
    theirs = tmp_path / CHECKPOINT
    weights = load_checkpoint(ours).state_dict
    write_released(theirs, weights, config=config, learning_rate=FILE_RATE)
    scored = []
    for file in (ours, theirs):
        out = tmp_path / f"{len(scored)}"
        sims = tmp_path / f"{len(scored)}.npy"
        flags = ("--resume", file, "--save_similarities", sims, "--out", out)
        assert tuning.call(evaluation.main, *flags).status == 0
        scored.append((json.loads((out / "results.json").read_text()), np.load(sims)))
    (mine, my_sims), (released, released_sims) = scored
    np.testing.assert_array_equal(my_sims, released_sims)
    assert mine["seeds"]["2"]["t2v_metrics"] == run.results["seeds"]["2"]["t2v_metrics"]
    for task in ("t2v_metrics", "v2t_metrics"):
        assert mine["summary"][task] == released["summary"][task]
    for key in ("split", "protocol", "trainable_parameters", "data"):
        assert mine[key] == released[key]


def test_fine_tuning_goes_on_from_the_local_run_seed_by_seed(tuning, source):
    form, local = source
    run, called = trained(tuning, f"configs/clotho/train-vggish-vggsound{form}-finetuned.json")
    assert called.requests == []
    starts = {seed: load_checkpoint(local.models / f"seed-{seed}" / CHECKPOINT) for seed in (0, 2)}
    assert_continued(run, starts, steps=step_of(starts[0].optimizer) + BATCHES)
    (rate,) = {record["learning_rate"] for record in run.metrics}
    assert rate == pytest.approx(0.01 * 0.95)  # one epoch later
    for seed, start in starts.items():
        torch.manual_seed(seed)  # a start of that seed lies near its fresh weights
        fresh = build_model(load_config(run.models / RUN_CONFIG)).published_state_dict()
        last = load_checkpoint(run.models / f"seed-{seed}" / "last.pth").state_dict
        assert distance(last, start.state_dict) < distance(last, fresh)
        here = f"data/{start.path.relative_to(tuning.data)}"
        assert f"starting from the weights of {here}" in (run.log / "info.log").read_text()


@pytest.mark.parametrize("form", ["", "-moee"])
def test_fine_tuning_from_fetched_checkpoints(clotho, form, server):
    config = f"configs/clotho/train-vggish-vggsound{form}-finetuned.json"
    name = f"audiocaps-train-vggish-vggsound{form}"
    run, called = trained(clotho, config, "--root_url", server.root)
    files = [path_of(name, seed, file) for seed in (0, 2) for file in (RUN_CONFIG, CHECKPOINT)]
    assert called.requests == files
    folders = {seed: EXPERIMENTS[name].folder(seed, clotho.data) for seed in (0, 2)}
    starts = {seed: load_checkpoint(folder / CHECKPOINT) for seed, folder in folders.items()}
    assert_continued(run, starts, steps=STEPS + BATCHES)
    assert {record["learning_rate"] for record in run.metrics} == {FILE_RATE}

    changes = {"finetune_optimizer": False}
    fresh, called = trained(clotho, config, changes=changes, seeds="2")
    assert called.requests == []
    assert {record["learning_rate"] for record in fresh.metrics} == {0.01}
    assert step_of(load_checkpoint(fresh.last).optimizer) == BATCHES


def test_a_start_that_cannot_be_fetched_leaves_no_run(clotho, server):
    path = reduced(clotho, "configs/clotho/train-vggish-vggsound-finetuned.json")
    flags = ("--config", path, "--root_url", server.url("/moved"))
    called = clotho.call(train.main, *flags)
    assert called.status == 1
    assert f"could not fetch {server.url('/moved/models/audiocaps-train-vggish-vggsound/')}" in (
        called.err
    )
    assert "--root_url" in called.err
    assert not list(clotho.data.rglob("run.json"))


def assert_continued(run, starts, *, steps):
    """Check that each seed moved its own start's weights a little, with its optimiser."""
    for seed in starts:
        last = load_checkpoint(run.models / f"seed-{seed}" / "last.pth")
        assert step_of(last.optimizer) == steps
        apart = {
            other: distance(last.state_dict, start.state_dict) for other, start in starts.items()
        }
        assert 0 < apart[seed] < 0.5 * min(apart[other] for other in starts if other != seed)


def distance(weights, others):
    """Return how far the clusters of two models are apart."""
    clusters = [name for name in weights if name.endswith("clusters2")]
    return sum(float((weights[name] - others[name]).norm()) for name in clusters)


def step_of(optimizer):
    (step,) = {int(entry["step"]) for entry in optimizer["state"].values()}
    return step
