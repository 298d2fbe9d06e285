"""Pack the features of a config's data set by hand, as the first training would, and check them."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from data_loader import build_dataset
from data_loader.packed_sources import Packed
from utils.config import Config, load_config
from utils.errors import ConfigError, DataError, run_main
from utils.log import start_logging


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--config", required=True, help="a config, or a run's config.json")
    parser.add_argument("--data_dir", help="replaces the leading data/ of every place")
    parser.add_argument(
        "--verify",
        action="store_true",
        help="read every packed file once more and compare it with its checksums",
    )
    args = parser.parse_args(argv)
    start_logging()
    return run_main(lambda: pack(load_config(args.config, data_dir=args.data_dir), args.verify))


def pack(config: Config, verify: bool) -> int:
    """Pack everything that training, validation and the test of `config` read."""
    if config.data.packed_dir is None:
        raise ConfigError("data_loader.args.packed_dir is null: there is no place to pack into")
    test = config.for_evaluation()
    splits = {"train": config, config.data.split_name: config, test.data.split_name: test}
    packed: dict[Path, Packed] = {}
    for split, split_config in splits.items():
        dataset = build_dataset(split_config, split)
        print(f"{split}: {len(dataset)} clips")
        packed |= {opened.source: opened for opened in dataset.opened}
    damaged, kept = [], True
    for source, opened in packed.items():
        size = sum(array.nbytes for array in opened.file.arrays.values())
        print(f"{source} -> {opened.file.path or 'memory'}, {size / 1e6:.1f} MB")
        kept = kept and opened.file.path is not None
        if verify and (block := opened.file.damaged_block()):
            damaged.append(f"{opened.file.path} (block {block!r})")
    if damaged:
        raise DataError(f"damaged, remove and pack again: {', '.join(damaged)}")
    if not kept:
        raise DataError(
            f"{config.data.packed_dir} takes no files: not everything is packed; choose another "
            "data_loader.args.packed_dir"
        )
    return 0


if __name__ == "__main__":
    sys.exit(main())
