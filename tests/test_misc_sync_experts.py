"""misc/sync_experts.py as a command, against a real server that serves generated archives."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

from data_loader.sounddescs import SoundDescs
from file_server import Faults, FileServer, make_archive
from misc.sync_experts import main
from utils.fetching import download
from utils.fetching.download import Policy

ROOT = Path(__file__).resolve().parent.parent
AUDIO = "structured-symlinks/aggregated_audio/vggish-raw.hickle"
NOTHING_INSIDE = (
    "holds no file below data/CLOTHO/"
    if sys.version_info >= (3, 11)
    else "damaged, incomplete"  # Python 3.10 cannot stream an archive of nothing
)


def feature_files(dataset):
    return {
        f"data/{dataset}/structured-symlinks/train_list.txt": b"clip\n",
        f"data/{dataset}/{AUDIO}": dataset.encode() * 20_000,
    }


def address(dataset):
    return f"/mirror/features-v2/{dataset}-experts-audio-only.tar.gz"


@pytest.fixture
def server(monkeypatch):
    monkeypatch.setattr(download, "POLICY", Policy(tries=3, first_delay=0))
    with FileServer() as running:
        for dataset in ("AudioCaps", "CLOTHO", "activity-net", "QuerYD", "QuerYDSegments"):
            running.files[address(dataset)] = make_archive(feature_files(dataset))
        yield running


@pytest.fixture
def sync(server, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)

    def run(*arguments, root=None):
        return main(["--root_url", root or server.url("/mirror"), "--dataset", *arguments])

    return run


def archive_of(dataset):
    return Path(f"data/{dataset}/{dataset}-experts-audio-only.tar.gz")


def test_a_data_set_is_fetched_verified_and_unpacked(server, sync, capsys):
    assert sync("CLOTHO") == 0
    assert Path("data/CLOTHO", AUDIO).read_bytes() == b"CLOTHO" * 20_000
    manifest = json.loads(Path(f"{archive_of('CLOTHO')}.manifest.json").read_text())
    assert manifest["sha256"] == hashlib.sha256(server.files[address("CLOTHO")]).hexdigest()
    assert (
        "2 files (120,005 bytes) verified, 2 unpacked, archive fetched" in capsys.readouterr().out
    )


def test_several_at_once_and_a_second_run_that_fetches_nothing(server, sync, capsys):
    names = ("AudioCaps", "CLOTHO", "activity-net", "QuerYD", "QuerYDSegments", "CLOTHO")
    assert sync(*names) == 0
    assert len(server.requests) == 5
    assert all(Path("data", name, AUDIO).is_file() for name in names)
    capsys.readouterr()
    assert sync(*names) == 0
    assert len(server.requests) == 5
    assert capsys.readouterr().out.count("verified, 0 unpacked, nothing fetched") == 5


def test_data_may_be_a_link_or_elsewhere(sync, tmp_path):
    (tmp_path / "large").mkdir()
    Path("data").symlink_to("large")
    assert sync("CLOTHO") == 0
    assert (tmp_path / "large/CLOTHO" / AUDIO).is_file()
    assert sync("QuerYD", "--data_dir", str(tmp_path / "other")) == 0
    assert (tmp_path / "other/QuerYD" / AUDIO).is_file()


def test_purging_keeps_what_is_needed_to_verify(server, sync, capsys):
    assert sync("CLOTHO", "--purge_tar_file") == 0
    assert not archive_of("CLOTHO").exists()
    assert sync("CLOTHO") == 0
    assert "2 files (120,005 bytes) verified, nothing fetched" in capsys.readouterr().out
    assert len(server.requests) == 1
    Path("data/CLOTHO", AUDIO).write_bytes(b"damaged")
    assert sync("CLOTHO") == 0
    assert len(server.requests) == 2
    assert Path("data/CLOTHO", AUDIO).read_bytes() == b"CLOTHO" * 20_000


def test_an_archive_is_not_purged_before_all_is_verified(sync, capsys, monkeypatch):
    monkeypatch.setattr("misc.sync_experts.verify_unpacked", lambda *_: None)
    assert sync("CLOTHO", "--purge_tar_file") == 1
    assert archive_of("CLOTHO").exists()
    assert "stays" in capsys.readouterr().err


def test_a_damaged_feature_file_is_repaired_from_the_archive(server, sync):
    sync("CLOTHO")
    Path("data/CLOTHO", AUDIO).write_bytes(b"CLOTHX" * 20_000)
    assert sync("CLOTHO") == 0
    assert Path("data/CLOTHO", AUDIO).read_bytes() == b"CLOTHO" * 20_000
    assert len(server.requests) == 1


def test_refresh_unpacks_again_and_takes_a_changed_archive(server, sync, capsys):
    sync("CLOTHO")
    inode = Path("data/CLOTHO", AUDIO).stat().st_ino
    assert sync("CLOTHO", "--refresh_symlinked_feats") == 0
    assert Path("data/CLOTHO", AUDIO).stat().st_ino != inode
    assert len(server.requests) == 1
    archive_of("CLOTHO").write_bytes(b"damaged")
    assert sync("CLOTHO") == 1
    message = capsys.readouterr().err
    assert "is not the file that was fetched on" in message
    assert "--dataset CLOTHO" in message
    assert "--refresh_symlinked_feats" in message
    assert sync("CLOTHO", "--refresh_symlinked_feats") == 0
    assert len(server.requests) == 2


def test_older_archives_are_verified_by_their_published_sha1(server, sync, capsys):
    place = "/mirror/features-v2/QuerYD-experts.tar.gz"
    server.files[place] = make_archive(feature_files("QuerYD"))
    assert sync("QuerYD", "--older_archive") == 1
    message = capsys.readouterr().err
    assert "expected the published sha1 0207ea85eeb52a4f50b06a31af28484afe4d9e86" in message
    assert not Path("data/QuerYD", AUDIO).exists()
    assert not Path("data/QuerYD/QuerYD-experts.tar.gz").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["Clotho"], "unknown data set 'Clotho'; did you mean 'CLOTHO'?"),
        (["CLOTHO", "QuerYDSegment"], "did you mean 'QuerYDSegments'?"),
        (["../x"], "known: AudioCaps, CLOTHO, activity-net, QuerYD, QuerYDSegments"),
    ],
)
def test_unknown_names_stop_before_anything_is_fetched(server, sync, capsys, arguments, expected):
    assert sync(*arguments) == 2
    assert expected in capsys.readouterr().err
    assert not server.requests


def test_one_failure_does_not_stop_the_others(server, sync, capsys):
    del server.files[address("AudioCaps")]
    assert sync("AudioCaps", "CLOTHO") == 1
    assert Path("data/CLOTHO", AUDIO).is_file()
    message = capsys.readouterr().err
    assert "AudioCaps: could not fetch" in message
    assert "not complete: AudioCaps\n" in message


@pytest.mark.parametrize(
    ("content", "faults", "expected"),
    [
        (b"<html>moved</html>", Faults(), "is an HTML page"),
        (make_archive(feature_files("CLOTHO"))[:-100], Faults(), "incomplete"),
        (make_archive(feature_files("CLOTHO")), Faults(length=100), "incomplete"),
        (make_archive({"data/CLOTHO/../../evil": b"x"}), Faults(), "'..' in it"),
        (make_archive(feature_files("AudioCaps")), Faults(), "is not below data/CLOTHO/"),
        (make_archive({}), Faults(), NOTHING_INSIDE),
    ],
)
def test_what_is_bad_leaves_nothing(server, sync, capsys, tmp_path, content, faults, expected):
    server.files[address("CLOTHO")] = content
    server.faults[address("CLOTHO")] = faults
    assert sync("CLOTHO") == 1
    assert expected in capsys.readouterr().err
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_split_lists_that_an_archive_lacks(server, sync, monkeypatch, capsys):
    listed = {name: f"{name} clip\n" for name in SoundDescs.lists_elsewhere}
    known = {name: hashlib.sha256(text.encode()).hexdigest() for name, text in listed.items()}
    monkeypatch.setattr(SoundDescs, "lists_elsewhere", known)
    server.files[address("SoundDescs")] = make_archive(feature_files("SoundDescs"))
    assert sync("SoundDescs") == 1
    error = capsys.readouterr().err
    assert "val_list.txt, test_list.txt" in error
    assert "put them into data/SoundDescs" in error
    for name, text in listed.items():
        Path("data/SoundDescs", name).write_text(text)
    assert sync("SoundDescs") == 0
    assert len(server.requests) == 1
    folder = Path("data/SoundDescs/structured-symlinks")
    assert (folder / "train_list.txt").read_text() == "clip\n"  # that of the archive
    assert (folder / "val_list.txt").read_text() == listed["val_list.txt"]
    (folder / "val_list.txt").unlink()
    Path("data/SoundDescs/val_list.txt").write_text("others\n")
    assert sync("SoundDescs") == 1
    assert "data/SoundDescs/val_list.txt is not the published list" in capsys.readouterr().err
    assert not (folder / "val_list.txt").exists()
