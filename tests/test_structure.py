"""Which package may import which, and where each outside library is used."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = {
    "utils": {"utils"},
    "model": {"model", "utils"},
    "audio": {"audio", "utils"},
    "text": {"text", "model", "utils"},
    "data_loader": {"data_loader", "text", "utils"},
    "soundscenes": {"soundscenes", "audio", "text", "utils"},
    "trainer": {"trainer", "model", "utils"},
    "results": {"results", "trainer", "model", "text", "data_loader", "utils"},
    "search": {"search", "trainer", "model", "audio", "text", "data_loader", "utils"},
    "retrieval": {"search"},
    "misc": {
        *("misc", "results", "search", "trainer", "model", "audio", "text", "data_loader", "utils"),
        *("soundscenes", "train", "eval"),
    },
    "train": {"results", "trainer", "model", "text", "data_loader", "utils"},
    "eval": {"results", "trainer", "model", "text", "data_loader", "utils"},
}
HOMES = {
    "h5py": ("utils/reading/",),
    "pickle": ("utils/reading/", "audio/weights.py"),
    "requests": ("utils/fetching/",),
    "soundfile": ("audio/reading.py", "results/sounds.py"),
    "soxr": ("audio/reading.py",),
    "ai_edge_litert": ("audio/yamnet.py",),
    "pymilvus": ("search/milvus.py",),
    "sqlite3": ("search/index.py",),
    "jinja2": ("results/report.py",),
    "starlette": ("search/server.py",),
    "uvicorn": ("search/server.py",),
    "tensorboard": ("trainer/report.py",),
    "torch.utils.tensorboard": ("trainer/report.py",),
    "subprocess": (),
}


def source_files():
    """Every Python file of the project outside tests/."""
    top = [ROOT / "train.py", ROOT / "eval.py", ROOT / "retrieval.py"]
    return [p for p in top if p.exists()] + sorted(
        p for room in ROOMS if (ROOT / room).is_dir() for p in (ROOT / room).rglob("*.py")
    )


def imported_modules(source):
    """The absolute module names that a source text imports, at any depth."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, "relative imports hide the direction: write the package's name"
            yield node.module
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def room_of(path):
    return path.relative_to(ROOT).parts[0].removesuffix(".py")


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_imports_go_one_way(path):
    allowed = ROOMS[room_of(path)]
    wrong = {
        name
        for name in imported_modules(path.read_text(encoding="utf-8"))
        if name.split(".")[0] in ROOMS and name.split(".")[0] not in allowed
    }
    assert not wrong, f"{path.relative_to(ROOT)} may import {sorted(allowed)}, not {sorted(wrong)}"


@pytest.mark.parametrize("path", source_files(), ids=lambda p: str(p.relative_to(ROOT)))
def test_outside_libraries_stay_at_home(path):
    here = path.relative_to(ROOT).as_posix()
    for name in imported_modules(path.read_text(encoding="utf-8")):
        for library, homes in HOMES.items():
            if name == library or name.startswith(library + "."):
                assert here.startswith(homes) if homes else False, (
                    f"{here} imports {name}; its home is {homes or 'tests/ alone'}"
                )


def test_the_walk_sees_forbidden_imports():
    """The two tests above would notice: a planted import is reported by the same function."""
    source = "def f():\n    from data_loader import build_dataset\n    import h5py.version\n"
    assert "data_loader.build_dataset" in set(imported_modules(source))
    assert "h5py.version" in set(imported_modules(source))
