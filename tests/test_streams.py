"""Every command, wherever it prints: closed and odd streams, ASCII, another thread, -O and -OO."""

import io
import os
import resource
import subprocess
import sys
import threading
from pathlib import Path

import pytest

import eval as evaluation
import train
from misc import audit_dataset, compare, pack_features, prune_runs, report, tables
from small_runs import Place, make_data
from surroundings import limited
from utils.errors import ProjectError, run_main
from utils.files import read_json, read_list
from utils.progress import byte_bar, no_bar
from utils.streams import is_terminal, usable_streams

ROOT = Path(__file__).resolve().parent.parent
NAME = "träin 音"


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    made = make_data(tmp_path_factory.mktemp("made"))
    place = Place(tmp_path_factory.mktemp("café"), made)
    place.config({"trainer.epochs": 1}, name=NAME)
    place.train("--config", place.folder / "clotho" / f"{NAME}.json", name=f"clotho-{NAME}")
    return place


def commands(place):
    """Every command of the way from features to tables, with its flags."""
    config = place.folder / "clotho" / f"{NAME}.json"
    run = place.newest(f"clotho-{NAME}")
    yield train.main, ("--config", config)
    yield evaluation.main, ("--resume", run.models)
    yield evaluation.main, ("--list",)
    yield pack_features.main, ("--config", config)
    yield tables.main, (run.log,)
    yield report.main, (run.log, "--out", place.folder / "page.html")
    yield compare.main, (run.log, run.log)
    yield audit_dataset.main, ("--config", config)
    yield prune_runs.main, ("--dry_run",)


class WithoutManners:
    """What notebooks and services put in the place of a stream."""

    def __init__(self):
        self.text = ""

    def write(self, text):
        self.text += text
        return len(text)


def ascii_stream():
    return io.TextIOWrapper(io.BytesIO(), encoding="ascii", errors="strict")


def closed_stream():
    stream = io.StringIO()
    stream.close()
    return stream


STREAMS = {
    "none": lambda: None,
    "closed": closed_stream,
    "ascii": ascii_stream,
    "without manners": WithoutManners,
}


@pytest.fixture(scope="module")
def usual(place):
    """The exit status of every command where nothing is odd."""
    return [place.call(main, *flags) for main, flags in commands(place)]


@pytest.mark.parametrize(
    "kinds", [("none", "closed"), ("ascii", "ascii"), ("without manners", "without manners")]
)
def test_all_commands_end_alike_wherever_they_print(place, usual, monkeypatch, kinds):
    for number, (main, flags) in enumerate(commands(place)):
        with monkeypatch.context() as patch:
            streams = [STREAMS[kind]() for kind in kinds]
            patch.setattr(sys, "stdout", streams[0])
            patch.setattr(sys, "stderr", streams[1])
            status = place.call(main, *flags)
            assert [sys.stdout, sys.stderr] == streams
        assert status == usual[number], main.__module__
    assert usual[0] == usual[1] == 0


def test_letters_that_a_stream_lacks_are_escaped(place, monkeypatch):
    out = ascii_stream()
    monkeypatch.setattr(sys, "stdout", out)
    run = place.newest(f"clotho-{NAME}")
    assert place.call(tables.main, run.log) == 0
    out.flush()
    assert rb"clotho-tr\xe4in \u97f3" in out.buffer.getvalue()
    assert out.errors == "strict"  # as it was


def test_errors_reach_odd_streams(monkeypatch):
    def fail():
        raise ProjectError("träin")

    for name in ("stdout", "stderr"):
        monkeypatch.setattr(sys, name, WithoutManners())
    assert run_main(fail) == 1
    assert sys.stderr.text == "error: träin\n"


def test_commands_run_in_another_thread(place, usual):
    """Where signals cannot be set: in web servers and notebooks."""
    for (main, flags), expected in zip(list(commands(place))[:2], usual[:2], strict=True):
        found = []
        thread = threading.Thread(target=lambda m, f, to: to.append(place.call(m, *f)),
                                  args=(main, flags, found))  # fmt: skip
        thread.start()
        thread.join()
        assert found == [expected], main.__module__


def test_bars_are_for_terminals(monkeypatch):
    odd = WithoutManners()
    monkeypatch.setattr(sys, "stderr", odd)
    assert no_bar() is True
    with byte_bar("file", 10) as bar:
        bar.update(10)
    assert odd.text == ""
    for stream in (None, closed_stream(), io.StringIO(), odd):
        assert not is_terminal(stream)


def test_descriptors_of_closed_streams_are_not_given_to_files():
    """Of `2>&-`: libraries write messages to descriptor 2, whatever file has it by then."""
    probe = (
        "import os\n"
        "from utils.streams import usable_streams\n"
        "with usable_streams():\n"
        "    print(os.open('pyproject.toml', os.O_RDONLY) > 2)\n"
    )
    command = ["sh", "-c", f'exec "{sys.executable}" -c "$0" 2>&- <&-', probe]
    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE).stdout == b"True\n"


def test_a_training_whose_error_stream_is_closed_trains(place):
    """As by cron and daemons; with an ASCII output and a name that it cannot show."""
    before = len(place.runs(f"clotho-{NAME}"))
    command = f'exec "{sys.executable}" -OO "{ROOT}/train.py" --config "$0" 2>&-'
    config = str(place.folder / "clotho" / f"{NAME}.json")
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii", "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        ["sh", "-c", command, config], cwd=place.folder, env=ascii_only, stdout=subprocess.PIPE
    )
    assert done.returncode == 0
    assert rb"tr\xe4in" in done.stdout
    assert len(place.runs(f"clotho-{NAME}")) == before + 1


@pytest.mark.parametrize("script", ["train.py", "eval.py"])
@pytest.mark.parametrize("flags", [["-I"], ["-W", "error", "-bb"]])
def test_entry_points_start_under_any_flags_of_python(script, flags, tmp_path):
    command = [sys.executable, *flags, str(ROOT / script), "--help"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")


HELP = """
import contextlib, io, os, runpy, sys
before = list(sys.path)
root = os.path.commonpath(sys.argv[1:])
for script in sys.argv[1:]:
    for name, module in list(sys.modules.items()):  # what one script found must not help the next
        file = getattr(module, "__file__", None) or ""
        if file.startswith(root) and "site-packages" not in file:
            del sys.modules[name]
    sys.argv, out = [script, "--help"], io.StringIO()
    sys.path[:] = [os.path.dirname(script), *before]
    try:
        with contextlib.redirect_stdout(out):
            runpy.run_path(script, run_name="__main__")
    except SystemExit as stop:
        print(script * (stop.code not in (None, 0) or "usage" not in out.getvalue()), end="")
"""


def test_every_script_helps_without_asserts_and_docstrings_from_any_folder(tmp_path):
    scripts = sorted(map(str, [*ROOT.glob("*.py"), *(ROOT / "misc").glob("*.py")]))
    scripts.remove(str(ROOT / "retrieval.py"))  # a module of names
    command = [sys.executable, "-OO", "-c", HELP, *scripts]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_small_files_are_read_in_little_memory(tmp_path):
    """As under `ulimit -v`: the largest size that is allowed is not asked for."""
    (tmp_path / "list.txt").write_text("a\nb\n")
    (tmp_path / "x.json").write_text("{}")
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    with limited(resource.RLIMIT_AS, used + (32 << 20)):
        assert read_list(tmp_path / "list.txt") == ["a", "b"]
        assert read_json(tmp_path / "x.json") == {}


def test_streams_come_back():
    before = sys.stdout, sys.stderr, sys.stdout.errors
    with usable_streams():
        print("träin")
    assert (sys.stdout, sys.stderr, sys.stdout.errors) == before
