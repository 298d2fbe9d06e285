r"""Make an expert of embeddings that were computed elsewhere (CLAP, PANNs, BEATs and so on).

    python misc/import_features.py --features clap.npz --expert clap --made_by "CLAP 630k" \
        --out data/Mine

--features is a folder with a .npy, .npz or .h5 for each sound, or one table: .npz or .h5 with an
array for each clip, .npy with --names, .parquet with a column `file`. An array is (D,) or (N, D).
"""

from __future__ import annotations

import argparse
import json
import re
import sys
from collections.abc import Sequence
from pathlib import Path, PurePosixPath

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import numpy as np

from audio.extractors import EXTRACTORS
from audio.listing import list_sounds
from misc.own_data.dataset import ROOT, expert_file, imported_file
from misc.own_data.embeddings import read_embeddings
from utils.errors import DataError, UsageError, run_main
from utils.extraction_record import ExtractionRecord, read_record, write_record
from utils.log import start_logging
from utils.reading.hickle import write_hickle


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add = parser.add_argument
    add("--features", type=Path, required=True, help="a folder or a file of embeddings")
    add("--expert", required=True, help="its name in configs: letters, digits, - and _")
    add("--made_by", required=True, help="the network and its weights, so that no others mix in")
    add("--out", type=Path, required=True, help="the data set's folder, such as data/Mine")
    add("--names", type=Path, help="the clips of the rows of a .npy, one a line")
    add("--audio", type=Path, help="name clips as the sounds of this folder (or .csv) are")
    args = parser.parse_args(argv)
    start_logging()
    return run_main(lambda: run(args))


def run(args: argparse.Namespace) -> int:
    """Import the embeddings and print the entry of a config."""
    if not re.fullmatch(r"[A-Za-z0-9][\w-]{0,63}", args.expert, re.ASCII):
        raise UsageError(f"--expert {args.expert!r}: expected letters, digits, - and _")
    if args.expert in EXTRACTORS or args.expert in {k.expert for k in EXTRACTORS.values()}:
        raise UsageError(
            f"--expert {args.expert}: is that of an extractor of this project; choose another name"
        )
    record = ExtractionRecord(f"imported: {args.made_by}", 1)
    path = args.out / ROOT / imported_file(args.expert)
    found = read_record(path) if path.is_file() else None
    if found is not None and found != record:
        raise DataError(
            f"{path} holds features of {found}, these would be of {record}; remove it, or choose "
            "another --expert"
        )
    values = named_as_sounds(read_all(args), args.audio)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_record(path, record)
    write_hickle(path, values)
    expert = expert_file(args.out, args.expert)
    tokens = sum(expert.lengths.values()) / len(expert.lengths)
    print(f"{path}: {len(values)} clips, {tokens:.1f} vectors of {expert.width} each on average")
    entry = {args.expert: expert.config(expert.lengths)}
    print(f"in a config, below data_loader.args.feat_aggregation: {json.dumps(entry)}")
    return 0


def read_all(args: argparse.Namespace) -> dict[str, np.ndarray]:
    """Return the embeddings by clip; DataError unless all are of one width."""
    values: dict[str, np.ndarray] = {}
    widths: dict[int, str] = {}
    for clip, array in read_embeddings(args.features, args.names):
        if clip in values:
            raise DataError(f"{args.features}: clip {clip!r} comes twice; keep one of them")
        widths.setdefault(array.shape[-1], clip)
        values[clip] = array
    if not values:
        raise DataError(f"{args.features}: holds no embeddings")
    if len(widths) > 1:
        found = ", ".join(f"{width} ({clip!r})" for width, clip in list(widths.items())[:3])
        raise DataError(f"{args.features}: embeddings differ in width: {found}; expected one")
    if len({array.ndim for array in values.values()}) > 1:
        values = {clip: np.atleast_2d(array) for clip, array in values.items()}
    return values


def named_as_sounds(values: dict[str, np.ndarray], audio: Path | None) -> dict[str, np.ndarray]:
    """Return the embeddings by the names of sounds, found by name with or without its ending.

    Raises DataError when a sound has several embeddings, or none has any.
    """
    if audio is None:
        return values
    sounds = [sound.name for sound in list_sounds(audio)]
    named: dict[str, np.ndarray] = {}
    for sound in sounds:
        keys = dict.fromkeys((sound, PurePosixPath(sound).with_suffix("").as_posix()))
        of_sound = [key for key in keys if key in values]
        if len(of_sound) > 1:
            raise DataError(f"{sound!r} has several embeddings: {', '.join(of_sound)}; keep one")
        if of_sound:
            named[sound] = values[of_sound[0]]
    if not named:
        raise DataError(
            f"none of the {len(values)} embeddings (such as {next(iter(values))!r}) has the name "
            f"of a sound of {audio} (such as {sounds[0]!r})"
        )
    missing = len(sounds) - len(named)
    if missing:
        print(f"{missing} of {len(sounds)} sounds have no embedding", file=sys.stderr)
    return named


if __name__ == "__main__":
    sys.exit(main())
