"""Settings every test shares: one thread, so that runs side by side repeat exactly."""

import logging

import pytest
import torch


@pytest.fixture(autouse=True, scope="session")
def one_thread():
    torch.set_num_threads(1)


@pytest.fixture(autouse=True, scope="session")
def no_proxy():
    with pytest.MonkeyPatch.context() as patch:
        for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
            patch.delenv(name, raising=False)
            patch.delenv(name.upper(), raising=False)
        yield


@pytest.fixture(autouse=True)
def logging_of_its_own():
    """Take back what a test's command did to logging: handlers and levels outlive a command."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    for handler in list(root.handlers):
        if handler not in handlers and "pytest" not in type(handler).__module__:
            root.removeHandler(handler)
    root.setLevel(level)


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data set, which training tests share."""
    from small_runs import make_data

    return make_data(tmp_path_factory.mktemp("made"))


@pytest.fixture
def place(tmp_path, made):
    """A folder for the runs of one test."""
    from small_runs import Place

    return Place(tmp_path, made)
