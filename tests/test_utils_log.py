"""Logs: lines on standard error, and a file of the run that a full disk cannot turn against it."""

import errno
import io
import logging
import sys
from pathlib import Path

import pytest

from utils.errors import DataError
from utils.log import OURS, add_log_file, remove_log_file, start_logging

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
    logger.debug("debug")
    logger.info("info")
    logger.warning("warning")
    captured = capsys.readouterr()
    assert captured.err == shown
    assert captured.out == ""


@pytest.mark.parametrize("name", ["h5py._conv", "matplotlib", "urllib3.connectionpool"])
def test_other_libraries_only_warn(capsys, tmp_path, name):
    start_logging(verbose=True)
    handler = add_log_file(tmp_path / "info.log")
    logging.getLogger(name).debug("debug")
    logging.getLogger(name).info("info")
    logging.getLogger(name).warning("warning")
    remove_log_file(handler)
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
    handler = add_log_file(path)
    logger.info("größe")
    remove_log_file(handler)
    logger.info("later")
    handler = add_log_file(path)
    logger.info("continued")
    remove_log_file(handler)
    lines = path.read_text(encoding="utf-8").splitlines()
    assert [line.split("trainer.part: ")[1] for line in lines] == ["größe", "continued"]
    assert " INFO " in lines[0]


def test_why_a_run_failed_stands_in_its_file_alone(tmp_path, capsys):
    start_logging()
    handler = add_log_file(tmp_path / "info.log")
    handler.note_failure(DataError("a file is missing"))
    try:
        1 / 0  # noqa: B018
    except ZeroDivisionError as error:
        handler.note_failure(error)
    remove_log_file(handler)
    text = (tmp_path / "info.log").read_text()
    assert "DataError: a file is missing" in text
    assert text.count("Traceback") == 1  # a mistake of the program has one, a user's has none
    assert capsys.readouterr().err == ""


def test_a_file_that_cannot_be_written_any_more(tmp_path, capsys):
    start_logging()
    handler = add_log_file(tmp_path / "info.log")

    def refuse(_):
        raise OSError(errno.ENOSPC, "No space left on device")

    handler.stream.write = refuse
    logger.info("first")
    logger.info("second")
    remove_log_file(handler)
    message = capsys.readouterr().err
    assert message.count("is not written any more: [Errno 28]") == 1
    assert "first" in message
    assert "second" in message
    assert "Traceback" not in message


def test_what_a_terminal_would_act_upon_is_escaped(tmp_path, capsys):
    start_logging()
    handler = add_log_file(tmp_path / "info.log")
    logger.warning("clip %s", "\x1b[2Jä")
    remove_log_file(handler)
    assert capsys.readouterr().err == "clip \\x1b[2Jä\n"
    assert "\x1b" not in (tmp_path / "info.log").read_text()
