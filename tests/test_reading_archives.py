"""utils/archive.py: what is allowed arrives whole; every known attack is refused and contained."""

import contextlib
import gzip
import io
import json
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
from utils.errors import DataError, UnsafeFileError
from utils.reading.archives import Limits, check_archive, marker_path, unpack, verify_unpacked

ROOT = Path(__file__).resolve().parent.parent
PREFIX = "data/Set/"
FILES = {
    "data/Set/structured-symlinks/train_list.txt": b"a\nb\n",
    "data/Set/structured-symlinks/aggregated_audio/vggish-raw.hickle": bytes(range(256)) * 2000,
    "data/Set/symlinked-feats/clip with 'quotes' \u00e9.pkl": b"",
}


@pytest.fixture
def root(tmp_path):
    folder = tmp_path / "data" / "Set"
    folder.mkdir(parents=True)
    (tmp_path / "precious").write_bytes(b"untouched")
    return folder


@pytest.fixture
def outside(tmp_path, root):
    """Everything beside the place that may be filled; compared before and after an attack."""

    def look():
        return {
            str(path): path.read_bytes() if path.is_file() else None
            for path in tmp_path.rglob("*")
            if root not in path.parents and not path.name.startswith("x.tar.gz")
        }

    return look


def member(name, content=b"", kind=tarfile.REGTYPE, linkname="", mode=0o644, **pax):
    info = tarfile.TarInfo(name)
    info.type, info.linkname, info.mode, info.pax_headers = kind, linkname, mode, pax
    info.size = len(content) if kind == tarfile.REGTYPE else 0
    return info, content


def pack(members, form=tarfile.PAX_FORMAT, encoding="utf-8"):
    packed = io.BytesIO()
    with (
        gzip.GzipFile(fileobj=packed, mode="wb", mtime=0) as zipped,
        tarfile.open(
            fileobj=zipped, mode="w|", format=form, encoding=encoding, errors="surrogateescape"
        ) as tar,
    ):
        for info, content in members:
            tar.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def save(tmp_path, packed):
    path = tmp_path / "x.tar.gz"
    path.write_bytes(packed)
    return path


def contents(root):
    return {
        path.relative_to(root).as_posix(): path.read_bytes()
        for path in root.rglob("*")
        if path.is_file() and not path.is_symlink()
    }


EXPECTED = {name.removeprefix(PREFIX): content for name, content in FILES.items()}


def test_files_arrive_and_are_verified(tmp_path, root):
    path = save(tmp_path, make_archive(FILES))
    unpacked = unpack(path, root, prefix=PREFIX)
    assert contents(root) == EXPECTED
    assert (unpacked.files, unpacked.bytes) == (3, sum(map(len, FILES.values())))
    assert unpacked.written == 3
    assert verify_unpacked(path, root) == unpack(path, root, prefix=PREFIX)
    assert unpack(path, root, prefix=PREFIX).written == 0
    assert check_archive(path, prefix=PREFIX).bytes == unpacked.bytes


def test_the_default_prefix_fills_a_data_folder(tmp_path):
    unpack(save(tmp_path, make_archive(FILES)), tmp_path / "elsewhere")
    assert set(contents(tmp_path / "elsewhere")) == {n.removeprefix("data/") for n in FILES}


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
        if "ustar" in arguments[0]:
            assert made.returncode in (0, 2)
            if made.returncode:  # this old form has no room for the long names
                continue
        shutil.rmtree(root)
        unpack(packed, root, prefix=PREFIX)
        assert contents(root) == contents(source)
        assert (root / "structured-symlinks" / "up").read_bytes() == b"a"
        assert (root / "structured-symlinks" / "folder").is_dir()


def test_through_a_data_folder_that_is_a_link(tmp_path):
    (tmp_path / "large disk").mkdir()
    (tmp_path / "data").symlink_to("large disk")
    path = save(tmp_path, make_archive(FILES, links=[("data/Set/l", "structured-symlinks")]))
    unpack(path, tmp_path / "data" / "Set", prefix=PREFIX)
    assert contents(tmp_path / "large disk" / "Set") == EXPECTED
    assert (tmp_path / "data/Set/l/train_list.txt").read_bytes() == b"a\nb\n"
    assert verify_unpacked(path, tmp_path / "data" / "Set")


def test_inner_links_may_climb_and_may_lead_nowhere_yet(tmp_path, root):
    links = [
        ("data/Set/structured-symlinks/a/b/link", "../../../symlinked-feats"),
        ("data/Set/later", "not/here"),
    ]
    path = save(tmp_path, make_archive(FILES, links=links))
    unpack(path, root, prefix=PREFIX)
    assert str((root / "structured-symlinks/a/b/link").readlink()) == links[0][1]
    assert (root / "structured-symlinks/a/b/link").resolve() == root / "symlinked-feats"
    assert verify_unpacked(path, root).files == 5


def test_permissions_are_those_of_any_new_file(tmp_path, root):
    members = [member("data/Set/a", b"x", mode=0o6777), member("data/Set/b", b"x", mode=0o000)]
    members += [member("data/Set/d", kind=tarfile.DIRTYPE, mode=0o1000)]
    unpack(save(tmp_path, pack(members)), root, prefix=PREFIX)
    (tmp_path / "new").write_bytes(b"")
    new = stat.S_IMODE((tmp_path / "new").stat().st_mode)
    assert stat.S_IMODE((root / "a").stat().st_mode) == new
    assert stat.S_IMODE((root / "b").stat().st_mode) == new
    assert stat.S_IMODE((root / "d").stat().st_mode) & 0o7700 == 0o700


def test_hard_links_become_copies(tmp_path, root):
    members = [
        member("data/Set/a", b"x"),
        member("data/Set/b", kind=tarfile.LNKTYPE, linkname="data/Set/a"),
    ]
    unpack(save(tmp_path, pack(members)), root, prefix=PREFIX)
    assert (root / "b").read_bytes() == b"x"
    assert (root / "b").stat().st_nlink == 1


DEVICES = {
    "a character device": tarfile.CHRTYPE,
    "a block device": tarfile.BLKTYPE,
    "a pipe": tarfile.FIFOTYPE,
    "an unknown kind": b"Z",
}
GOOD = member("data/Set/good", b"good")
ATTACKS = {
    "climbing out": [GOOD, member("data/Set/../../evil", b"e")],
    "climbing in the middle": [GOOD, member("data/Set/a/../../../evil", b"e")],
    "climbing and back": [GOOD, member("data/Set/../Set/evil", b"e")],
    "climbing at once": [GOOD, member("../evil", b"e")],
    "only dots": [GOOD, member("data/Set/..", b"e")],
    "absolute": [GOOD, member("/tmp/evil", b"e")],
    "absolute below data": [GOOD, member("/data/Set/evil", b"e")],
    "beside the data set": [GOOD, member("data/Other/evil", b"e")],
    "beside data": [GOOD, member("configs/evil.json", b"e")],
    "the data set as a file": [GOOD, member("data/Set", b"e")],
    "prefix of the name only": [GOOD, member("data/Settings/evil", b"e")],
    "duplicate": [GOOD, member("data/Set/good", b"other")],
    "duplicate in disguise": [GOOD, member("data/Set/./x//good/../good", b"other")],
    "duplicate with dots": [GOOD, member("data/./Set//good", b"other")],
    "file then folder": [GOOD, member("data/Set/good/inner", b"e")],
    "folder then file": [member("data/Set/a/b", b""), member("data/Set/a", b"e")],
    "not UTF-8": [GOOD, member("data/Set/\udcff\udcfe", b"e")],
    "newline in a name": [GOOD, member("data/Set/a\nb", b"e")],
    "terminal escape in a name": [GOOD, member("data/Set/\x1b[2Jx", b"e")],
    "long name": [GOOD, member("data/Set/" + "n" * 300, b"e")],
    "long path": [GOOD, member("data/Set/" + "nnnnnnnnn/" * 120 + "n", b"e")],
    "deep path": [GOOD, member("data/Set/" + "n/" * 40 + "n", b"e")],
    "long header": [GOOD, member("data/Set/" + "n" * 100_000, b"e")],
    "negative size by attribute": [member("data/Set/a", b"e", size="-512"), GOOD],
    "huge size by attribute": [member("data/Set/a", b"e", size=str(1 << 60)), GOOD],
    "holes by attribute": [
        member("data/Set/a", b"1\n0\n512\n" + b"\0" * 504, **{"GNU.sparse.major": "1",
        "GNU.sparse.minor": "0", "GNU.sparse.name": "data/Set/b", "GNU.sparse.realsize": "9"})
    ],
    "name by attribute": [member("data/Set/a", b"e", path="/tmp/evil")],
    "hard link out": [member("data/Set/a", kind=tarfile.LNKTYPE, linkname="precious"), GOOD],
    "hard link climbing": [
        member("data/Set/a", kind=tarfile.LNKTYPE, linkname="data/Set/../../precious")
    ],
    "hard link absolute": [member("data/Set/a", kind=tarfile.LNKTYPE, linkname="/etc/passwd")],
    "hard link to what comes later": [
        member("data/Set/a", kind=tarfile.LNKTYPE, linkname="data/Set/good"), GOOD
    ],
    "hard link to a link": [
        member("data/Set/l", kind=tarfile.SYMTYPE, linkname="good"),
        member("data/Set/a", kind=tarfile.LNKTYPE, linkname="data/Set/l"),
    ],
    "write through a link": [
        member("data/Set/l", kind=tarfile.SYMTYPE, linkname="."),
        member("data/Set/l/evil", b"e"),
    ],
    "write over a link": [
        member("data/Set/l", kind=tarfile.SYMTYPE, linkname="good"),
        member("data/Set/l", b"e"),
    ],
    "links in a circle": [
        GOOD,
        member("data/Set/a", kind=tarfile.SYMTYPE, linkname="b"),
        member("data/Set/b", kind=tarfile.SYMTYPE, linkname="a"),
    ],
    **{
        f"link to {target!r}": [GOOD, member("data/Set/l", kind=tarfile.SYMTYPE, linkname=target)]
        for target in ("/etc/passwd", "..", "../..", "../../precious", "good/../../../precious",
                       "./../x", "", "a\nb", "n" * 2000, "\udcff")
    },
    **{kind: [GOOD, member("data/Set/x", kind=code)] for kind, code in DEVICES.items()},
    "nothing at all": [member("data/Set", kind=tarfile.DIRTYPE)],
}  # fmt: skip


@pytest.mark.parametrize("attack", ATTACKS)
def test_attacks_are_refused_and_contained(tmp_path, root, outside, attack):
    form = tarfile.GNU_FORMAT if "not UTF-8" in attack or "long header" in attack else None
    packed = pack(ATTACKS[attack], form or tarfile.PAX_FORMAT)
    path, before = save(tmp_path, packed), outside()
    expected = DataError if attack == "nothing at all" else UnsafeFileError
    with pytest.raises(expected) as caught:
        unpack(path, root, prefix=PREFIX)
    assert str(path) in str(caught.value)
    assert outside() == before
    assert set(contents(root)) <= {"good", "a/b"}
    assert not any(p.is_symlink() and not p.resolve().is_relative_to(root) for p in root.rglob("*"))
    assert verify_unpacked(path, root) is None
    if attack != "links in a circle":  # that needs the disk to be seen
        with pytest.raises(expected):
            check_archive(path, prefix=PREFIX)


def header(kind, size, name="x"):
    """A tar header with any declared size, checksum right."""
    info = tarfile.TarInfo(name)
    info.type, info.size = kind, size
    return info.tobuf(tarfile.GNU_FORMAT)


RAW = {
    "a name of gigabytes": header(tarfile.GNUTYPE_LONGNAME, 8 << 30),
    "a link name of gigabytes": header(tarfile.GNUTYPE_LONGLINK, 8 << 30),
    "attributes of gigabytes": header(tarfile.XHDTYPE, 8 << 30),
    "global attributes of gigabytes": header(tarfile.XGLTYPE, 8 << 30),
    "old attributes of gigabytes": header(tarfile.SOLARIS_XHDTYPE, 8 << 30),
    "a negative size": header(tarfile.REGTYPE, -(1 << 40), "data/Set/a"),
    "an old file with holes": header(tarfile.GNUTYPE_SPARSE, 512, "data/Set/a") + b"\0" * 512,
    "a name of negative size": header(tarfile.GNUTYPE_LONGNAME, -512),
    "headers of headers without end": header(tarfile.XGLTYPE, 0) * 5000,
    "exabytes in one file": header(tarfile.REGTYPE, 1 << 60, "data/Set/a"),
}


@pytest.mark.parametrize("attack", RAW)
def test_headers_that_ask_for_too_much_are_refused(tmp_path, root, attack):
    path = save(tmp_path, gzip.compress(RAW[attack] + b"\0" * 20480))
    with pytest.raises(DataError, match=r"x\.tar\.gz"):
        unpack(path, root, prefix=PREFIX)
    assert contents(root) == {}


def test_an_old_map_of_holes_without_end_is_not_read(tmp_path, root):
    """Its map goes on from block to block for as long as each says so."""
    first = bytearray(header(tarfile.GNUTYPE_SPARSE, 512, "data/Set/a"))
    first[482], first[148:156] = 1, b" " * 8
    first[148:156] = b"%06o\0 " % sum(first)
    more = b"1".rjust(12, b"0") * 42 + b"\1" + bytes(7)
    path = save(tmp_path, gzip.compress(bytes(first) + more * 20_000))
    with pytest.raises(DataError, match=r"x\.tar\.gz"):
        unpack(path, root, prefix=PREFIX)


def test_a_map_of_holes_without_end_is_not_read(tmp_path, root):
    """Sparse files of format 1.0 begin with a map that tarfile would read whole into memory."""
    attributes = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "x"}
    content = b"99999999\n" + b"1\n" * (1 << 20)
    path = save(tmp_path, pack([member("data/Set/a", content, **attributes)]))
    with pytest.raises(DataError, match=r"x\.tar\.gz"):
        unpack(path, root, prefix=PREFIX)


def test_bombs_by_size_count_and_ratio(tmp_path, root):
    path = save(tmp_path, make_archive(FILES))
    with pytest.raises(UnsafeFileError, match="more than 10000 bytes"):
        unpack(path, root, prefix=PREFIX, limits=Limits(max_bytes=10_000))
    with pytest.raises(UnsafeFileError, match="more than 2 members"):
        unpack(path, root, prefix=PREFIX, limits=Limits(max_members=2))
    bomb = save(tmp_path, make_archive({"data/Set/zeros": bytes(100 << 20)}))
    assert bomb.stat().st_size < 200_000
    with pytest.raises(UnsafeFileError, match="more than 100 times as many"):
        unpack(bomb, root, prefix=PREFIX)
    assert "zeros" not in contents(root)


def test_a_bomb_of_copies_is_counted(tmp_path, root):
    members = [member("data/Set/a", bytes(1 << 20))]
    members += [
        member(f"data/Set/{n}", kind=tarfile.LNKTYPE, linkname="data/Set/a") for n in range(200)
    ]
    with pytest.raises(UnsafeFileError, match="times as many"):
        check_archive(save(tmp_path, pack(members)), prefix=PREFIX)


def test_a_bomb_behind_the_end_is_counted(tmp_path, root):
    packed = make_archive({"data/Set/a": b"x"}) + gzip.compress(bytes(100 << 20))
    with pytest.raises(UnsafeFileError, match="times as many"):
        unpack(save(tmp_path, packed), root, prefix=PREFIX)


@pytest.mark.parametrize("cut", [1, 5, 17, 200, 0.5, -30, -9, -1])
def test_a_cut_archive_is_incomplete(tmp_path, root, cut):
    packed = make_archive({"data/Set/a": os.urandom(5000), "data/Set/b": os.urandom(5000)})
    end = int(len(packed) * cut) if isinstance(cut, float) else cut
    path = save(tmp_path, packed[:end])
    with pytest.raises(DataError, match="incomplete"):
        unpack(path, root, prefix=PREFIX)
    assert verify_unpacked(path, root) is None
    assert all(len(content) == 5000 for content in contents(root).values())


@pytest.mark.parametrize("cut", [300, 512, 1500, 6000, 10_752, 11_000])
def test_a_tar_cut_before_it_was_packed_is_incomplete(tmp_path, root, cut):
    """Whole to gzip, and tarfile would take the missing end for the end."""
    packed = make_archive({"data/Set/a": bytes(5000), "data/Set/b": bytes(5000)})
    path = save(tmp_path, gzip.compress(gzip.decompress(packed)[:cut]))
    with pytest.raises(DataError, match="damaged, incomplete"):
        unpack(path, root, prefix=PREFIX)


def test_flipped_bytes_never_pass(tmp_path, root):
    """But for the few bits of padding that gzip ignores: then the content is the right one."""
    content = random.Random(0).randbytes(3000)
    packed, passed = make_archive({"data/Set/a": content}), 0
    for position in range(10, len(packed), 37):
        broken = bytearray(packed)
        broken[position] ^= 0x55
        with contextlib.suppress(DataError):
            unpack(save(tmp_path, bytes(broken)), root, prefix=PREFIX)
            assert (root / "a").read_bytes() == content
            passed += 1
    assert passed <= 2


@pytest.mark.parametrize("content", [b"", b"x", b"<html></html>", b"PK\x03\x04", bytes(1000)])
def test_what_is_no_archive_is_named(tmp_path, root, content):
    with pytest.raises(DataError, match=r"no \.tar\.gz at all|is an HTML page|is a zip"):
        unpack(save(tmp_path, content), root, prefix=PREFIX)


def test_links_on_the_disk_are_not_written_through(tmp_path, root, outside):
    (tmp_path / "victim").mkdir()
    (root / "structured-symlinks").symlink_to(tmp_path / "victim")
    path, before = save(tmp_path, make_archive(FILES)), outside()
    with pytest.raises(UnsafeFileError, match="would write through the symbolic link"):
        unpack(path, root, prefix=PREFIX)
    assert outside() == before


def test_a_link_on_the_disk_in_place_of_a_file_is_replaced_not_followed(tmp_path, root):
    (root / "a").symlink_to(tmp_path / "precious")
    unpack(save(tmp_path, make_archive({"data/Set/a": b"new"})), root, prefix=PREFIX)
    assert (root / "a").read_bytes() == b"new"
    assert (tmp_path / "precious").read_bytes() == b"untouched"


def test_a_link_that_leads_out_by_one_on_the_disk_is_removed(tmp_path, root):
    (root / "mine").symlink_to(tmp_path)
    path = save(tmp_path, make_archive(FILES, links=[("data/Set/l", "mine/precious")]))
    with pytest.raises(UnsafeFileError, match="leads out"):
        unpack(path, root, prefix=PREFIX)
    assert not (root / "l").is_symlink()


def test_a_folder_in_place_of_a_file_is_named(tmp_path, root):
    (root / "a").mkdir()
    with pytest.raises(DataError, match="something else is in its place"):
        unpack(save(tmp_path, make_archive({"data/Set/a": b""})), root, prefix=PREFIX)
    with pytest.raises(DataError, match="something else is in its place"):
        unpack(save(tmp_path, make_archive({}, links=[("data/Set/a", "b")])), root, prefix=PREFIX)
    (root / "f").write_bytes(b"")
    with pytest.raises(DataError, match="something else is in its place"):
        unpack(save(tmp_path, make_archive({"data/Set/f/x": b""})), root, prefix=PREFIX)


def test_only_what_is_missing_or_changed_is_written_again(tmp_path, root):
    path = save(tmp_path, make_archive(FILES, links=[("data/Set/l", "symlinked-feats")]))
    unpack(path, root, prefix=PREFIX)
    hickle = root / "structured-symlinks/aggregated_audio/vggish-raw.hickle"
    kept = root / "structured-symlinks/train_list.txt"
    content, inode = hickle.read_bytes(), kept.stat().st_ino
    hickle.write_bytes(content[:-1] + b"x")  # same size, other content
    (root / "l").unlink()
    assert verify_unpacked(path, root) is None
    assert unpack(path, root, prefix=PREFIX).written == 2
    assert hickle.read_bytes() == content
    assert kept.stat().st_ino == inode
    assert unpack(path, root, prefix=PREFIX, again=True).written == 4
    assert kept.stat().st_ino != inode


def test_another_archive_does_not_trust_the_marker(tmp_path, root):
    unpack(save(tmp_path, make_archive(FILES)), root, prefix=PREFIX)
    newer = {name: content + b"!" for name, content in FILES.items()}
    assert unpack(save(tmp_path, make_archive(newer)), root, prefix=PREFIX).written == 3
    assert contents(root) == {name.removeprefix(PREFIX): c for name, c in newer.items()}


@pytest.mark.parametrize(
    "marker", ["", "[]", "{}", '{"sha256": 1}', '{"sha256": "x", "complete": true, "files": []}']
)
def test_a_broken_marker_costs_only_time(tmp_path, root, marker):
    path = save(tmp_path, make_archive(FILES))
    marker_path(path).write_text(marker)
    assert verify_unpacked(path, root) is None
    assert unpack(path, root, prefix=PREFIX).written == 3


def test_an_archive_that_was_removed_can_still_be_verified(tmp_path, root):
    path = save(tmp_path, make_archive(FILES))
    unpack(path, root, prefix=PREFIX)
    path.unlink()
    assert verify_unpacked(path, root).files == 3
    (root / "structured-symlinks/train_list.txt").unlink()
    assert verify_unpacked(path, root) is None


def test_space_is_checked_before_a_file_is_written(tmp_path, root, monkeypatch):
    path = save(tmp_path, make_archive(FILES))
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda _: usage)
    with pytest.raises(DataError, match="needs 512000 bytes, 1000 are free"):
        unpack(path, root, prefix=PREFIX)
    assert set(contents(root)) == {"structured-symlinks/train_list.txt"}
    monkeypatch.undo()
    assert unpack(path, root, prefix=PREFIX).written == 2


def test_a_disk_that_fills_on_the_way_leaves_no_half_file(tmp_path, root):
    path = save(tmp_path, make_archive(FILES))
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(DataError, match=r"vggish-raw\.hickle cannot be written"):
            unpack(path, root, prefix=PREFIX)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert set(contents(root)) == {"structured-symlinks/train_list.txt"}
    assert unpack(path, root, prefix=PREFIX).written == 2
    assert contents(root) == EXPECTED


UNPACK = """
import sys
from pathlib import Path
from utils.reading import archives
archives.MARKER_SECONDS = 0.0
archives.unpack(Path(sys.argv[1]), Path(sys.argv[2]), prefix="data/Set/")
"""


def test_killed_in_the_middle_then_resumed(tmp_path, root):
    files = {f"data/Set/{n:03}": os.urandom(200_000) for n in range(100)}
    path = save(tmp_path, make_archive(files))
    child = subprocess.Popen([sys.executable, "-c", UNPACK, str(path), str(root)], cwd=ROOT)
    while child.poll() is None and not (root / "020").exists():
        time.sleep(0.001)
    child.send_signal(signal.SIGKILL)
    assert child.wait() == -signal.SIGKILL
    (root / ".050.1-abc.part").write_bytes(b"half of a file")
    for leftover in root.glob(".*.part"):
        os.utime(leftover, (0, 0))  # young ones may belong to a writer at work
    # whatever bears a final name is whole
    for found in root.glob("[!.]*"):
        assert found.read_bytes() == files[f"data/Set/{found.name}"]
    assert not json.loads(marker_path(path).read_text())["complete"]
    assert 1 <= unpack(path, root, prefix=PREFIX).written <= 81
    expected = {name.removeprefix(PREFIX): content for name, content in files.items()}
    assert contents(root) == expected


def test_members_that_macos_adds_are_left_out(tmp_path, root, caplog):
    extra = {"__MACOSX/data/._Set": b"x", "._data": b"x", "data/Set/d/._a": b"x"}
    path = save(tmp_path, make_archive({**FILES, **extra, "data/Set/d/.DS_Store": b"x"}))
    assert unpack(path, root, prefix=PREFIX).files == 3
    assert contents(root) == EXPECTED
    assert "left out 4 members" in caplog.text


def test_an_archive_that_a_server_packed_twice_is_read(tmp_path, root):
    path = save(tmp_path, gzip.compress(make_archive(FILES)))
    assert unpack(path, root, prefix=PREFIX).files == 3
    assert contents(root) == EXPECTED


@pytest.mark.parametrize("ending", ["", ".manifest.json", ".unpacked.json", ".partial"])
def test_our_own_records_are_never_overwritten(tmp_path, root, ending):
    """The archive is fetched into the folder it fills, with its manifest beside it."""
    packed = make_archive({**FILES, f"data/Set/x.tar.gz{ending}": b"forged"})
    path = root / "x.tar.gz"
    path.write_bytes(packed)
    (root / "x.tar.gz.manifest.json").write_bytes(b"ours")
    with pytest.raises(UnsafeFileError):
        unpack(path, root, prefix=PREFIX)
    assert path.read_bytes() == packed
    assert (root / "x.tar.gz.manifest.json").read_bytes() == b"ours"


@pytest.mark.parametrize("attributes", [{"GNU.sparse.size": "abc"}, {"size": "9" * 5000}])
def test_nonsense_in_headers_is_damage(tmp_path, root, attributes):
    path = save(tmp_path, pack([member("data/Set/a", b"x", **attributes), GOOD]))
    with pytest.raises(DataError, match=r"x\.tar\.gz"):
        unpack(path, root, prefix=PREFIX)
