"""The published experiments: what they are, where their files are, and how to get them here.

Two papers publish experiments, partly under the same names: name and group identify the files of
one, name and paper its rows in the tables.
"""

from __future__ import annotations

import functools
import shlex
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from utils.errors import UnreachableError, UsageError, nearest
from utils.fetching.manifest import shown
from utils.files import read_json

REGISTRY = Path(__file__).resolve().parents[2] / "configs" / "experiments.json"
ROOT_URL = "http://www.robots.ox.ac.uk/~vgg/research/collaborative-experts/data"
CHECKPOINT, RUN_CONFIG = "trained_model.pth", "config.json"

Published = Mapping[str, Mapping[str, Sequence[float]]]
"""Task ("t2v", "v2t") -> metric (R1 R5 R10 R50 MedR MeanR geom) -> [mean, standard deviation]."""


EACH_CAPTION, ONE_CAPTION, JOINED = "each caption", "one caption", "captions joined"
PROTOCOLS = (EACH_CAPTION, ONE_CAPTION, JOINED)
"""What a query is: each of a clip's captions, its only one, or all of them joined."""


@dataclass(frozen=True)
class Experiment:
    """A published experiment: trained checkpoints, one per seed, and its rows in the tables."""

    key: str
    """NAME; NAME@GROUP, or NAME@PAPER of the same files, where an earlier row has the name."""
    name: str
    paper: str  # its year
    config: str  # relative to the repository root
    label: str  # the name of its row
    dataset: str  # folder of its features below data/
    parameters: int  # trainable ones
    group: str | None  # None: checkpoints alone are published, by seed
    runs: Mapping[int, str | None]  # seed -> time of the run; None where there is no group
    protocol: str  # one of PROTOCOLS
    published: Published | None  # None: no row in a table
    flags: Sequence[str] = ()  # what to know before comparing with the row

    @property
    def row(self) -> str:
        """Return the name of its row with the paper, and the protocol where captions are joined."""
        joined = f", {JOINED}" if self.protocol == JOINED else ""
        return f"{self.label} ({self.paper}{joined})"

    @property
    def files(self) -> tuple[str, ...]:
        """Return the files that are published of each seed."""
        return (RUN_CONFIG, CHECKPOINT) if self.group else (CHECKPOINT,)

    def config_file(self, seed: int, data_dir: Path) -> Path:
        """Return the configuration of a seed: the run's own where it is published, else ours."""
        if RUN_CONFIG in self.files:
            return self.folder(seed, data_dir) / RUN_CONFIG
        return REGISTRY.parent.parent / self.config

    def folder(self, seed: int, data_dir: Path) -> Path:
        """Return the folder of the files of a seed."""
        return data_dir / "saved" / self._place(seed)

    def seeds_here(self, data_dir: Path) -> list[int]:
        """Return the seeds whose files are on this disk."""
        return [
            seed
            for seed in self.runs
            if all((self.folder(seed, data_dir) / file).is_file() for file in self.files)
        ]

    def url(self, seed: int, root_url: str) -> str:
        """Return where the files of a seed are published."""
        return f"{root_url.rstrip('/')}/{self._place(seed)}"

    def _place(self, seed: int) -> str:
        if seed not in self.runs:
            known = ", ".join(map(str, self.runs))
            raise UsageError(f"{self.name} has no published run of seed {seed}; there are: {known}")
        parts = ("models", self.name, self.group, f"seed-{seed}", self.runs[seed])
        return "/".join(part for part in parts if part)


@functools.cache
def registry() -> dict[str, Any]:
    """Return what is known of all published experiments, by the sections of the file.

    `papers`: year -> `title` and `notes`, what to know of its rows; `datasets`: folder below data/
    -> `configs`, the folder of their configs; `experiments`: year of the paper -> name -> what
    Experiment holds; `unpublished`: configs of the project that have no published run.
    """
    content: dict[str, Any] = read_json(REGISTRY)
    return content


def load_experiments() -> dict[str, Experiment]:
    """Return all published experiments by their keys, in the order of the registry."""
    folders = {entry["configs"]: name for name, entry in registry()["datasets"].items()}
    experiments: dict[str, Experiment] = {}
    for paper, entries in registry()["experiments"].items():
        for name, entry in entries.items():
            key, earlier = name, experiments.get(name)
            if earlier is not None:
                key = f"{name}@{paper if entry['group'] == earlier.group else entry['group']}"
            runs = {int(seed): time for seed, time in entry["runs"].items()}
            dataset = folders[str(Path(entry["config"]).parent)]
            known = {"key": key, "name": name, "paper": paper, "dataset": dataset}
            experiments[key] = Experiment(**entry | known | {"runs": runs})
    return experiments


def find_experiment(name: str) -> Experiment:
    """Return the experiment of exactly this name, the first paper's where both have it.

    NAME@GROUP and NAME@PAPER choose. Raises UsageError with the nearest name otherwise.
    """
    experiments = load_experiments()
    if name in experiments:
        return experiments[name]
    for experiment in experiments.values():
        choices = (experiment.group, experiment.paper)
        if name in [f"{experiment.name}@{choice}" for choice in choices if choice]:
            return experiment
    for config in registry()["unpublished"]:
        if name == experiment_name(config):
            raise UsageError(
                f"{name} has a config but no published run; train it with: "
                f"python train.py --config {config}"
            )
    raise UsageError(
        f"unknown experiment {name[:200]!r}{nearest(name, experiments)} "
        "(all names: python eval.py --list)"
    )


def experiment_name(config: str) -> str:
    """Return the name of the experiment of a config: "configs/a/b.json" -> "a-b"."""
    path = Path(config)
    return f"{path.parent.name}-{path.stem}"


class Source:
    """The address of published runs; a server that cannot be reached is asked once."""

    def __init__(self, root_url: str = ROOT_URL, data_dir: Path = Path("data")) -> None:
        self.root_url, self.data_dir = root_url, data_dir
        self._failure: UnreachableError | None = None

    def fetch(self, experiment: Experiment, seed: int) -> Path:
        """Bring the published files of a seed here, or verify them; returns their folder.

        A new checkpoint has to be readable before it gets its final name. Raises DownloadError,
        also when a file is not the one fetched earlier.
        """
        # not above: torch takes seconds to import, and the registry alone does not need them
        from utils.fetching.download import fetch
        from utils.reading.checkpoints import read_torch_checkpoint

        if self._failure is not None and seed not in experiment.seeds_here(self.data_dir):
            raise self._failure
        folder, url = experiment.folder(seed, self.data_dir), experiment.url(seed, self.root_url)
        checks = {RUN_CONFIG: read_json, CHECKPOINT: read_torch_checkpoint}
        try:
            for file in experiment.files:
                fetch(f"{url}/{file}", folder / file, check=checks[file])
        except UnreachableError as error:
            self._failure = error
            raise
        return folder


def sync_command(dataset: str, data_dir: Path = Path("data"), root_url: str = ROOT_URL) -> str:
    """Return the command that fetches the features of a data set, from the same mirror."""
    elsewhere = "" if data_dir == Path("data") else f" --data_dir {shlex.quote(str(data_dir))}"
    mirror = "" if root_url == ROOT_URL else f" --root_url {shlex.quote(shown(root_url))}"
    return f"python misc/sync_experts.py --dataset {dataset}{elsewhere}{mirror}"
