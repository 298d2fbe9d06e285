"""Small trainings on made-up data, in a folder of their own; some die on the way.

place = Place(tmp_path, made)           # the data set lies at <tmp_path>/data/CLOTHO
config = place.config({"trainer.epochs": 2})
run = place.train("--config", config)   # `train.main` with the folder as working directory
"""

import json
import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
import threading
from pathlib import Path

import torch
import torch._dynamo  # optimisers import it at their first step: children need not
from torch.optim.optimizer import register_optimizer_step_post_hook
from tqdm import tqdm

import eval as evaluation
import train
from misc.soak import content_of, differences
from surroundings import working_in
from synthetic import write_dataset

ROOT = Path(__file__).resolve().parent.parent
CE = "configs/clotho/train-vggish-vggsound.json"
SINGLE = "configs/clotho/train-full-ce-only-audio.json"
SMALL = {
    "experts.ce_shared_dim": 16,
    "arch.args.vlad_clusters": {"text": 2, "audio": 2, "vggsound": 2},
    "data_loader.args.batch_size": 6,
    "trainer.epochs": 3,
    "trainer.tensorboard": False,
    "trainer.save_pause": 0.0,
    "trainer.include_optim_in_ckpts": True,
}


def make_data(folder):
    """Write the data set that the trainings of a test file share: 4 batches an epoch."""
    sizes = {"train": 22, "val": 6, "test": 7}
    return write_dataset(folder / "CLOTHO", "CLOTHO", sizes=sizes, text_dim=300)


class Place:
    """A folder to train in, as if it were the repository's root."""

    def __init__(self, folder, made):
        self.folder = folder
        self.data = made
        self.packed = made.data_dir.parent / "packed"
        (folder / "data").mkdir()
        (folder / "data" / "CLOTHO").symlink_to(made.data_dir)

    def config(self, changes=None, *, name="tiny", base=SINGLE):
        """Write a reduced form of a published config, clotho/<name>.json, with these changes."""
        content = {"inherit_from": base, "seed": 0}
        changes = SMALL | {"data_loader.args.packed_dir": str(self.packed)} | (changes or {})
        for dotted, value in changes.items():
            *sections, last = dotted.split(".")
            place = content
            for section in sections:
                place = place.setdefault(section, {})
            place[last] = value
        path = self.folder / "clotho" / f"{name}.json"
        path.parent.mkdir(exist_ok=True)
        path.write_text(json.dumps(content))
        return path

    def call(self, main, *flags):
        """Call a command's main from this folder; return its exit status."""
        with working_in(self.folder):
            return main([str(flag) for flag in flags])

    def train(self, *flags, name="clotho-tiny"):
        """Train, which must succeed; return the newest run."""
        assert self.call(train.main, *flags) == 0
        return self.newest(name)

    def fails(self, capsys, *flags, status=1, words):
        """Train, which must end with one message that holds these words; return it."""
        capsys.readouterr()
        assert self.call(train.main, *flags) == status
        message = capsys.readouterr().err
        for word in words:
            assert str(word) in message, message
        assert "Traceback" not in message
        return message

    def train_by_torchrun(self, processes, *flags):
        """Train by several processes, which must succeed; return the newest run, and the output."""
        launcher = ["-m", "torch.distributed.run", "--standalone", f"--nproc_per_node={processes}"]
        done = subprocess.run(
            [sys.executable, *launcher, ROOT / "train.py", *map(str, flags)],
            cwd=self.folder,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=240,
            check=False,
        )
        assert done.returncode == 0, done.stderr
        return self.newest(), done

    def evaluate(self, *flags):
        """Evaluate, which must succeed; return results.json."""
        assert self.call(evaluation.main, *flags, "--out", self.folder / "scored") == 0
        return json.loads((self.folder / "scored" / "results.json").read_text())

    def runs(self, name="clotho-tiny"):
        """Return the run folders of an experiment, the oldest first."""
        folder = self.folder / "data" / "saved" / "models" / name
        found = sorted(folder.glob("*"), key=lambda path: path.stat().st_ctime_ns)
        return [Finished(run) for run in found]

    def newest(self, name="clotho-tiny"):
        return self.runs(name)[-1]

    def forget_runs(self):
        shutil.rmtree(self.folder / "data" / "saved", ignore_errors=True)

    def train_in_child(self, *flags, **death):
        """Train in a process of its own, which may die on the way; return its exit status."""
        with working_in(self.folder):
            child = children().Process(
                target=_train, args=([str(flag) for flag in flags],), kwargs=death
            )
            child.start()
        child.join(timeout=120)
        assert child.exitcode is not None
        return child.exitcode


class Finished:
    """A run's files."""

    def __init__(self, models):
        self.models = models
        parts = list(models.parts)
        parts[len(parts) - 1 - parts[::-1].index("models")] = "log"
        self.log = Path(*parts)

    def __getattr__(self, name):
        """`run.last` and `run.trained_model` are the checkpoints' paths."""
        return self.models / f"{name}.pth"

    @property
    def results(self):
        return json.loads((self.log / "results.json").read_text())

    @property
    def metrics(self):
        return [json.loads(line) for line in (self.log / "metrics.jsonl").read_text().splitlines()]

    @property
    def config(self):
        return json.loads((self.models / "config.json").read_text())


def children():
    """Return how child processes are made: forked from one that has imported everything."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["small_runs"])
    os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), str(ROOT / "tests")])
    return context


def _train(argv, *, at=None, count=0, number=signal.SIGKILL, tell=None):
    """Train in a child; at the `count`th event `at` it sends itself the signal `number`.

    at: "file", before a file is renamed, linked or removed; "step", after an optimiser step;
    "half", half-way through writing a checkpoint. `tell`: where to write how many there were.
    """
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    tqdm.set_lock(threading.RLock())  # its own one outlives a kill, with a warning
    seen = 0

    def event():
        nonlocal seen
        seen += 1
        if seen == count:
            os.kill(os.getpid(), number)

    if at == "file":
        names = {"os.rename", "os.link", "os.remove"}
        sys.addaudithook(lambda name, _: event() if name in names else None)
    if at == "step":
        register_optimizer_step_post_hook(lambda *_: event())
    if at == "half":
        save = torch.save

        def save_half(content, file):
            save(content, file)
            file.flush()
            os.truncate(file.fileno(), file.tell() // 2)
            event()
            file.seek(0)
            save(content, file)

        torch.save = save_half
    status = train.main(argv)
    if tell:
        Path(tell).write_text(str(seen))
    sys.exit(status)


def same(first, second):
    """Say whether two values are equal to the last bit, tensors and all; clocks aside."""
    return not differences(first, second, "")


def assert_same_run(first, second):
    """Compare two finished runs: weights, optimiser, generators, metrics and results."""
    for file in ("last.pth", "trained_model.pth"):
        found = differences(content_of(first.models / file), content_of(second.models / file), file)
        assert not found
    assert not differences(first.metrics, second.metrics, "metrics.jsonl")
    one, other = ({**run.results, "config_file": ""} for run in (first, second))
    assert not differences(one, other, "results.json")
