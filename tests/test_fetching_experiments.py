"""The registry of published experiments, and fetching their runs from a real server."""

import re
from pathlib import Path

import pytest
import torch

from file_server import FileServer
from results.documents import render_names
from utils.errors import DownloadError, UsageError
from utils.fetching import download
from utils.fetching.experiments import (
    CHECKPOINT,
    JOINED,
    PROTOCOLS,
    RUN_CONFIG,
    Source,
    experiment_name,
    find_experiment,
    load_experiments,
    registry,
    sync_command,
)

ROOT = Path(__file__).resolve().parent.parent
NAME = "clotho-train-vggish-vggsound"
METRICS = {"R1", "R5", "R10", "R50", "MedR", "MeanR", "geom"}


@pytest.fixture
def server(tmp_path, monkeypatch):
    monkeypatch.setattr(download, "POLICY", download.Policy(tries=3, first_delay=0.0))
    torch.save({"epoch": 3, "state_dict": {"x": torch.arange(5.0)}}, tmp_path / "made.pth")
    experiment = find_experiment(NAME)
    with FileServer() as running:
        for seed in experiment.runs:
            place = experiment.url(seed, "")
            running.files[f"{place}/{CHECKPOINT}"] = (tmp_path / "made.pth").read_bytes()
            running.files[f"{place}/{RUN_CONFIG}"] = b'{"seed": 0}'
        yield running


def fetch(server, tmp_path, seed=0):
    return Source(server.root, tmp_path / "data").fetch(find_experiment(NAME), seed)


def test_the_registry_holds_the_published_facts():
    experiments = load_experiments()
    assert sum(e.published is not None for e in experiments.values()) == 20 + 28
    first = experiments["audiocaps-train-vggish-vggsound"]
    assert first.group == "7e2eda12"
    assert first.runs[1] == "2021-06-09_17-15-12"
    assert first.published["v2t"]["geom"] == [47.2, 1.1]
    assert (first.dataset, first.parameters) == ("AudioCaps", 21_864_536)


def test_the_second_paper_replaces_no_row_of_the_first():
    experiments = load_experiments().values()
    first = [e.key for e in experiments if e.paper == "2021"]
    assert first == [e.name for e in experiments if e.paper == "2021"]
    second = {e.key: e for e in experiments if e.paper == "2022"}
    assert (len(first), len(second), list(registry()["papers"])) == (24, 28, ["2021", "2022"])
    for key, value in {
        "audiocaps-train-vggish-vggsound@78bc4be0": [23.6, 0.6],
        "sounddescs-train-vggish-vggsound": [31.1, 0.2],
        # its README prints another run's 23.3
        "audiocaps-train-vggish-vggsound-finetuned-from-sd": [24.6, 0.1],
    }.items():
        assert second[key].published["t2v"]["R1"] == value
    mmt = second["clotho-train-vggish-vggsound-mmt"]
    assert (mmt.group, mmt.files, mmt.protocol) == (None, (CHECKPOINT,), JOINED)
    assert mmt.row == "MMT - VGGish + VGGSound (2022, captions joined)"
    assert mmt.url(2, "http://x/") == f"http://x/models/{mmt.name}/seed-2"
    assert mmt.config_file(2, Path("data")) == ROOT / "configs/clotho/train-mmt.json"


def test_group_or_paper_choose_between_rows_of_a_name():
    name = "audiocaps-train-vggish-vggsound"
    assert find_experiment(name).paper == "2021"
    assert find_experiment(f"{name}@7e2eda12") == find_experiment(name)
    assert find_experiment(f"{name}@78bc4be0").paper == "2022"
    assert find_experiment(f"{name}@2022") == find_experiment(f"{name}@78bc4be0")
    with pytest.raises(UsageError, match=f"did you mean '{name}@78bc4be0'"):
        find_experiment(f"{name}@78bc4be1")
    same_files = "activity-net-train-full-ce-audio-only"
    first, second = find_experiment(same_files), find_experiment(f"{same_files}@2022")
    assert first.folder(0, Path("data")) == second.folder(0, Path("data"))
    assert find_experiment(f"{same_files}@{first.group}") == first
    assert first.published["t2v"]["R1"] != second.published["t2v"]["R1"]


@pytest.mark.parametrize("name", load_experiments())
def test_each_experiment_is_complete(name):
    experiment = load_experiments()[name]
    assert list(experiment.runs) == [0, 1, 2]
    # these become part of a path and of an address
    assert re.fullmatch(r"[A-Za-z0-9]([A-Za-z0-9_-]|\.(?!\.))*", experiment.name)
    assert re.fullmatch(r"[a-z0-9]+|None", str(experiment.group))
    times = [time for time in experiment.runs.values() if experiment.group]
    assert all(re.fullmatch(r"\d{4}-\d\d-\d\d_\d\d-\d\d-\d\d", time) for time in times)
    assert experiment.protocol in PROTOCOLS
    assert name.partition("@")[0] == experiment.name
    if experiment.group:
        assert experiment.name == experiment_name(experiment.config)
    assert experiment.dataset in registry()["datasets"]
    for task in experiment.published or ():
        assert set(experiment.published[task]) == METRICS
        for mean, std in experiment.published[task].values():
            assert mean > 0
            assert 0 <= std < mean


def test_every_config_of_a_published_data_set_is_an_experiment_or_marked_as_none():
    published = {experiment.config for experiment in load_experiments().values()}
    found = [
        path.relative_to(ROOT).as_posix()
        for folder in registry()["datasets"].values()
        for path in (ROOT / folder["configs"]).glob("train-*.json")
    ]
    assert sorted(found) == sorted([*published, *registry()["unpublished"]])


def test_the_page_of_names_is_what_the_script_writes():
    page = (ROOT / "misc" / "exps-names.md").read_text(encoding="utf-8")
    assert page == render_names(), "write it anew: python misc/tables.py --documents"


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("audiocaps-train-vggish-vgsound", "did you mean 'audiocaps-train-vggish-vggsound'"),
        ("queryd-train-full-ce-only-audio", "no published run.*train.py --config configs/queryd"),
        ("../../etc/passwd", "unknown experiment"),
        ("a; rm -rf x", "unknown experiment"),
        ("clotho-train-vggish-vggsound ", "unknown experiment"),
        ("", "unknown experiment"),
        ("x" * 100_000, "unknown experiment"),
    ],
)
def test_unknown_experiments_get_the_nearest_name(name, expected):
    with pytest.raises(UsageError, match=expected) as caught:
        find_experiment(name)
    assert len(str(caught.value)) < 500


def test_a_run_lands_in_its_place_and_is_fetched_once(server, tmp_path):
    folder = fetch(server, tmp_path)
    place = f"models/{NAME}/dec0c820/seed-0/2021-06-10_14-45-51"
    assert folder == tmp_path / "data/saved" / place
    assert (folder / RUN_CONFIG).read_text() == '{"seed": 0}'
    assert torch.load(folder / CHECKPOINT, weights_only=True)["epoch"] == 3
    assert [r.path for r in server.requests] == [
        f"/{place}/config.json",
        f"/{place}/trained_model.pth",
    ]
    assert fetch(server, tmp_path) == folder
    assert len(server.requests) == 2


def test_an_unpublished_seed_is_named(server, tmp_path):
    with pytest.raises(UsageError, match="no published run of seed 7; there are: 0, 1, 2"):
        fetch(server, tmp_path, 7)


@pytest.mark.parametrize("file", [CHECKPOINT, RUN_CONFIG])
@pytest.mark.parametrize("content", [b"<!doctype html><title>moved</title>", b"\x89PNG", b""])
def test_files_that_cannot_be_read_get_no_final_name(server, tmp_path, file, content):
    experiment = find_experiment(NAME)
    path = f"{experiment.url(1, '')}/{file}"
    server.files[path] = content
    with pytest.raises(DownloadError, match=re.escape(path)):
        fetch(server, tmp_path, 1)
    assert not (experiment.folder(1, tmp_path / "data") / file).exists()


def test_seeds_are_here_with_all_their_files(server, tmp_path):
    experiment = find_experiment(NAME)
    assert experiment.seeds_here(tmp_path / "data") == []
    fetch(server, tmp_path, 2)
    (fetch(server, tmp_path, 1) / CHECKPOINT).unlink()
    assert experiment.seeds_here(tmp_path / "data") == [2]


def test_the_command_for_features_names_the_place():
    assert sync_command("CLOTHO") == "python misc/sync_experts.py --dataset CLOTHO"
    assert sync_command("CLOTHO", Path("/a b")).endswith("--data_dir '/a b'")
    mirror = sync_command("CLOTHO", root_url="http://mirror/a")
    assert mirror.endswith("--dataset CLOTHO --root_url http://mirror/a")
