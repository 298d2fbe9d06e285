"""Damage small files of every kind the project reads, and count how reading them ends.

    python misc/fuzz.py --mutations 2000 --seed 0          every kind
    python misc/fuzz.py --kind hickle --mutations 100000   one kind
    python misc/fuzz.py --kind pickle --atheris 60         guided by coverage, for 60 seconds

A reading may end in a value or in an error meant for people. Anything else is unexplained: another
exception, a warning, a crash, more than --seconds, more memory than allowed, a process started, a
file written elsewhere. What was unexplained is kept, and the exit status is 1.

Readings happen in processes of their own, because a crash or an endless loop must be counted, not
suffered. This script alone may do that: nothing that trains or evaluates starts processes.
"""

from __future__ import annotations

import argparse
import contextlib
import gzip
import hashlib
import io
import logging
import multiprocessing
import os
import random
import re
import resource
import signal
import sys
import tarfile
import tempfile
import time
import types
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import torch

from data_loader.packed_file import TAIL, map_packed
from data_loader.readers import read_captions, read_features, read_text_features
from data_loader.store import FeatureStore
from model import build_model
from trainer.checkpoint import load_checkpoint
from trainer.optimizer import build_optimizer, build_scheduler
from trainer.progress import Progress
from trainer.training import Training
from utils.config import load_config
from utils.errors import ProjectError, UsageError, nearest, run_main
from utils.files import atomic_writer, read_json, read_list, write_json, write_text
from utils.reading.archives import check_archive
from utils.reading.checkpoints import read_torch_checkpoint
from utils.reading.hickle import write_hickle
from utils.reading.pickles import ExpertStore, dump_plain, load_plain

MEMORY = 2 << 30
"""Bytes of address space that one reading may add."""
IMPORTS, FIRST = 120.0, 30.0
"""Seconds that a new process, and the first reading of a kind, may take besides."""
GENUINE = ROOT / "tests" / "data"
LARGEST_SEED = 300_000  # bytes: in larger files few mutations touch what matters

FORBIDDEN_EVENTS = re.compile(
    r"os\.(system|exec|posix_spawn|spawn|fork|forkpty)|subprocess\..*|pty\.spawn|socket\.(bind|"
    r"connect)|pickle\.find_class|ctypes\.dlopen|webbrowser\.open|shutil\..*"
)
WRITING_EVENTS = re.compile(r"os\.(remove|rename|rmdir|mkdir|link|symlink|chmod|chown|truncate)")


@dataclass(frozen=True)
class Kind:
    """A kind of file: how small ones are made, how one is read to its end, how it is resealed.

    `inside` takes the content apart so that mutations get past its checksums, and seals it anew.
    """

    suffix: str
    make: Callable[[Path], None]
    read: Callable[[Path], object]
    inside: Callable[[bytes, random.Random], bytes] | None = None


@dataclass
class Tally:
    """How the readings of one kind ended."""

    read: int = 0
    refused: int = 0
    unexplained: list[str] = field(default_factory=list)
    slowest: float = 0.0
    memory: int = 0
    """Peak bytes of memory that readings added to their process."""
    messages: Counter[str] = field(default_factory=Counter)

    @property
    def count(self) -> int:
        """How many mutations were read."""
        return self.read + self.refused + len(self.unexplained)

    def note(self, number: int, outcome: str, text: str, seconds: float, memory: int) -> None:
        """Count one reading."""
        self.slowest, self.memory = max(self.slowest, seconds), max(self.memory, memory)
        if outcome == "unexplained":
            self.unexplained.append(f"mutation {number}: {text}")
        else:
            self.read += outcome == "read"
            self.refused += outcome == "refused"
            self.messages[text] += 1

    def add(self, other: Tally) -> None:
        """Add what another process counted."""
        self.read += other.read
        self.refused += other.refused
        self.unexplained += other.unexplained
        self.slowest, self.memory = (
            max(self.slowest, other.slowest),
            max(self.memory, other.memory),
        )
        self.messages += other.messages


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--kind", action="append", help=f"one of {', '.join(KINDS)}; repeatable")
    parser.add_argument("--mutations", type=int, default=2000, help="of each kind")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--first", type=int, default=0, help="number of the first mutation")
    parser.add_argument("--seconds", type=float, default=20.0, help="that one reading may take")
    parser.add_argument("--jobs", type=int, default=2, help="processes at once")
    parser.add_argument("--keep", type=Path, help="folder for unexplained files")
    parser.add_argument("--messages", action="store_true", help="list the errors by frequency")
    parser.add_argument(
        "--atheris", type=int, metavar="SECONDS", help="search guided by coverage, one kind"
    )
    args = parser.parse_args(argv)
    return run_main(lambda: guided(args) if args.atheris else fuzz(args))


def fuzz(args: argparse.Namespace) -> int:
    """Mutate, read, and print the table."""
    kinds = chosen_kinds(args.kind)
    keep = args.keep or Path(tempfile.mkdtemp(prefix="fuzz-"))
    keep.mkdir(parents=True, exist_ok=True)
    numbers = range(args.first, args.first + args.mutations)
    total = unexplained = 0
    print(f"{'kind':<14}{'mutations':>10}{'read':>8}{'refused':>9}{'unexplained':>13}", end="")
    print(f"{'slowest s':>11}{'memory MB':>11}")
    with contextlib.ExitStack() as stack:
        readers = [
            stack.enter_context(contextlib.closing(Reader(args.seed, args.seconds, keep)))
            for _ in range(args.jobs)
        ]
        pool = stack.enter_context(ThreadPoolExecutor(args.jobs))
        for name in kinds:
            tally = Tally()
            parts = [numbers[job :: args.jobs] for job in range(args.jobs)]
            for part in pool.map(Reader.read, readers, [name] * args.jobs, parts):
                tally.add(part)
            print_tally(name, tally, with_messages=args.messages)
            total += tally.count
            unexplained += len(tally.unexplained)
    print(f"{total} mutations, {unexplained} unexplained" + f"; kept in {keep}" * bool(unexplained))
    return 1 if unexplained else 0


def print_tally(name: str, tally: Tally, *, with_messages: bool) -> None:
    """Print one line of the table, and what was unexplained below it."""
    print(f"{name:<14}{tally.count:>10}{tally.read:>8}{tally.refused:>9}", end="")
    print(f"{len(tally.unexplained):>13}{tally.slowest:>11.2f}{tally.memory / 1e6:>11.0f}")
    for line in tally.unexplained:
        print(f"    {line}")
    if with_messages:
        for message, times in tally.messages.most_common(20):
            print(f"    {times:>6} x {message}")


def chosen_kinds(names: Sequence[str] | None) -> list[str]:
    """Return the kinds to fuzz; UsageError for an unknown one."""
    for name in names or ():
        if name not in KINDS:
            raise UsageError(f"--kind {name}: there is no such kind{nearest(name, KINDS)}")
    return list(names or KINDS)


# The side that watches


class Reader:
    """A process that reads mutations; a new one takes over whenever it crashes or hangs."""

    def __init__(self, seed: int, seconds: float, keep: Path) -> None:
        self.seed, self.seconds, self.keep = seed, seconds, keep
        self.context = multiprocessing.get_context("spawn")
        self.process: multiprocessing.process.BaseProcess | None = None
        self.pipe: Connection

    def read(self, name: str, numbers: Sequence[int]) -> Tally:
        """Have the mutations `numbers` of a kind read, one after another."""
        tally = Tally()
        while numbers:
            fresh = self.process is None
            if self.process is None:
                self.pipe, theirs = self.context.Pipe()
                self.process = self.context.Process(
                    target=work, args=(theirs, self.seed, self.keep), daemon=True
                )
                self.process.start()
                theirs.close()
            self.pipe.send((name, numbers))
            numbers = numbers[self._follow(numbers, tally, patience=IMPORTS if fresh else 0.0) :]
        return tally

    def close(self) -> None:
        """End the process: kindly, so that it cleans up, unless it hangs."""
        if self.process is not None:
            self.pipe.close()
            self.process.join(timeout=1.0)
            self.process.kill()
            self.process.join()
            self.process = None

    def _exit_status(self) -> int | None:
        if self.process is None:
            return None
        self.process.join()
        return self.process.exitcode

    def _follow(self, numbers: Sequence[int], tally: Tally, patience: float) -> int:
        """Count the reports until all are there or the process fails; returns how many came."""
        patience += FIRST  # the undamaged files are read before the first report
        for done, number in enumerate(numbers):
            try:
                if self.pipe.poll(patience + self.seconds):
                    tally.note(number, *self.pipe.recv())
                    patience = 0.0
                    continue
                what = f"took more than {self.seconds:g} s"
            except (EOFError, ConnectionError):
                what = f"the process died ({self._exit_status()})"
            self.close()
            tally.unexplained.append(f"mutation {number}: {what}")
            return done + 1
        return len(numbers)


# The side that reads


def work(pipe: Connection, seed: int, keep: Path) -> None:
    """Read the mutations that are asked for, and report each."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    warnings.simplefilter("error")
    logging.disable()
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory(prefix="fuzz-") as folder:
        watched = Watch(Path(folder))
        _limit_memory()
        while True:
            try:
                name, numbers = pipe.recv()
            except EOFError:
                return
            place = Path(tempfile.mkdtemp(dir=folder))
            for report in readings(name, seed, numbers, place, keep, watched):
                pipe.send(report)


def readings(
    name: str, seed: int, numbers: Sequence[int], place: Path, keep: Path, watched: Watch
) -> Iterator[tuple[str, str, float, int]]:
    """Read mutations in turn; yields (outcome, message, seconds, bytes of memory added)."""
    kind = KINDS[name]
    seeds = seed_contents(kind, place / "seeds")
    path = place / f"mutated{kind.suffix}"
    for content in seeds.values():
        path.write_bytes(content)
        kind.read(path)  # the undamaged files can be read
    before = _peak_memory()
    for number in numbers:
        content = mutation(kind, seeds, seed, name, number)
        kept = keep / f"{name}-{number}{kind.suffix}"
        kept.write_bytes(content)  # until its reading is over, in case it kills this process
        path.write_bytes(content)
        outcome, text, spent = read_once(kind, path, watched)
        if outcome != "unexplained":
            kept.unlink()
        yield outcome, text, spent, _peak_memory() - before


def read_once(kind: Kind, path: Path, watched: Watch) -> tuple[str, str, float]:
    """Read one file; returns ("read", "refused" or "unexplained", message, seconds)."""
    started = time.perf_counter()
    watched.acts.clear()
    watched.active = True
    try:
        kind.read(path)
        outcome, text = "read", ""
    except ProjectError as error:
        text = str(error).replace(str(path), "FILE")[:500]
        outcome = "refused" if str(path) in str(error) else "unexplained"
        if outcome == "unexplained":
            text = f"the message does not name the file: {text}"
    except Exception as error:
        outcome, text = "unexplained", f"{type(error).__name__}: {str(error)[:200]}"
    finally:
        watched.active = False
    if watched.acts:
        outcome, text = "unexplained", f"it acted: {watched.acts[:3]}"
    return outcome, text, time.perf_counter() - started


class Watch:
    """Notes what a reading does that no reading should; an audit hook, there for good."""

    def __init__(self, place: Path) -> None:
        self.place = str(place)
        self.active = False
        self.acts: list[str] = []
        sys.addaudithook(self._note)

    def _note(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.active:
            return
        if FORBIDDEN_EVENTS.fullmatch(event):
            self.acts.append(f"{event} {arguments!r:.100}")
        elif WRITING_EVENTS.fullmatch(event) or (event == "open" and _writes(arguments)):
            path = os.fsdecode(arguments[0]) if isinstance(arguments[0], (str, bytes)) else ""
            if path and not os.path.abspath(path).startswith(self.place):  # noqa: PTH100
                self.acts.append(f"{event} {path}")


def _writes(arguments: tuple[Any, ...]) -> bool:
    _, mode, flags = arguments
    if mode is not None:
        return any(letter in mode for letter in "wxa+")
    return bool(flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT))


def _limit_memory() -> None:
    """Let this process take MEMORY more of address space than it has now."""
    pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
    limit = pages * resource.getpagesize() + MEMORY
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))


def _peak_memory() -> int:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


# Mutations


def mutation(kind: Kind, seeds: dict[str, bytes], seed: int, name: str, number: int) -> bytes:
    """Return mutation `number` of a kind: always the same for the same seed."""
    draw = random.Random(f"{seed} {name} {number}")
    content = seeds[draw.choice(sorted(seeds))]
    if kind.inside is not None and draw.random() < 0.6:
        return kind.inside(content, draw)
    return mutate(content, draw, list(seeds.values()))


def mutate(content: bytes, draw: random.Random, others: Sequence[bytes] = ()) -> bytes:
    """Damage a content in one to sixteen places."""
    damaged = bytearray(content)
    for _ in range(draw.choice((1, 1, 1, 2, 3, 5, 8, 16))):
        draw.choice(DAMAGES)(damaged, draw, others)
    return bytes(damaged)


def _place(damaged: bytearray, draw: random.Random) -> int:
    """Choose a byte, the beginning and the end more often: that is where structure lies."""
    size = len(damaged)
    edge = min(size, 512)
    start = draw.choice((0, 0, max(0, size - edge), -1))
    return draw.randrange(size + 1) if start < 0 else start + draw.randrange(edge + 1)


def _flip_bit(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    at = _place(damaged, draw)
    damaged[at : at + 1] = bytes(byte ^ 1 << draw.randrange(8) for byte in damaged[at : at + 1])


def _set_byte(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    at = _place(damaged, draw)
    damaged[at : at + 1] = bytes([draw.choice((0, 1, 0x7F, 0x80, 0xFF, draw.randrange(256)))])


def _set_number(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    at, width = _place(damaged, draw), draw.choice((1, 2, 4, 8))
    values = (0, 1, 2**15, 2**16 - 1, 2**31, 2**32 - 1, 2**63, 2**64 - 1, len(damaged), at)
    value = draw.choice((*values, draw.getrandbits(64), draw.randrange(1, 4096)))
    order = draw.choice(("little", "big"))
    damaged[at : at + width] = (value % 256**width).to_bytes(width, order)


def _delete(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    at = _place(damaged, draw)
    del damaged[at : at + draw.randrange(1, 64)]


def _insert(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    at = _place(damaged, draw)
    damaged[at:at] = draw.choice((bytes(64), b"\xff" * 9, draw.randbytes(draw.randrange(1, 32))))


def _repeat(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    at, length = _place(damaged, draw), draw.randrange(1, 200)
    damaged[at:at] = damaged[at : at + length] * draw.choice((1, 1, 2, 50))


def _move(damaged: bytearray, draw: random.Random, others: Sequence[bytes]) -> None:
    """Copy a stretch over another place, or from another file."""
    source = draw.choice(others) if others and draw.random() < 0.3 else bytes(damaged)
    start, length = draw.randrange(len(source) + 1), draw.randrange(1, 300)
    at = _place(damaged, draw)
    damaged[at : at + length] = source[start : start + length]


def _cut(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    if draw.random() < 0.2:
        del damaged[_place(damaged, draw) :]


def _word(damaged: bytearray, draw: random.Random, _: Sequence[bytes]) -> None:
    """Write something that means much in one of the formats."""
    word, at = draw.choice(WORDS), _place(damaged, draw)
    damaged[at : at + draw.choice((0, len(word)))] = word


DAMAGES = (
    _flip_bit, _flip_bit, _set_byte, _set_byte, _set_number, _set_number,
    _delete, _insert, _repeat, _move, _cut, _word,
)  # fmt: skip
WORDS = (
    b"cos\nsystem\n", b"cbuiltins\neval\n", b"R", b"b", b"\x81", b"Q", b"h\x00", b"}", b"]", b"(",
    b"r\xff\xff\xff\x7f", b"\x8e" + b"\xff" * 8, b"\x93", b"NaN", b"1e999", b'{"a":', b"[" * 200,
    b'"inherit_from": "/etc/passwd",', b"\0", b"\r", b"\xef\xbb\xbf", b"\xed\xa0\x80", b"../../x",
    b"TREE", b"SNOD", b"HEAP", b"GCOL", b"OHDR", b"PK\x03\x04", b"PK\x05\x06", b"-1", b"<script>",
)  # fmt: skip

TEXTS = (
    "", "", "0", "-1", "1", "9" * 20, "1e999", "NaN", "null", "true", "[]", "{}", '"', "'", ",",
    "\n", "\r\n", "\r", "\t", "\0", "\ufeff", "\u2028", "\ud800", "🎧", "[" * 150, '{"a":' * 99,
    "%YAML 9\n", ":", "&a", "*a", "!!python/object/apply:os.system ['x']", "<<: *a", "- ", "|\n",
    "? ", "../", "/etc/passwd", "\\", "\\ud800", "\\u0000", "inherit_from", "<script>x</script>",
)  # fmt: skip

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 1, 1.5, 2**70, 10**400, float("nan"), float("inf"), "", "x", b"x", [], ["x"],
    {}, {"x": 1}, (), (1, 2), torch.zeros(2), torch.zeros(()), torch.full((2, 3), float("nan")),
)  # fmt: skip


def _inside_zip(content: bytes, draw: random.Random) -> bytes:
    """Damage one record of a checkpoint, mostly its pickle, and seal it with a right checksum."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        records = {name: archive.read(name) for name in archive.namelist()}
    pickles = [name for name in records if name.endswith("data.pkl")]
    chosen = draw.choice(pickles if draw.random() < 0.8 else sorted(records))
    records[chosen] = mutate(records[chosen], draw)
    sealed = io.BytesIO()
    with zipfile.ZipFile(sealed, "w") as archive:
        for name, record in records.items():
            archive.writestr(zipfile.ZipInfo(name), record)  # of no date: repeatable
    return sealed.getvalue()


def _inside_checkpoint(content: bytes, draw: random.Random) -> bytes:
    """Damage a record, or put a wrong value into a right file: few random bytes come to that."""
    if draw.random() < 0.5:
        return _inside_zip(content, draw)
    with tempfile.NamedTemporaryFile(suffix=".pth") as file:
        file.write(content)
        file.flush()
        place: Any = read_torch_checkpoint(file.name)
    whole, key = place, draw.choice(list(place))
    while isinstance(place[key], dict | list) and place[key] and draw.random() < 0.9:
        place = place[key]
        key = draw.choice(list(place) if isinstance(place, dict) else range(len(place)))
    place[key] = draw.choice(VALUES)
    sealed = io.BytesIO()
    torch.save(whole, sealed)
    return sealed.getvalue()


def _inside_text(content: bytes, draw: random.Random) -> bytes:
    """Damage a text so that it stays UTF-8, which few random bytes are."""
    text = list(content.decode())
    for _ in range(draw.choice((1, 1, 2, 3, 8))):
        at = draw.randrange(len(text) + 1)
        length = draw.choice((0, 1, 1, 2, 10, 100))
        start = draw.randrange(len(text) + 1)
        text[at : at + length] = draw.choice((draw.choice(TEXTS), text[start : start + length]))
    return "".join(text).encode("utf-8", "surrogatepass")


def _inside_gzip(content: bytes, draw: random.Random) -> bytes:
    return gzip.compress(mutate(gzip.decompress(content), draw), 1, mtime=0)


def _inside_packed(content: bytes, draw: random.Random) -> bytes:
    """Damage the footer of a packed file and seal it with a right checksum."""
    _, length, magic = TAIL.unpack(content[-TAIL.size :])
    blocks, footer = content[: -TAIL.size - length], content[-TAIL.size - length : -TAIL.size]
    footer = mutate(footer, draw)
    return blocks + footer + TAIL.pack(hashlib.sha256(footer).digest(), len(footer), magic)


# Kinds of files


def seed_contents(kind: Kind, folder: Path) -> dict[str, bytes]:
    """Make the small files of a kind; returns their contents by name."""
    folder.mkdir()
    kind.make(folder)
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def _genuine(pattern: str) -> Iterator[Path]:
    """Find files that the published programs wrote, where the tests keep them."""
    for path in sorted(GENUINE.rglob(pattern)):
        if path.stat().st_size <= LARGEST_SEED:
            yield path


def _copy(folder: Path, *patterns: str) -> None:
    for pattern in patterns:
        for number, path in enumerate(_genuine(pattern)):
            (folder / f"genuine-{number}-{path.name}").write_bytes(path.read_bytes())


def _features() -> dict[str, np.ndarray | None]:
    draw = np.random.default_rng(0)
    values: dict[str, np.ndarray | None] = {
        f"clip {n}": draw.random((n % 4 + 1, 3), np.float32) for n in range(9)
    }
    return values | {"größe 'a/b'\t": draw.random(3).astype(np.float16), "gone": None}


def _make_hickle(folder: Path) -> None:
    for form in ("earliest", "v108"):
        for packed in (False, True):
            write_hickle(folder / f"{form}-{packed}.hickle", _features(), gzip=packed, form=form)
    _copy(folder, "*.hickle")


def _make_pickle(folder: Path) -> None:
    values = {clip: np.nan if v is None else v for clip, v in _features().items()}
    for protocol in (0, 2, 4, 5):
        dump_plain(values, folder / f"protocol{protocol}.pkl", protocol)
    _copy(folder, "r2p1d*.pickle")


def _make_expert_store(folder: Path) -> None:
    keys = [f"clip {n}" for n in range(6)]
    rows = np.random.default_rng(0).random((6, 4)).astype(np.float16)
    rows[2] = np.nan
    store = ExpertStore(keys, 4, None, rows, {key: n for n, key in enumerate(keys)}, {"clip 2"})
    for protocol in (1, 2):  # these name the class, which published files call otherwise, in a line
        path = folder / f"store{protocol}.pickle"
        dump_plain(store, path, protocol)
        ours, theirs = b"cutils.reading.stand_ins\n", b"cutils.datastructures\n"
        path.write_bytes(path.read_bytes().replace(ours, theirs))
    _copy(folder, "resnext*.pickle")


def _make_text(folder: Path) -> None:
    draw = np.random.default_rng(0)
    values = {f"clip {n}": [draw.random((n + 1, 5), np.float32)] * (n % 2 + 1) for n in range(5)}
    for protocol in (2, 4, 5):
        dump_plain(values, folder / f"protocol{protocol}.pkl", protocol)


def _make_captions(folder: Path) -> None:
    values = {f"clip {n}": [["a", "<b>dog</b>", "größe"], ["barks"] * 3] for n in range(8)}
    for protocol in (0, 2, 4):
        dump_plain(values, folder / f"protocol{protocol}.pkl", protocol)
    _copy(folder, "raw-captions.pkl")


def _make_masks(folder: Path) -> None:
    dump_plain({f"clip {n}": [1, 0, n % 2] for n in range(8)}, folder / "masks.pkl")


def _small_training() -> Training:
    """Build what checkpoints are restored into, so small that a mutation often hits a number."""
    sizes = {"text": 1, "audio": 1}
    changes = {"experts.ce_shared_dim": 2, "arch.args.vlad_clusters": sizes}
    config = load_config(ROOT / "configs" / "clotho" / "train-full-ce-only-audio.json", changes)
    model = build_model(config)
    optimizer = build_optimizer(config.optimizer, model.parameters())
    scheduler = build_scheduler(config.lr_scheduler, optimizer)
    return Training(model, torch.nn.Module(), model, optimizer, scheduler)


def _make_checkpoint(folder: Path) -> None:
    training = _small_training()
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()
    record = {"epoch": 1, "loss": 0.5, "learning_rate": 0.01, "seconds": 2.0}
    training.progress = Progress(1, [0.25], 4, 0.5, 1, 0, [record])
    if training.scheduler is not None:
        training.scheduler.step()
    ours = training.snapshot({"a": [1, None]})
    ours.write(folder / "ours.pth")
    foreign = types.ModuleType("parse_config")
    parser = type("ConfigParser", (), {"__module__": "parse_config"})
    foreign.ConfigParser = parser  # type: ignore[attr-defined]
    held = parser()
    held.resume, held.save_dir, held.args = None, Path("a/b"), argparse.Namespace(device="0")
    held._config = {"a": [1, None]}
    sys.modules["parse_config"] = foreign
    try:
        with atomic_writer(folder / "released.pth") as file:
            theirs = {**vars(ours), "config": held, "monitor_best": np.float64(0.5)}
            torch.save({name: theirs[name] for name in theirs if name != "progress"}, file)
    finally:
        del sys.modules["parse_config"]


def _read_checkpoint(path: Path) -> None:
    """Restore a training from the file, and let it take a step."""
    training = _small_training()
    training.restore(load_checkpoint(path))
    for parameter in training.model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    training.optimizer.step()


def _make_config(folder: Path) -> None:
    for path in (*_genuine("*config.json"), *sorted((ROOT / "configs").glob("*/train-*.json"))[:6]):
        (folder / path.name).write_bytes(path.read_bytes())
    inherited = "configs/clotho/train-vggish-vggsound.json"
    write_json(folder / "mine.json", {"inherit_from": inherited, "trainer": {"epochs": 2}})


def _make_yaml(folder: Path) -> None:
    write_text(
        folder / "mine.yaml",
        "inherit_from: configs/clotho/train-vggish-vggsound.json\n"
        "seed: 3\ntrainer:\n  epochs: 2\n  monitor: 'off'\noptimizer: {args: {lr: 1e-3}}\n",
    )


def _make_json(folder: Path) -> None:
    write_json(folder / "a.json", {"a": [1, -2.5e3, "ü\n", None, True, {"b": {}}], "c": "x" * 50})


def _make_list(folder: Path) -> None:
    write_text(folder / "plain.txt", "".join(f"clip {n}.wav\n" for n in range(20)))
    write_text(folder / "windows.txt", "\ufeffa 'b'/c.wav\r\nä\tö.wav\r\n\r\n")


def _make_archive(folder: Path) -> None:
    for name, form in (("pax", tarfile.PAX_FORMAT), ("gnu", tarfile.GNU_FORMAT)):
        packed = io.BytesIO()
        with tarfile.open(fileobj=packed, mode="w", format=form) as archive:
            for member, size in (("data/a/x.txt", 700), (f"data/{'d' * 120}/ü.pkl", 20)):
                info = tarfile.TarInfo(member)
                info.size = size
                archive.addfile(info, io.BytesIO(bytes(size)))
            link = tarfile.TarInfo("data/a/link")
            link.type, link.linkname = tarfile.SYMTYPE, "x.txt"
            archive.addfile(link)
        with atomic_writer(folder / f"{name}.tar.gz") as file:
            file.write(gzip.compress(packed.getvalue(), mtime=0))


def _make_packed(folder: Path) -> None:
    source = folder / "sources"
    source.mkdir()
    values = {clip: v for clip, v in _features().items() if v is not None and v.ndim == 2}
    write_hickle(source / "a.hickle", values)
    FeatureStore(source, source / "packed", "seeds", "keep").features(source / "a.hickle", "a")
    for path in source.rglob("*.packed"):
        (folder / path.name).write_bytes(path.read_bytes())


def _read_features(path: Path) -> None:
    for _, features in read_features(path):
        if features is not None:
            # What the rest of the project relies on.
            finite = features.ndim in (1, 2) and np.isfinite(features).all()
            if not finite or features.dtype.kind not in "fiu":
                raise AssertionError(f"features of shape {features.shape} and {features.dtype}")


def _read_text(path: Path) -> None:
    for _, captions in read_text_features(path):
        for words in captions:
            if words.ndim != 2 or not np.isfinite(words).all():
                raise AssertionError(f"words of shape {words.shape} and {words.dtype}")


def _read_packed(path: Path) -> None:
    """Let a data set find the file in its store, which packs anew what is damaged; then read it."""
    sources = path.parent / "seeds" / "sources"
    [place] = (sources / "packed").rglob("*.packed")
    place.write_bytes(path.read_bytes())
    FeatureStore(sources, sources / "packed", "seeds", "keep").features(sources / "a.hickle", "a")
    map_packed(path).damaged_block()


def _read_masks(path: Path) -> None:
    FeatureStore(path.parent, None, "masks", "keep").masks(path)


KINDS: dict[str, Kind] = {
    "hickle": Kind(".hickle", _make_hickle, _read_features),
    "pickle": Kind(".pkl", _make_pickle, _read_features),
    "plain": Kind(".pkl", _make_pickle, load_plain),
    "expert-store": Kind(".pickle", _make_expert_store, _read_features),
    "text": Kind(".pkl", _make_text, _read_text),
    "captions": Kind(".pkl", _make_captions, read_captions),
    "masks": Kind(".pkl", _make_masks, _read_masks),
    "checkpoint": Kind(".pth", _make_checkpoint, _read_checkpoint, _inside_checkpoint),
    "config": Kind(".json", _make_config, load_config, _inside_text),
    "yaml": Kind(".yaml", _make_yaml, load_config, _inside_text),
    "json": Kind(".json", _make_json, read_json, _inside_text),
    "list": Kind(".txt", _make_list, read_list, _inside_text),
    "archive": Kind(".tar.gz", _make_archive, check_archive, _inside_gzip),
    "packed": Kind(".packed", _make_packed, _read_packed, _inside_packed),
}


# Guided by coverage


def guided(args: argparse.Namespace) -> int:
    """Let atheris look for contents that reach new code; it ends at the first unexplained one."""
    try:
        import atheris  # type: ignore[import-untyped,import-not-found,unused-ignore]
    except ImportError:
        raise UsageError("--atheris needs a package: pip install -r requirements/fuzz.in") from None
    [name] = chosen_kinds(args.kind) if len(args.kind or ()) == 1 else [""]
    if not name:
        raise UsageError("--atheris needs one --kind")
    kind = KINDS[name]
    place = Path(tempfile.mkdtemp(prefix="fuzz-"))
    seed_contents(kind, place / "seeds")
    path = place / f"mutated{kind.suffix}"
    watched = Watch(place)
    for function in our_functions():
        atheris.instrument_func(function)

    def read_content(content: bytes) -> None:
        path.write_bytes(content)
        outcome, text, _ = read_once(kind, path, watched)
        if outcome == "unexplained":
            raise RuntimeError(text)

    flags = [f"-max_total_time={args.atheris}", f"-seed={args.seed + 1}", "-rss_limit_mb=4096"]
    atheris.Setup([sys.argv[0], *flags, str(place / "seeds")], read_content)
    atheris.Fuzz()
    return 0


def our_functions() -> Iterator[types.FunctionType]:
    """Yield the functions and methods of what reads files."""
    for name, module in list(sys.modules.items()):
        if name.split(".")[0] in ("utils", "data_loader"):
            parts = [part for part in vars(module).values() if _defined_in(part, name)]
            classes = [part for part in parts if isinstance(part, type)]
            for part in [*parts, *(inner for cls in classes for inner in vars(cls).values())]:
                if isinstance(part, types.FunctionType):
                    yield part


def _defined_in(part: object, module: str) -> bool:
    return getattr(part, "__module__", None) == module


if __name__ == "__main__":
    sys.exit(main())
