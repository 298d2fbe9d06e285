"""Fetch the published features of data sets, verify them, and unpack them below data/."""

from __future__ import annotations

import argparse
import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from utils.config.sections import DataArgs
from utils.errors import DataError, ProjectError, UsageError, run_main
from utils.fetching.experiments import ROOT_URL, sync_command
from utils.files import sha256_of, write_text
from utils.log import start_logging
from utils.reading.archives import check_archive
from utils.reading.unpacking import unpack, verify_unpacked

if TYPE_CHECKING:
    from data_loader import BaseDataset

logger = logging.getLogger("misc.sync_experts")


def parse(argv: Sequence[str] | None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(description=__doc__)
    option = parser.add_argument
    names = "names such as AudioCaps or activity-net; an unknown one lists them all"
    option("--dataset", nargs="+", required=True, metavar="NAME", help=names)
    option("--root_url", default=ROOT_URL, help="a mirror of %(default)s")
    option("--data_dir", type=Path, default=Path("data"), help="default: %(default)s")
    switches = {
        "--purge_tar_file": "remove the archive once every unpacked file is verified",
        "--refresh_symlinked_feats": "unpack again, over the files; fetch a changed archive again",
        "--older_archive": "take <dataset>-experts.tar.gz, published before the audio-only ones",
    }
    for flag, meaning in switches.items():
        option(flag, action="store_true", help=meaning)
    return parser.parse_args(argv)


def sync_all(args: argparse.Namespace) -> int:
    """Bring each data set here; one that fails does not keep the others from it."""
    from data_loader import find_archive  # not above: it imports torch, which --help can do without

    failed = []
    for dataset in [find_archive(name) for name in dict.fromkeys(args.dataset)]:
        try:
            print(f"{dataset.archive}: {sync(dataset, args)}")
            place_lists(dataset, args.data_dir / dataset.archive)
        except UsageError:  # wrong for all of them
            raise
        except ProjectError as error:
            logger.error("%s: %s", dataset.archive, error)
            failed.append(dataset.archive)
    if failed:
        raise DataError(f"not complete: {', '.join(failed)}")
    return 0


def sync(dataset: type[BaseDataset], args: argparse.Namespace) -> str:
    """Bring one data set here; return a summary of its files."""
    from utils.fetching.download import fetch  # not above: --help can do without

    name = f"{dataset.archive}-experts{'' if args.older_archive else '-audio-only'}.tar.gz"
    root = args.data_dir / dataset.archive
    archive, prefix = root / name, f"data/{dataset.archive}/"
    if not archive.exists() and not args.refresh_symlinked_feats:
        # its archive was purged: what it brought is all there is to verify
        known = verify_unpacked(archive, root)
        if known is not None:
            return f"{known.files} files ({known.bytes:,} bytes) verified, nothing fetched"
    again = sync_command(dataset.archive, args.data_dir, args.root_url)
    fetched = fetch(
        f"{args.root_url.rstrip('/')}/features-v2/{name}",
        archive,
        sha1=dataset.older_archive_sha1 if args.older_archive else None,
        check=lambda path: check_archive(path, prefix=prefix),
        replace_changed=args.refresh_symlinked_feats,
        refresh=f"{again} --refresh_symlinked_feats",
    )
    unpacked = unpack(
        archive, root, prefix=prefix, sha256=fetched.sha256, again=args.refresh_symlinked_feats
    )
    if args.purge_tar_file:
        if verify_unpacked(archive, root) is None:
            raise DataError(f"{root}: the unpacked files are not what was written; {archive} stays")
        archive.unlink()
    return (
        f"{unpacked.files} files ({unpacked.bytes:,} bytes) verified, {unpacked.written} unpacked, "
        f"{'archive fetched' if fetched.downloaded else 'nothing fetched'}"
        f"{', archive removed' if args.purge_tar_file else ''}"
    )


def place_lists(dataset: type[BaseDataset], root: Path) -> None:
    """Put split lists that the archive lacks where they are read, from the folder above.

    Raises DataError for those that are in neither place, or are not the published ones.
    """
    folder = root / DataArgs.root_feat_folder
    missing = []
    for name, sha256 in dataset.lists_elsewhere.items():
        given, place = root / name, folder / name
        if place.is_file():
            continue
        if not given.is_file():
            missing.append(name)
        elif sha256_of(given) != sha256:
            raise DataError(f"{given} is not the published list; expected sha256 {sha256}")
        else:
            write_text(place, given.read_text(encoding="utf-8"))
    if missing:
        raise DataError(
            f"{folder}: {', '.join(missing)} are not in the archive; the repository of the paper "
            f"that published {dataset.archive} has them in data/{dataset.archive}/: put them into "
            f"{root} and start again"
        )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    args = parse(argv)
    start_logging()
    return run_main(lambda: sync_all(args))


if __name__ == "__main__":
    sys.exit(main())
