"""The documentation is true: commands parse or run, files exist, figures name their source."""

import argparse
import ast
import importlib
import json
import re
import shlex
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
import yaml

import train
from data_loader import find_archive
from misc import tables
from model import loss
from model.metric import METRICS, TASKS
from results import documents
from results.content import PROJECT_VERSION
from synthetic import write_dataset
from utils.config import load_config
from utils.errors import ProjectError
from utils.fetching.experiments import (
    experiment_name,
    load_experiments,
)
from utils.reading.hickle import write_hickle

ROOT = Path(__file__).resolve().parent.parent
PAGES = sorted(
    page.relative_to(ROOT).as_posix()
    for pattern in ("*.md", "docs/*.md", "misc/*.md")
    for page in ROOT.glob(pattern)
)
SHELLS = {"", "sh", "bash", "shell"}
PLAIN = {"git", "cd", "ln", ".", "export", "mkdir"}
"""Commands that are not ours."""
ROOMS = (
    "configs|audio|model|data_loader|soundscenes|text|trainer|results|search|utils|misc|tests|docs"
    "|requirements|.ci"
)
OWN_FILE = re.compile(rf"^(?:{ROOMS})/[\w./*<>-]+$|^[\w-]+\.(?:py|md|toml|cff)$")
EXPERIMENT = re.compile(
    r"\b(?:audiocaps|clotho|activity-net|queryd|querydsegments|sounddescs|soundscenes)"
    r"-train-[\w-]*\w"
)


# -- what a page holds ------------------------------------------------------------------------


@dataclass(frozen=True)
class Block:
    """A fenced block: its language, its text, and the file that the line before it names."""

    language: str
    text: str
    file: str | None


def read(page):
    return (ROOT / page).read_text(encoding="utf-8")


def blocks(text):
    """The fenced blocks of a page."""
    found, named, open_block = [], None, None
    for line in text.splitlines():
        if line.startswith("```"):
            if open_block is None:
                open_block = (line[3:].strip(), [], named)
            else:
                found.append(Block(open_block[0], "\n".join(open_block[1]), open_block[2]))
                open_block = named = None
        elif open_block is not None:
            open_block[1].append(line)
        elif line.strip():
            name = re.fullmatch(r"`([^`]+)`:", line.strip())
            named = name[1] if name else None
    assert open_block is None, "a fenced block is not closed"
    return found


def prose(text):
    """A page without its fenced blocks."""
    return re.sub(r"^```.*?^```", "", text, flags=re.DOTALL | re.MULTILINE)


def spans(text):
    """What stands in `backticks` in running text."""
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]


def commands(text):
    """Every command of a page, split into words: those of fenced blocks, then inline ones."""
    lines = []
    for block in blocks(text):
        if block.language in SHELLS:
            lines += block.text.replace("\\\n", " ").splitlines()
    lines += [s for s in spans(text) if s.split()[0] in {"python", "make", "torchrun"} and " " in s]
    split = [shlex.split(line, comments=True) for line in lines]
    return [words for words in split if words]


def shown_files():
    """The config files that the pages tell the reader to write: name -> content."""
    return {block.file: block.text for page in PAGES for block in blocks(read(page)) if block.file}


def makefile():
    """The targets of the Makefile, and all commands of their recipes."""
    text = (ROOT / "Makefile").read_text().replace("\\\n", " ")
    targets = set(re.findall(r"^([a-z-]+):(?!=)", text, flags=re.MULTILINE))
    recipes = re.findall(r"\$\(BIN\)/(python [^;&|>\n]*)", text)
    return targets, [shlex.split(recipe.replace("$$", "")) for recipe in recipes]


# -- what a command says ----------------------------------------------------------------------


class Parsed(Exception):
    """Carries what a script's own parser made of a command line."""


def parse(script, words, monkeypatch):
    """Let a script's own parser read `words`; return what it made of them."""
    original = argparse.ArgumentParser.parse_args

    def parse_args(self, args=None, namespace=None):
        known = set(self._option_string_actions)
        for word in words:
            flag = word.split("=")[0]
            assert not flag.startswith("--") or flag in known, f"{script} has no flag {flag}"
        raise Parsed(original(self, args, namespace))

    module = importlib.import_module(script.removesuffix(".py").replace("/", "."))
    with monkeypatch.context() as patched:
        patched.setattr(argparse.ArgumentParser, "parse_args", parse_args)
        try:
            status = module.main(words)
        except Parsed as parsed:
            return parsed.args[0]
    raise AssertionError(f"{script} {' '.join(words)}: its parser ended with {status}")


def check(words, monkeypatch, tmp_path):
    """Check one command: the script, its flags, and the configs and names that it is given."""
    while re.fullmatch(r"[A-Z_]+=.*", words[0]):
        words = words[1:]
    program, *rest = words
    if program == "make":
        targets = makefile()[0]
        unknown = [word for word in rest if "=" not in word and word not in targets]
        assert not unknown, f"the Makefile has no target {unknown}"
        return
    if program == "torchrun":
        while rest[0].startswith("--"):
            assert rest[0].split("=")[0] in {"--standalone", "--nproc_per_node", "--nnodes"}
            rest = rest[1:]
    elif program != "python":
        assert program in PLAIN, f"unknown command {program!r}"
        return
    if rest[0] == "-m":
        check_module(rest[1], rest[2:])
        return
    script = rest[0]
    assert (ROOT / script).is_file(), f"there is no {script}"
    check_values(parse(script, rest[1:], monkeypatch), tmp_path)


def check_module(name, words):
    if name == "pytest":
        for word in words:
            assert "/" not in word or (ROOT / word).exists(), f"there is no {word}"
    elif name != "pip":
        assert (ROOT / f"{name.replace('.', '/')}.py").is_file(), f"there is no module {name}"


def check_values(args, tmp_path):
    given = vars(args)
    config = given.get("config")
    if config and not str(config).isupper() and not str(config).startswith("RUN/"):
        load_config(config_file(str(config), tmp_path), custom_args=given.get("custom_args") or "")
    if given.get("experiment") not in (None, "NAME"):
        assert given["experiment"] in load_experiments()
    for name in given.get("dataset") or []:
        find_archive(name)
    if isinstance(given.get("command"), str):
        assert shlex.split(given["command"])[0] in {"python", "make", "torchrun"}


def config_file(name, tmp_path):
    """A config of the project, or one that the pages show, written where it can be loaded."""
    if (ROOT / name).is_file():
        return ROOT / name
    assert name in shown_files(), f"there is no {name}, and no page shows one"
    for file, text in shown_files().items():
        place = tmp_path / file
        place.parent.mkdir(parents=True, exist_ok=True)
        content = json.loads(text)
        if content["inherit_from"] in shown_files():
            content["inherit_from"] = str(tmp_path / content["inherit_from"])
        place.write_text(json.dumps(content))
    return tmp_path / name


OWN_LOSS = "loss.type@SoftmaxLoss"
SMALL = "trainer.epochs@1+trainer.tensorboard@0+experts.ce_shared_dim@8"
EVERY_COMMAND = list(
    dict.fromkeys(
        (page, shlex.join(words))
        for page in PAGES
        for words in commands(read(page))
        if OWN_LOSS not in words  # is run below, in a copy that has the loss
    )
)


@pytest.mark.parametrize(("page", "command"), EVERY_COMMAND)
def test_every_command_is_one_that_its_program_understands(page, command, monkeypatch, tmp_path):
    check(shlex.split(command), monkeypatch, tmp_path)


def test_the_makefile_calls_scripts_as_they_are(monkeypatch, tmp_path):
    targets, recipes = makefile()
    assert {"help", "setup", "demo", "test", "check"} <= targets
    for words in recipes:
        if words[1] != "-c":
            check(words, monkeypatch, tmp_path)


@pytest.mark.parametrize(
    "wrong",
    [
        "python train.py --confg configs/clotho/train-vggish-vggsound.json",
        "python train.py --conf configs/clotho/train-vggish-vggsound.json",
        "python train.py --config configs/clotho/train-nothing.json",
        "python train.py --config configs/clotho/train-vggish-vggsound.json --custom_args a.b@1",
        "python misc/nothing.py",
        "python misc/sync_experts.py --dataset Clotho",
        "python eval.py --experiment clotho-train-nothing",
        "python eval.py --format pdf",
        "python -m pytest tests/test_nothing.py",
        "python -m utils.nothing",
        "torchrun --nodes=2 train.py --config configs/clotho/train-vggish-vggsound.json",
        "make nothing",
        "rm -rf data",
    ],
)
def test_wrong_commands_would_be_noticed(wrong, monkeypatch, tmp_path):
    with pytest.raises((AssertionError, ProjectError)):
        check(shlex.split(wrong), monkeypatch, tmp_path)


def test_the_newcomers_way_is_on_the_pages():
    together = [command for page, command in EVERY_COMMAND if page == "README.md"]
    for start in ("make demo", "make test", "python train.py", "python eval.py --experiment"):
        assert any(command.startswith(start) for command in together), start


# -- names ------------------------------------------------------------------------------------


@pytest.mark.parametrize("page", PAGES)
def test_files_that_are_mentioned_exist(page):
    shown = shown_files()
    for span in spans(read(page)):
        if OWN_FILE.fullmatch(span) and span not in shown:
            pattern = re.sub(r"<[^>]*>", "*", span).rstrip("/")
            places = [pattern] if "/" in pattern else [pattern, f"*/{pattern}"]
            found = any(any(ROOT.glob(place)) for place in places)
            assert found, f"{page} mentions {span}, which is not there"


@pytest.mark.parametrize("page", PAGES)
def test_experiments_and_configs_that_are_mentioned_exist(page):
    known = {experiment_name(path) for path in (ROOT / "configs").glob("*/*.json")}
    assert set(EXPERIMENT.findall(read(page))) <= {*load_experiments(), *known}
    for config in re.findall(r"\bconfigs/[\w./-]+\.json\b", read(page)):
        assert config.startswith("configs/mine/") or (ROOT / config).exists(), config


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page):
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(read(page))):
        if target.startswith(("http://", "https://")):
            continue
        file, _, anchor = target.partition("#")
        place = (ROOT / page).parent / file if file else ROOT / page
        assert place.exists(), f"{page} links to {target}"
        if anchor:
            assert anchor in anchors(place.read_text(encoding="utf-8")), f"{page}: {target}"


def anchors(text):
    """The anchors of a page's headings, as code hosts make them."""
    heads = re.findall(r"^#+ (.*)$", prose(text), flags=re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head.lower()).replace(" ", "-") for head in heads}


# -- examples ---------------------------------------------------------------------------------


@pytest.mark.parametrize("name", sorted(shown_files()))
def test_configs_that_are_shown_load(name, tmp_path):
    config = load_config(config_file(name, tmp_path))
    assert config.name == experiment_name(name)


def test_a_config_that_is_shown_twice_is_the_same():
    seen = {}
    for page in PAGES:
        for block in blocks(read(page)):
            if block.file:
                assert json.loads(seen.setdefault(block.file, block.text)) == json.loads(block.text)


@pytest.mark.parametrize("page", PAGES)
def test_python_that_is_shown_imports_what_there_is(page):
    for block in blocks(read(page)):
        if block.language == "python":
            for node in ast.walk(ast.parse(block.text)):
                if isinstance(node, ast.ImportFrom):
                    module = importlib.import_module(node.module)
                    assert all(hasattr(module, alias.name) for alias in node.names)


def test_own_data_and_own_expert_train_as_shown(tmp_path, monkeypatch, capsys):
    """The script of docs/own-data.md writes a data set; the configs of the pages train on it."""
    monkeypatch.chdir(tmp_path)
    (script,) = [b.text for b in blocks(read("docs/own-data.md")) if b.language == "python"]
    exec(script, {})
    root = Path("data/Mine/structured-symlinks")
    (root / "aggregated_rhythm").mkdir()
    write_hickle(
        root / "aggregated_rhythm" / "rhythm-raw.hickle",
        {f"clip {n}": torch.randn(n + 1, 64).numpy() for n in range(12)},
    )
    small = f"{SMALL}+arch.args.vlad_clusters.text@2"
    wanted = {"train": ["audio", "vggsound"], "train-own-expert": ["audio", "rhythm"]}
    for name, experts in wanted.items():
        config = config_file(f"configs/mine/{name}.json", tmp_path)
        assert train.main(["--config", str(config), "--custom_args", small]) == 0
        assert " 8 clips, epochs: 1, seeds: 0\n" in capsys.readouterr().err
        (run,) = (tmp_path / "data/saved/models").glob(f"mine-{name}-trainer*/*")
        loaded = load_config(run / "config.json")
        assert [expert.name for expert in loaded.experts] == experts


def test_the_loss_of_the_documentation_trains_as_shown(tmp_path, monkeypatch):
    """The class of docs/own-parts.md, as if it were at the end of model/loss.py."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(loss.LOSSES, "SoftmaxLoss", None)  # leaves with the test
    (shown,) = (b.text for b in blocks(read("docs/own-parts.md")) if b.language == "python")
    exec(shown, dict(vars(loss)))
    write_dataset(Path("data/CLOTHO"), "CLOTHO")
    config = str(ROOT / "configs/clotho/train-full-ce-only-audio.json")
    own = f"{OWN_LOSS}+loss.args.temperature@0.5+{SMALL}"
    assert train.main(["--config", config, "--custom_args", own]) == 0
    (metrics,) = Path("data").glob("saved/log/*/*/metrics.jsonl")
    assert json.loads(metrics.read_text())["loss"] > 1  # ranking losses are a few tenths


# -- figures ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "part", [{"mini_train": True, "protocol": {}}, {"protocol": {"queried_clips": 3}}]
)
def test_results_of_a_part_are_no_measurement(tmp_path, part, capsys):
    metrics = {"t2v_metrics": {"R1": 1.0}, "v2t_metrics": {"R1": 1.0}}
    results = {"config": "a", "seeds": {"0": metrics}, **part}
    (tmp_path / "results.json").write_text(json.dumps(results))
    flags = ["--data", "a", "--command", "b", "--machine", "c"]
    assert tables.main(["--add", str(tmp_path / "results.json"), *flags]) == 1
    assert "is of a part" in capsys.readouterr().err


def test_figures_name_the_command_that_made_them():
    for row in documents.load_measured():
        assert all(vars(row)[key] for key in ("command", "machine", "date", "data"))


def test_result_pages_are_what_the_script_writes():
    remedy = "write them anew: python misc/tables.py --documents"
    assert read("docs/published-results.md") == documents.render_page(), remedy


def test_a_result_is_taken_in_once(tmp_path, monkeypatch):
    (tmp_path / "measured.json").write_text("[]\n")
    for name, file in {"MEASURED": "measured.json", "PAGE": "page.md", "NAMES": "names.md"}.items():
        monkeypatch.setattr(documents, name, tmp_path / file)
    seeds = [{f"{task}_metrics": dict.fromkeys(METRICS, n) for task in TASKS} for n in (12, 13)]
    name = "clotho-train-vggish-vggsound"
    results = {"config": name, "protocol": {}, "seeds": dict(enumerate(seeds))}
    (tmp_path / "results.json").write_text(json.dumps(results))
    call = ["--add", str(tmp_path / "results.json"), "--data", "ours", "--machine", "m"]
    assert tables.main(call) == 2  # without the command that measured it
    for _ in range(2):
        assert tables.main([*call, "--command", "python train.py"]) == 0
    (row,) = json.loads((tmp_path / "measured.json").read_text())
    assert (row["seeds"], row["t2v"]["R10"]) == (2, [12.5, 0.7071])
    page = (tmp_path / "page.md").read_text()
    assert f"| ours | `{name}` | 2 | 12.5 (0.7) |" in page


# -- the record -------------------------------------------------------------------------------


def test_versions_agree():
    version = re.search(r'^version = "(.+)"$', read("pyproject.toml"), re.MULTILINE)[1]
    assert yaml.safe_load(read("CITATION.cff"))["version"] == version == PROJECT_VERSION
    assert re.search(r"^## (\S+)", read("CHANGELOG.md"), re.MULTILINE)[1] == version


def test_the_citation_names_the_paper():
    paper = yaml.safe_load(read("CITATION.cff"))["preferred-citation"]
    names = [author["family-names"] for author in paper["authors"]]
    assert names == ["Oncescu", "Koepke", "Henriques", "Akata", "Albanie"]
    assert paper["title"] in read("README.md").replace("\n", " ")


def test_every_script_and_page_is_on_a_page():
    everything = "".join(map(read, PAGES))
    for script in (ROOT / "misc").glob("*.py"):
        assert f"misc/{script.name}" in everything, f"no page mentions misc/{script.name}"
    for page in (ROOT / "docs").glob("*.md"):
        assert f"docs/{page.name}" in read("README.md"), f"README does not lead to docs/{page.name}"


def test_pages_fit_the_screen():
    assert len(read("README.md").splitlines()) <= 200
    for page in ("README.md", "CONTRIBUTING.md", "docs/own-data.md", "docs/own-parts.md"):
        for line in prose(read(page)).splitlines():
            generated = line.startswith("|") or (line.startswith("* ") and "; " in line)
            assert len(line) <= 100 or generated, f"{page}: {line}"
    assert len(read("CONTRIBUTING.md")) < 6000, "CONTRIBUTING.md is one page"
