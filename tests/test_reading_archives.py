"""What an archive may hold arrives whole, stays verified, and is written nowhere else.

What it may not hold is in tests/hostile_corpus.py.
"""

import contextlib
import gzip
import os
import random
import resource
import shutil
import signal
import stat
import subprocess
import sys
import tarfile
import time
from pathlib import Path

import pytest

from file_server import make_archive
from hostile_corpus import hardlink, member, tar
from surroundings import limited
from utils.errors import DataError, UnsafeFileError
from utils.files import read_json
from utils.reading import archives
from utils.reading.archives import check_archive
from utils.reading.unpacking import marker_path, unpack, verify_unpacked

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "data/Set/"
LIST, HICKLE = "structured-symlinks/train_list.txt", "structured-symlinks/vggish-raw.hickle"
EXPECTED = {LIST: b"a\nb\n", HICKLE: bytes(range(256)) * 2000, "feats/a 'b' \u00e9.pkl": b""}
FILES = {PREFIX + name: content for name, content in EXPECTED.items()}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data" / "Set"
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_bytes(b"untouched")
    yield folder
    assert (tmp_path / "precious").read_bytes() == b"untouched"


@pytest.fixture
def unpacked(tmp_path, root):
    """Unpack an archive of such bytes, or of such files, below `root`."""

    def run(packed, links=(), **how):
        path = tmp_path / "x.tar.gz"
        path.write_bytes(packed if isinstance(packed, bytes) else make_archive(packed, links=links))
        return unpack(path, root, prefix=PREFIX, **how)

    return run


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


def test_files_arrive_and_are_verified(tmp_path, root, unpacked):
    first = unpacked(FILES)
    assert contents(root) == EXPECTED
    assert (first.files, first.bytes, first.written) == (3, sum(map(len, FILES.values())), 3)
    assert unpacked(FILES).written == 0
    check_archive(tmp_path / "x.tar.gz", prefix=PREFIX)
    (tmp_path / "x.tar.gz").unlink()
    assert verify_unpacked(tmp_path / "x.tar.gz", root).files == 3
    (root / LIST).unlink()
    assert verify_unpacked(tmp_path / "x.tar.gz", root) is None


def test_a_tar_made_by_the_command_is_read(tmp_path, root):
    """Real archives come from GNU tar: folders as members, './' in front, links, long names."""
    source = tmp_path / "source" / "data" / "Set"
    (source / "structured-symlinks" / ("d" * 120)).mkdir(parents=True)
    (source / "structured-symlinks" / ("d" * 120) / ("f" * 150)).write_bytes(b"long")
    (source / "a").write_bytes(b"a")
    os.link(source / "a", source / "b")
    (source / "structured-symlinks" / "up").symlink_to("../a")
    (source / "structured-symlinks" / "folder").symlink_to("d" * 120, target_is_directory=True)
    for number, arguments in enumerate((["./data"], ["data/Set"], ["--format=ustar", "data"])):
        packed = tmp_path / f"x.tar.gz{number}"
        command = ["tar", "-czf", packed, *arguments]
        made = subprocess.run(command, cwd=tmp_path / "source", capture_output=True)
        if made.returncode and "ustar" in arguments[0]:
            continue  # this old form has no room for the long names
        shutil.rmtree(root)
        unpack(packed, root, prefix=PREFIX)
        assert contents(root) == contents(source)
        assert (root / "structured-symlinks" / "up").read_bytes() == b"a"
        assert (root / "structured-symlinks" / "folder").is_dir()


def test_through_a_data_folder_that_is_a_link(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "data").symlink_to("large disk")
    path = tmp_path / "x.tar.gz"
    path.write_bytes(make_archive(FILES, links=[("data/Set/l", "structured-symlinks")]))
    unpack(path, tmp_path / "data")
    assert contents(tmp_path / "large disk" / "Set") == EXPECTED
    assert (tmp_path / "data/Set/l/train_list.txt").read_bytes() == b"a\nb\n"
    assert verify_unpacked(path, tmp_path / "data")


def test_inner_links_may_climb_and_may_lead_nowhere_yet(root, unpacked):
    links = [("a/b/c/link", "../../../feats"), ("a/b/parent", ".."), ("later", "not/here")]
    assert unpacked(FILES, [(PREFIX + name, target) for name, target in links]).files == 6
    assert [str((root / name).readlink()) for name, _ in links] == [target for _, target in links]
    assert (root / "a/b/c/link").resolve() == root / "feats"


def test_permissions_are_those_of_any_new_file(tmp_path, root, unpacked):
    folder = member("data/Set/d", kind=tarfile.DIRTYPE)
    members = [member("data/Set/a"), member("data/Set/b"), folder]
    for (info, _), mode in zip(members, (0o6777, 0o000, 0o1000), strict=True):
        info.mode = mode
    unpacked(tar(*members))
    (tmp_path / "new").write_bytes(b"")
    new = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert [stat.S_IMODE((root / name).stat().st_mode) for name in "ab"] == [new, new]
    assert stat.S_IMODE((root / "d").stat().st_mode) & 0o7700 == 0o700


def test_hard_links_become_copies(tmp_path, root, unpacked):
    packed = tar(member("data/Set/a", b"x"), hardlink("b", "data/Set/a"))
    assert unpacked(packed).bytes == 2
    assert (root / "b").read_bytes() == b"x"
    assert (root / "b").stat().st_nlink == 1
    assert unpacked(packed).written == 0


@pytest.mark.parametrize(
    ("limit", "most", "message"),
    [("MOST_BYTES", 10_000, "than 10000 bytes"), ("MOST_MEMBERS", 2, "than 2 members")],
)
def test_bytes_and_members_are_bounded(monkeypatch, unpacked, limit, most, message):
    monkeypatch.setattr(archives, limit, most)
    with pytest.raises(UnsafeFileError, match=message):
        unpacked(FILES)


NOISE = random.Random(0).randbytes(5000)
PAIR = make_archive({"data/Set/a": NOISE, "data/Set/b": NOISE[::-1]})


@pytest.mark.parametrize("cut", [0, 1, 5, 17, 200, len(PAIR) // 2, -30, -9, -1])
def test_a_cut_archive_is_incomplete(tmp_path, root, unpacked, cut):
    with pytest.raises(DataError, match="incomplete"):
        unpacked(PAIR[:cut])
    with pytest.raises(DataError, match="incomplete"):
        check_archive(tmp_path / "x.tar.gz", prefix=PREFIX)
    assert verify_unpacked(tmp_path / "x.tar.gz", root) is None
    assert all(len(content) == 5000 for content in contents(root).values())


@pytest.mark.parametrize("cut", [300, 512, 1500, 6000, 10_752, 11_000])
def test_a_tar_cut_before_it_was_packed_is_incomplete(unpacked, cut):
    """Whole to gzip, and tarfile would take the missing end for the end."""
    with pytest.raises(DataError, match="damaged, incomplete"):
        unpacked(gzip.compress(gzip.decompress(PAIR)[:cut]))


def test_flipped_bytes_never_pass(root, unpacked):
    """But for the few bits of padding that gzip ignores: then the content is the right one."""
    content = random.Random(0).randbytes(3000)
    packed, passed = make_archive({"data/Set/a": content}), 0
    for position in range(10, len(packed), 37):
        broken = bytearray(packed)
        broken[position] ^= 0x55
        with contextlib.suppress(DataError):
            unpacked(bytes(broken))
            assert (root / "a").read_bytes() == content
            passed += 1
    assert passed <= 2


@pytest.mark.parametrize(
    ("content", "kind"),
    [(b"x", "no .tar.gz"), (bytes(1000), "no .tar.gz"), (b"<html>", "HTML"), (b"PK\3\4", "a zip")],
)
def test_what_is_no_archive_is_named(unpacked, content, kind):
    with pytest.raises(DataError, match=kind):
        unpacked(content)


@pytest.mark.parametrize(
    ("name", "target", "member"),
    [("structured-symlinks", "..", None), ("mine", "../..", ("data/Set/l", "mine/precious"))],
)
def test_links_on_the_disk_lead_nothing_out(root, unpacked, name, target, member):
    (root / name).symlink_to(target)
    with pytest.raises(UnsafeFileError, match=r"symbolic link|leads out"):
        unpacked(FILES, [member] if member else [])
    assert sorted(path.name for path in root.parent.iterdir()) == ["Set"]
    assert not (root / "l").is_symlink()


def test_a_link_on_the_disk_in_place_of_a_file_is_replaced_not_followed(tmp_path, root, unpacked):
    (root / "a").symlink_to(tmp_path / "precious")
    unpacked({"data/Set/a": b"new"})
    assert contents(root) == {"a": b"new"}


@pytest.mark.parametrize(
    ("files", "links"),
    [({"data/Set/d": b""}, []), ({}, [("data/Set/d", "b")]), ({"data/Set/f/x": b""}, [])],
)
def test_something_else_in_the_place_of_a_member_is_named(root, unpacked, files, links):
    (root / "d").mkdir()
    (root / "f").write_bytes(b"")
    with pytest.raises(DataError, match=r"Set/[df](/x)? cannot be written: (Is|Not) a dir|exists"):
        unpacked(files, links)


def test_only_what_is_missing_or_changed_is_written_again(tmp_path, root, unpacked):
    links = [("data/Set/l", "feats")]
    unpacked(FILES, links)
    inode = (root / LIST).stat().st_ino
    (root / HICKLE).write_bytes(EXPECTED[HICKLE][:-1] + b"x")  # same size, other content
    (root / "l").unlink()
    assert verify_unpacked(tmp_path / "x.tar.gz", root) is None
    assert unpacked(FILES, links).written == 2
    assert contents(root) == EXPECTED
    assert (root / LIST).stat().st_ino == inode
    assert unpacked(FILES, links, again=True).written == 4
    assert (root / LIST).stat().st_ino != inode


def test_another_archive_does_not_trust_the_marker(root, unpacked):
    unpacked(FILES)
    assert unpacked({name: content + b"!" for name, content in FILES.items()}).written == 3
    assert contents(root) == {name: content + b"!" for name, content in EXPECTED.items()}


@pytest.mark.parametrize(
    "marker", ["", "[]", "{}", '{"sha256": 1}', '{"sha256": "x", "complete": true, "files": []}']
)
def test_a_broken_marker_costs_only_time(tmp_path, root, unpacked, marker):
    marker_path(tmp_path / "x.tar.gz").write_text(marker)
    assert verify_unpacked(tmp_path / "x.tar.gz", root) is None
    assert unpacked(FILES).written == 3


def test_space_is_checked_before_a_file_is_written(root, unpacked, monkeypatch):
    usage = shutil.disk_usage(root)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="needs 512000 bytes, 1000 are free"):
        unpacked(FILES)
    assert contents(root) == {LIST: EXPECTED[LIST]}


def test_a_disk_that_fills_on_the_way_leaves_no_half_file(root, unpacked):
    full = limited(resource.RLIMIT_FSIZE, 100_000)
    with full, pytest.raises(DataError, match=r"vggish-raw\.hickle cannot be written"):
        unpacked(FILES)
    assert contents(root) == {LIST: EXPECTED[LIST]}
    unpacked(FILES)
    assert contents(root) == EXPECTED


UNPACK = """
import sys
from pathlib import Path
from utils.reading import unpacking
unpacking.MARKER_SECONDS = 0.0
unpacking.unpack(Path(sys.argv[1]), Path(sys.argv[2]), prefix="data/Set/")
"""


def test_killed_in_the_middle_then_resumed(tmp_path, root, unpacked):
    files = {f"{n:03}": os.urandom(200_000) for n in range(100)}
    path, packed = tmp_path / "x.tar.gz", make_archive({PREFIX + n: c for n, c in files.items()})
    path.write_bytes(packed)
    child = subprocess.Popen([sys.executable, "-c", UNPACK, str(path), str(root)], cwd=ROOT)
    while child.poll() is None and not (root / "020").exists():
        time.sleep(0.001)
    child.kill()
    assert child.wait() == -signal.SIGKILL
    (root / ".050.1-abc.part").write_bytes(b"half of a file")
    for leftover in root.glob(".*.part"):
        os.utime(leftover, (0, 0))  # young ones may belong to a writer at work
    # whatever has a final name is whole
    assert all(found.read_bytes() == files[found.name] for found in root.glob("[!.]*"))
    assert not read_json(marker_path(path))["complete"]
    assert 1 <= unpacked(packed).written <= 81
    assert contents(root) == files


def test_members_that_macos_adds_are_left_out(root, unpacked, caplog):
    extra = ("__MACOSX/data/._Set", "._data", "data/Set/d/._a", "data/Set/d/.DS_Store")
    assert unpacked({**FILES, **dict.fromkeys(extra, b"x")}).files == 3
    assert contents(root) == EXPECTED
    assert "left out 4 members" in caplog.text


def test_an_archive_that_a_server_packed_twice_is_read(root, unpacked):
    assert unpacked(gzip.compress(make_archive(FILES))).files == 3
    assert contents(root) == EXPECTED


@pytest.mark.parametrize("ending", ["", ".manifest.json", ".unpacked.json", ".partial"])
def test_our_own_records_are_never_overwritten(root, ending):
    """The archive is fetched into the folder it fills, with its manifest beside it."""
    packed = make_archive({**FILES, f"data/Set/x.tar.gz{ending}": b"forged"})
    (root / "x.tar.gz").write_bytes(packed)
    (root / "x.tar.gz.manifest.json").write_bytes(b"ours")
    with pytest.raises(UnsafeFileError):
        unpack(root / "x.tar.gz", root, prefix=PREFIX)
    assert (root / "x.tar.gz").read_bytes() == packed
    assert (root / "x.tar.gz.manifest.json").read_bytes() == b"ours"
