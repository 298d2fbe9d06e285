"""Files appear whole or not at all; JSON and lists are read strictly."""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import resource
import signal
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from surroundings import bound_by_permissions, limited, open_folder
from utils.errors import DataError
from utils.files import (
    LEFTOVER_SUFFIX,
    atomic_writer,
    map_file,
    open_regular,
    read_json,
    read_list,
    remove_leftovers,
    sha256_of,
    write_json,
    write_text,
)

ROOT = Path(__file__).resolve().parent.parent


def names_in(folder):
    return sorted(path.name for path in folder.iterdir())


# Writing


def test_a_file_appears_when_it_is_whole(tmp_path):
    path = tmp_path / "file"
    with atomic_writer(path) as file, atomic_writer(path) as second:
        file.write(b"half")
        second.write(b"another")
        assert not path.exists()
        file.write(b" and half")
        file.seek(1)
        assert file.read() == b"alf and half"
    assert path.read_bytes() == b"half and half"
    assert names_in(tmp_path) == ["file"]


@pytest.mark.parametrize("error", [ValueError("x"), KeyboardInterrupt(), SystemExit(3)])
def test_an_error_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    with pytest.raises(type(error)), atomic_writer(path) as file:  # noqa: PT012
        file.write(b"after")
        raise error
    assert path.read_bytes() == b"before"
    assert names_in(tmp_path) == ["file"]


def test_content_is_on_the_disk_before_the_name_and_the_name_before_the_end(tmp_path, monkeypatch):
    events = []
    fsync, replace = os.fsync, Path.replace

    def noting_fsync(handle):
        events.append("folder" if stat.S_ISDIR(os.fstat(handle).st_mode) else "file")
        fsync(handle)

    def noting_replace(self, target):
        events.append("name")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", noting_fsync)
    monkeypatch.setattr(Path, "replace", noting_replace)
    with atomic_writer(tmp_path / "file") as file:
        file.write(b"x")
    assert events == ["file", "name", "folder"]


def test_permissions_are_those_of_any_new_file(tmp_path):
    before = os.umask(0o027)
    try:
        write_text(tmp_path / "file", "x")
    finally:
        os.umask(before)
    assert stat.S_IMODE((tmp_path / "file").stat().st_mode) == 0o640


def test_a_link_is_replaced_and_not_written_through(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / "link").symlink_to("precious")
    write_text(tmp_path / "link", "new")
    assert (tmp_path / "precious").read_text() == "kept"
    assert not (tmp_path / "link").is_symlink()


@pytest.mark.parametrize("name", ["x" * 255, "ä" * 127, "音" * 85, "with\nnewline", "-rf"])
def test_long_and_odd_names(tmp_path, name):
    write_text(tmp_path / name, "x")
    assert names_in(tmp_path) == [name]


def test_a_missing_folder_is_named(tmp_path):
    path = tmp_path / "missing" / "file"
    with pytest.raises(FileNotFoundError) as caught, atomic_writer(path):
        pass
    assert caught.value.filename == str(path)


def test_a_full_disk_is_named_and_leaves_what_was_there(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    full = limited(resource.RLIMIT_FSIZE, 1000)
    with full, pytest.raises(OSError) as caught, atomic_writer(path) as file:
        file.write(bytes(100_000))
    assert caught.value.errno == errno.EFBIG
    assert caught.value.filename == str(path)
    assert path.read_bytes() == b"before"
    assert names_in(tmp_path) == ["file"]


def test_an_error_about_another_file_keeps_its_name(tmp_path):
    with pytest.raises(FileNotFoundError) as caught, atomic_writer(tmp_path / "file"):
        (tmp_path / "other").read_bytes()
    assert Path(caught.value.filename).name == "other"


KILLED = """
import os, signal, sys
sys.path.insert(0, sys.argv[2])
from utils.files import atomic_writer
with atomic_writer(sys.argv[1]) as file:
    file.write(b"after" * 100000)
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_leaves_the_old_file_and_a_leftover(tmp_path):
    path = tmp_path / "file"
    path.write_bytes(b"before")
    ended = subprocess.run([sys.executable, "-c", KILLED, path, ROOT], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert path.read_bytes() == b"before"
    leftovers = [name for name in names_in(tmp_path) if name.endswith(LEFTOVER_SUFFIX)]
    assert len(leftovers) == 1
    remove_leftovers(tmp_path)  # too young: it may belong to a writer at work
    assert len(names_in(tmp_path)) == 2
    old = time.time() - 1000
    os.utime(tmp_path / leftovers[0], (old, old))
    remove_leftovers(tmp_path)
    assert names_in(tmp_path) == ["file"]


def test_the_file_of_a_writer_at_work_is_no_leftover(tmp_path):
    with atomic_writer(tmp_path / "file") as file:
        remove_leftovers(tmp_path, age=-1.0)
        file.write(b"x")
    assert names_in(tmp_path) == ["file"]


def test_a_finished_file_is_no_leftover_before_it_has_its_name(tmp_path, monkeypatch):
    """Flushing may take minutes, after which the file is old enough for another process."""
    replace = Path.replace

    def look(path, target):
        remove_leftovers(tmp_path, age=-1.0)
        return replace(path, target)

    monkeypatch.setattr(Path, "replace", look)
    write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


def test_leftovers_that_are_no_files_are_left_alone(tmp_path):
    (tmp_path / "precious").write_text("kept")
    (tmp_path / f".link{LEFTOVER_SUFFIX}").symlink_to("precious")
    os.mkfifo(tmp_path / f".pipe{LEFTOVER_SUFFIX}")
    remove_leftovers(tmp_path, age=-1.0)
    assert len(names_in(tmp_path)) == 3
    assert (tmp_path / "precious").read_text() == "kept"


def test_file_systems_without_locks_can_be_written(tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(errno.ENOLCK, "no locks")

    monkeypatch.setattr(fcntl, "flock", refuse)
    write_text(tmp_path / "file", "x")
    assert (tmp_path / "file").read_text() == "x"


# JSON


JSON_VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(value=JSON_VALUES)
def test_json_comes_back_as_it_was(tmp_path_factory, value):
    path = tmp_path_factory.getbasetemp() / "value.json"
    write_json(path, value)
    assert read_json(path) == value == json.loads(path.read_bytes())


def test_names_that_are_no_unicode_survive(tmp_path):
    write_json(tmp_path / "a.json", {"clip \udcff": "ü"})
    assert "ü" in (tmp_path / "a.json").read_text(encoding="utf-8")
    assert read_json(tmp_path / "a.json") == {"clip \udcff": "ü"}


@pytest.mark.parametrize("value", [float("nan"), float("inf"), {"a": [-float("inf")]}])
def test_what_could_not_be_read_is_not_written(tmp_path, value):
    with pytest.raises(ValueError, match="JSON compliant"):
        write_json(tmp_path / "a.json", value)
    assert names_in(tmp_path) == []


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b'{"a": 1, "a": 1}', "the key 'a' comes twice"),
        (b"[NaN]", "holds NaN"),
        (b"[-Infinity]", "holds -Infinity"),
        (b"[1e400]", "1e400, which is not a finite"),
        (b"[" * 101 + b"]" * 101, "deeper than 100"),
        (b"[" * 100_000, "deeper than 100"),
        (b"\xef\xbb\xbf{}", "byte order mark"),
        (b'"\xff"', r"is not UTF-8 \(byte 1\)"),
        (b'{"a": }', "line 1, column 7"),
        (b"{} {}", "Extra data"),
        (b"", "not valid JSON"),
    ],
)
def test_json_that_is_refused(tmp_path, content, message):
    path = tmp_path / "a.json"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_json(path)
    assert str(caught.value).startswith(str(path))


def test_json_is_read_up_to_its_limits(tmp_path):
    (tmp_path / "a.json").write_bytes(b"[" * 100 + b"]" * 100)
    assert read_json(tmp_path / "a.json")
    (tmp_path / "a.json").write_bytes(b"[1234]")
    assert read_json(tmp_path / "a.json", max_bytes=6) == [1234]
    with pytest.raises(DataError, match="larger than 5 bytes"):
        read_json(tmp_path / "a.json", max_bytes=5)


# Lists


@pytest.mark.parametrize(
    ("content", "names"),
    [
        ("a\nb\n", ["a", "b"]),
        ("a\nb", ["a", "b"]),
        ("a\r\nb\r\n", ["a", "b"]),
        ("\ufeffa\nb\n\n \n\t\n", ["a", "b"]),
        (" a b\t\n'c'/\"d\"\\\nä\u2028ö\x0c\n", [" a b\t", "'c'/\"d\"\\", "ä\u2028ö\x0c"]),
        ("#1\n;2\n", ["#1", ";2"]),
    ],
)
def test_lists(tmp_path, content, names):
    (tmp_path / "list.txt").write_bytes(content.encode())
    assert read_list(tmp_path / "list.txt") == names


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "holds no names"),
        (b"\n \n", "holds no names"),
        (b"a\nb\na\n", "line 3: 'a' comes a second time"),
        (b"a\r\nb\na\r\n", "line 3: 'a' comes a second time"),
        (b"a\nb\0\n", "line 2 holds a NUL"),
        (b"a\rb\r", "line 1 holds a carriage return"),
        (b"a\nb\rc\n", "line 2 holds a carriage return"),
        (b"a\n\xe4\n", r"not UTF-8 \(byte 2\)"),
    ],
)
def test_lists_that_are_refused(tmp_path, content, message):
    path = tmp_path / "list.txt"
    path.write_bytes(content)
    with pytest.raises(DataError, match=message) as caught:
        read_list(path)
    assert str(caught.value).startswith(str(path))


def test_a_blank_line_between_names_is_left_out_with_a_warning(tmp_path, caplog):
    (tmp_path / "list.txt").write_bytes(b"a\nb\n\n")
    assert read_list(tmp_path / "list.txt") == ["a", "b"]
    assert not caplog.records
    (tmp_path / "list.txt").write_bytes(b"a\n \nb\n")
    assert read_list(tmp_path / "list.txt") == ["a", "b"]
    assert [record.args for record in caplog.records] == [(tmp_path / "list.txt", 2)]


@given(
    names=st.lists(
        st.text(st.characters(exclude_characters="\0\r\n", exclude_categories=("Cs",)))
        .filter(str.strip)
        .filter(lambda name: not name.startswith("\ufeff")),
        unique=True,
        min_size=1,
    ),
    end=st.sampled_from(["\n", "\r\n"]),
)
def test_any_names_come_back(tmp_path_factory, names, end):
    path = tmp_path_factory.getbasetemp() / "list.txt"
    path.write_bytes("".join(name + end for name in names).encode())
    assert read_list(path) == names


# What is no file


@pytest.mark.parametrize("read", [read_json, read_list, sha256_of])
def test_what_is_no_file_is_named(tmp_path, read):
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "device").symlink_to("/dev/zero")
    (tmp_path / "secret").write_text("x")
    for name, message in [
        ("missing", "missing is missing"),
        (".", "is not a file"),
        ("pipe", "is not a file"),
        ("device", "is not a file"),
        ("secret/below", "cannot be read: Not a directory"),
        ("nul\0", "cannot be read"),
    ]:
        with pytest.raises(DataError, match=message):
            read(tmp_path / name)


def test_a_file_without_permission_is_named():
    with open_folder() as folder:
        (folder / "secret").touch(mode=0)
        with bound_by_permissions(), pytest.raises(DataError, match=r"secret.*Permission denied"):
            read_json(folder / "secret")


def test_sha256(tmp_path):
    content = bytes(range(256)) * 10_000
    (tmp_path / "file").write_bytes(content)
    assert sha256_of(tmp_path / "file") == hashlib.sha256(content).hexdigest()


def test_a_mapping_outlives_its_file_object(tmp_path):
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as file:
        view = map_file(file)
    (tmp_path / "file").unlink()
    assert view[:] == b"content"
    with pytest.raises(TypeError):
        view[0] = 0


@pytest.mark.parametrize("code", ["ENODEV", "EINVAL", "ENOSYS", "ENOTSUP"])
@pytest.mark.parametrize("private", [True, False])
def test_a_file_system_without_shared_maps_is_read(tmp_path, monkeypatch, caplog, code, private):
    """FUSE, 9p and some network file systems; without private maps the file is read."""
    real = mmap.mmap

    def refusing(handle, size, *, flags=None, prot=None):
        if handle != -1 and not (private and flags == mmap.MAP_PRIVATE):
            raise OSError(getattr(errno, code), os.strerror(getattr(errno, code)))
        return real(handle, size) if handle == -1 else real(handle, size, flags=flags, prot=prot)

    monkeypatch.setattr(mmap, "mmap", refusing)
    content = os.urandom(3 * mmap.PAGESIZE + 5)
    (tmp_path / "file").write_bytes(content)
    with open_regular(tmp_path / "file") as file:
        assert map_file(file)[:] == content
    assert bool(caplog.records) != private


def test_a_file_that_is_cut_while_it_is_read_is_an_error(tmp_path, monkeypatch):
    real, path = mmap.mmap, tmp_path / "file"

    def cutting(handle, size, **options):
        if options:
            raise OSError(errno.ENODEV, "no maps")
        os.truncate(path, 3)
        return real(handle, size)

    monkeypatch.setattr(mmap, "mmap", cutting)
    path.write_bytes(b"content")
    with open_regular(path) as file, pytest.raises(DataError, match="cut short"):
        map_file(file)


def test_a_map_that_fails_otherwise_is_an_error(tmp_path, monkeypatch):
    def failing(*arguments, **options):
        raise OSError(errno.ENOMEM, "out of memory")

    monkeypatch.setattr(mmap, "mmap", failing)
    (tmp_path / "file").write_bytes(b"content")
    with open_regular(tmp_path / "file") as file, pytest.raises(OSError, match="out of memory"):
        map_file(file)
