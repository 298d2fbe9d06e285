"""Writing the data set: sounds, features, captions and lists in the published layout of CLOTHO.

    audio/<clip>.wav                                               16 kHz mono, 16 bit
    structured-symlinks/{train,val,test}_list.txt
    structured-symlinks/raw-captions.pkl                           clip -> five lists of words
    vocab.txt                                                      the word pieces of captions
    structured-symlinks/aggregated_<expert>/<expert>-raw.hickle    clip -> (N, width) float16
    structured-symlinks/text_embeddings/ngrams.pkl                 clip -> five (words, 300) float16
    soundscenes.json                                               what was asked for; is it whole?

All of it follows from the seed and the numbers of clips alone, byte for byte on one machine. Every
file appears whole or not at all, so run it again to complete an interrupted generation.
"""

import io
import multiprocessing
import signal
import wave
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from audio import signal_features as features
from soundscenes import grammar
from soundscenes.scene import Scene, plan, render
from soundscenes.signals import RATE
from text.ngrams import caption_vectors
from text.vocabulary import write_vocabulary
from utils.errors import DataError, ProjectError
from utils.files import atomic_writer, read_json, write_json, write_text
from utils.progress import no_bar
from utils.reading.hickle import write_hickle
from utils.reading.pickles import dump_plain

FOLDER = "SoundScenes"
RECIPE = 4  # raise it with every change that makes other sounds, words or features
RECORD = "soundscenes.json"
_FEW = 48  # clips that are not worth starting processes for


def make_soundscenes(
    folder: Path,
    *,
    seed: int = 0,
    counts: dict[str, int],
    refresh: bool = False,
    workers: int = 2,
    quiet: bool = False,
) -> bool:
    """Generate the data set in `folder`; return False when it was there already.

    counts is {"train": n, "val": n, "test": n}. `refresh` makes it anew in any case. Raises
    DataError when the folder holds a data set made from another seed or in other numbers.
    """
    asked = {"recipe": RECIPE, "seed": seed, "clips": dict(counts)}
    record = folder / RECORD
    if not refresh and record.exists():
        found = read_json(record)
        if not isinstance(found, dict) or {key: found.get(key) for key in asked} != asked:
            raise DataError(
                f"{folder} holds other scenes than those asked for (see {record}); "
                "generate them anew with --refresh, or use another --data_dir"
            )
        if found.get("complete") is True and all(path.exists() for path in _files(folder, counts)):
            return False
    scenes = plan(seed, counts)
    folder.mkdir(parents=True, exist_ok=True)
    if refresh or not record.exists():  # sounds without a record may be another data set's
        record.unlink(missing_ok=True)
        _remove_sounds(folder)
    write_json(record, {**asked, "complete": False})
    _write_words(folder, scenes)
    _write_sounds(folder, scenes, workers, quiet)
    write_json(record, {**asked, "complete": True})
    return True


def _lists(folder: Path) -> Path:
    return folder / "structured-symlinks"


def _hickle(folder: Path, expert: str) -> Path:
    return _lists(folder) / f"aggregated_{expert}" / f"{expert}-raw.hickle"


def _files(folder: Path, counts: dict[str, int]) -> Iterator[Path]:
    """Yield the files of a whole data set."""
    for split, count in counts.items():
        yield _lists(folder) / f"{split}_list.txt"
        for number in range(count):
            yield folder / "audio" / f"{split}-{number:04d}.wav"
    yield folder / "vocab.txt"
    yield _lists(folder) / "raw-captions.pkl"
    yield _lists(folder) / "text_embeddings" / "ngrams.pkl"
    for expert in features.WIDTHS:
        yield _hickle(folder, expert)


def _remove_sounds(folder: Path) -> None:
    """Remove the sounds of an earlier generation, known by their names, and nothing else."""
    for path in (folder / "audio").glob("*.wav"):
        split, _, number = path.stem.rpartition("-")
        if split in ("train", "val", "test") and number.isdigit():
            path.unlink()


def _write_words(folder: Path, scenes: list[Scene]) -> None:
    captions = {scene.name: grammar.captions(scene) for scene in scenes}
    vectors = {
        name: [caption_vectors(words).astype(np.float16) for words in five]
        for name, five in captions.items()
    }
    (_lists(folder) / "text_embeddings").mkdir(parents=True, exist_ok=True)
    dump_plain(captions, _lists(folder) / "raw-captions.pkl")
    write_vocabulary(
        folder / "vocab.txt", (" ".join(w) for five in captions.values() for w in five)
    )
    dump_plain(vectors, _lists(folder) / "text_embeddings" / "ngrams.pkl")
    for split in dict.fromkeys(scene.split for scene in scenes):
        names = [scene.name for scene in scenes if scene.split == split]
        write_text(_lists(folder) / f"{split}_list.txt", "\n".join(names) + "\n")


def _write_sounds(folder: Path, scenes: list[Scene], workers: int, quiet: bool) -> None:
    """Write every sound that is not there, and the features of all."""
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    found: dict[str, dict[str, NDArray[np.float16] | None]] = {
        expert: {} for expert in features.WIDTHS
    }
    jobs = [(scene, folder / "audio" / f"{scene.name}.wav") for scene in scenes]
    bar = tqdm(total=len(jobs), desc="scenes", unit="clip", disable=no_bar(hidden=quiet))
    with bar:
        for scene, tokens in zip(scenes, _each(jobs, workers), strict=True):
            for expert, array in tokens.items():
                found[expert][scene.name] = array
            bar.update()
    for expert, values in found.items():
        _hickle(folder, expert).parent.mkdir(exist_ok=True)
        write_hickle(_hickle(folder, expert), values)


def _each(jobs: list[tuple[Scene, Path]], workers: int) -> Iterator[dict[str, NDArray[np.float16]]]:
    """Do the jobs in order, in processes of their own when there are many."""
    if workers < 2 or len(jobs) < _FEW:
        yield from map(_write_sound, jobs)
        return
    # started afresh, not forked: the parent has threads (torch, BLAS) that a fork would cut off
    with ProcessPoolExecutor(
        workers, mp_context=multiprocessing.get_context("spawn"), initializer=_leave_interrupts
    ) as pool:
        try:
            yield from pool.map(_write_sound, jobs, chunksize=8)
        except BrokenProcessPool as error:
            raise ProjectError(
                "a process that made sounds was killed, possibly out of memory; "
                "run the command again with --workers 1: it continues where this one stopped"
            ) from error
        finally:
            pool.shutdown(cancel_futures=True)


def _leave_interrupts() -> None:
    """Let the parent alone answer Ctrl-C."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def _write_sound(job: tuple[Scene, Path]) -> dict[str, NDArray[np.float16]]:
    """Write the sound of a scene unless it exists; return its features."""
    scene, path = job
    if path.exists():
        sound = read_wav(path)
    else:
        sound = render(scene)
        write_wav(path, sound)
    tokens = features.extract(sound.astype(np.float32) / np.float32(32_768))
    return {expert: values.astype(np.float16) for expert, values in tokens.items()}


def write_wav(path: Path, sound: NDArray[np.int16]) -> None:
    """Write a mono sound at 16 kHz, whole or not at all."""
    content = io.BytesIO()
    with wave.open(content, "wb") as out:
        out.setnchannels(1)
        out.setsampwidth(2)
        out.setframerate(RATE)
        out.writeframes(sound.astype("<i2").tobytes())
    with atomic_writer(path) as file:
        file.write(content.getvalue())


def read_wav(path: Path) -> NDArray[np.int16]:
    """Read a mono 16-bit sound at 16 kHz: (n,). Raises DataError for any other file."""
    try:
        with wave.open(str(path), "rb") as file:
            form = (file.getnchannels(), file.getsampwidth(), file.getframerate())
            data = file.readframes(file.getnframes())
    except (wave.Error, EOFError) as error:
        raise DataError(
            f"{path} is not a wav file ({error}); remove it and generate again"
        ) from error
    if form != (1, 2, RATE):
        raise DataError(f"{path}: expected mono, 16 bit, 16 kHz; found {form}")
    return np.frombuffer(data, "<i2").astype(np.int16)
