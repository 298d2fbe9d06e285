"""Logs: lines on standard error, and a file of the run that a full disk cannot turn against it."""

import errno
import io
import logging
import sys
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.log import OURS, log_file, start_logging

logger = logging.getLogger("trainer.part")


@pytest.fixture(autouse=True)
def handlers():
    """Leave the loggers as they were."""
    loggers = [logging.getLogger(name) for name in (None, *OURS)]
    levels = [one.level for one in loggers]
    before = list(loggers[0].handlers)
    yield
    loggers[0].handlers[:] = before
    for one, level in zip(loggers, levels, strict=True):
        one.setLevel(level)


@pytest.mark.parametrize(
    ("options", "shown"),
    [
        ({}, "info\nwarning\n"),
        ({"quiet": True}, "warning\n"),
        ({"verbose": True}, "debug\ninfo\nwarning\n"),
    ],
)
def test_lines_on_standard_error(capsys, options, shown):
    start_logging()
    start_logging(**options)  # a second call replaces the first
    for level in ("debug", "info", "warning"):
        getattr(logger, level)(level)
    captured = capsys.readouterr()
    assert captured.err == shown
    assert captured.out == ""


@pytest.mark.parametrize("name", ["h5py._conv", "matplotlib", "urllib3.connectionpool"])
def test_other_libraries_only_warn(capsys, tmp_path, name):
    start_logging(verbose=True)
    with log_file(tmp_path / "info.log"):
        for level in ("debug", "info", "warning"):
            getattr(logging.getLogger(name), level)(level)
    assert capsys.readouterr().err == "warning\n"
    assert len((tmp_path / "info.log").read_text().splitlines()) == 1


def test_every_part_of_the_project_is_heard():
    root = Path(__file__).resolve().parent.parent
    rooms = {path.parent.name for path in root.glob("*/*.py")} - {"tests"}
    assert rooms | {"train", "eval"} <= set(OURS)


def test_colours_on_a_terminal_only(monkeypatch):
    class Terminal(io.StringIO):
        def isatty(self):
            return True

    monkeypatch.setattr(sys, "stderr", Terminal())
    start_logging()
    logger.info("plain")
    logger.warning("coloured")
    assert sys.stderr.getvalue() == "plain\n\033[33mcoloured\033[0m\n"


def test_an_error_stream_that_cannot_be_written(monkeypatch):
    class Full(io.StringIO):
        def write(self, _):
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(sys, "stderr", Full())
    start_logging()
    logger.info("unheard")


def test_a_file_of_the_run(tmp_path):
    start_logging(quiet=True)
    path = tmp_path / "log" / "info.log"
    with log_file(path):
        logger.info("größe")
    logger.info("later")
    with log_file(path):
        logger.info("continued")
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split("trainer.part: ")[1] for line in lines] == ["größe", "continued"]
    assert " INFO " in lines[0]


@pytest.mark.parametrize("error", [DataError("a file is missing"), ZeroDivisionError("x")])
def test_why_a_run_failed_stands_in_its_file_alone(tmp_path, capsys, error):
    start_logging()
    with pytest.raises(type(error)), log_file(tmp_path / "info.log"):
        raise error
    text = (tmp_path / "info.log").read_text()
    assert f"{type(error).__name__}: {error}" in text
    # a mistake of the program has one, a user's has none
    assert ("Traceback" in text) == isinstance(error, ZeroDivisionError)
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written_any_more(tmp_path, capsys):
    start_logging()
    (tmp_path / "info.log").symlink_to("/dev/full")
    with log_file(tmp_path / "info.log"):
        logger.info("first")
        logger.info("second")
    message = capsys.readouterr().err
    assert message.count("is not written any more: [Errno 28]") == 1
    assert "first" in message
    assert "second" in message
    assert "Traceback" not in message


def test_what_a_terminal_would_act_upon_is_escaped(tmp_path, capsys):
    start_logging()
    with log_file(tmp_path / "info.log"):
        logger.warning("clip %s", "\x1b[2Jä")
    assert capsys.readouterr().err == "clip \\x1b[2Jä\n"
    assert "\x1b" not in (tmp_path / "info.log").read_text()
