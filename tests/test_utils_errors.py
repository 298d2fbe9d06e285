"""Errors end a command with a message and an exit status; near words are found."""

import errno
import io
import os
import subprocess
import sys

import pytest

from utils.errors import (
    CheckpointError,
    DataError,
    UnsafeFileError,
    UsageError,
    nearest,
    nearest_word,
    run_main,
)


def raising(error):
    def main():
        raise error

    return main


@pytest.mark.parametrize("kind", [DataError, UnsafeFileError, CheckpointError, UsageError])
def test_errors_of_ours_end_in_their_message_alone(kind, capsys):
    status = 2 if kind is UsageError else 1
    assert run_main(raising(kind("x.json is missing; fetch it"))) == status
    assert capsys.readouterr() == ("", "error: x.json is missing; fetch it\n")


def test_the_status_of_the_command_is_passed_on():
    assert run_main(lambda: 7) == 7


def test_interruption_is_130(capsys):
    assert run_main(raising(KeyboardInterrupt())) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    ("number", "words"),
    [
        (errno.ENOSPC, "the disk is full"),
        (errno.EDQUOT, "quota"),
        (errno.EROFS, "read-only"),
        (errno.ENOENT, "no such file or directory"),
    ],
)
def test_disk_problems_name_the_file(number, words, capsys):
    assert run_main(raising(OSError(number, os.strerror(number), "last.pth"))) == 1
    message = capsys.readouterr().err
    assert message.startswith("error: last.pth: ")
    assert words in message


@pytest.mark.parametrize(
    "error", [PermissionError(errno.EACCES, "no"), ZeroDivisionError(), RuntimeError("a mistake")]
)
def test_other_errors_keep_their_traceback(error):
    with pytest.raises(type(error)):
        run_main(raising(error))


def test_a_closed_pipe_is_quiet():
    program = (
        "import sys; from utils.errors import run_main\n"
        "def main():\n"
        "    for _ in range(100000): print('line')\n"
        "    return 0\n"
        "sys.exit(run_main(main))"
    )
    run = subprocess.run(
        f'"{sys.executable}" -c "$PROGRAM" | head -n 1; echo ${{PIPESTATUS[0]}}',
        shell=True,
        executable="/bin/bash",
        env={**os.environ, "PROGRAM": program, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True,
        text=True,
    )
    assert run.stdout.split() == ["line", "141"]
    assert run.stderr == ""


def test_the_nearest_word_is_found():
    assert nearest_word("margn", ["margin", "morgen"]) == "margin"
    assert nearest_word("Audiocap", ["AudioCaps", "CLOTHO"]) == "AudioCaps"
    assert nearest_word("audiocaps-vggish", ["audiocaps-train-vggish", "x"]) == (
        "audiocaps-train-vggish"
    )
    for far in ("zzz", "", "k", "x" * 1_000_000):
        assert nearest_word(far, ["margin", "epochs"]) is None
    assert nearest("zzz", ["margin"]) == ""
    assert nearest("margn", ["margin"]) == "; did you mean 'margin'?"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("CUDA out of memory. Tried to allocate 20 GiB"),
    ],
)
def test_too_little_memory_is_one_line(error, capsys):
    assert run_main(raising(error)) == 1
    assert capsys.readouterr().err.startswith("error: there is not enough memory")


def test_what_a_terminal_would_act_upon_is_escaped(capsys):
    assert run_main(raising(DataError("clip '\x1b[2J\x07\x9b'\nträin\t音"))) == 1
    expected = "error: clip '\\x1b[2J\\x07\\x9b'\nträin\t音\n"
    assert capsys.readouterr().err == expected


def test_a_working_directory_that_was_removed_is_said(tmp_path, monkeypatch, capsys):
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    assert run_main(lambda: 0) == 2
    assert "working directory was removed" in capsys.readouterr().err


def test_a_terminal_that_was_closed_is_no_second_error(monkeypatch):
    class Closed(io.StringIO):
        def write(self, _):
            raise OSError(errno.EIO, "Input/output error")

    monkeypatch.setattr(sys, "stderr", Closed())
    assert run_main(raising(DataError("x"))) == 1
