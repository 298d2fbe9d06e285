"""YAMNet: 1,024 numbers per 0.48 s and 521 named classes (AudioSet), run by LiteRT.

    wave (n,) -> windows of 0.975 s every 0.48 s -> tokens (N, 1024), the input of the classifier

The last window is padded with silence. The tags of a sound follow from its tokens, so that stored
features have them too: `tags(tokens)`.
"""

from __future__ import annotations

import csv
import functools
import io
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from audio.extractor import Extractor, Tokens
from audio.reading import Wave
from audio.weights import locate_weights
from utils.errors import DataError, needed_by
from utils.files import open_regular, sha256_of

CLASSES = 521
CLASSES_FILE = "yamnet_classes"
LARGEST_CLASSES_FILE = 1 << 20


class Tag(NamedTuple):
    """A class that a sound may be of; `score` is between 0 and 1."""

    name: str
    score: float


class Yamnet(Extractor):
    """Tokens and tags of YAMNet."""

    name: ClassVar[str] = "yamnet"
    expert: ClassVar[str] = "yamnet"
    file: ClassVar[str] = "aggregated_yamnet/yamnet-raw.hickle"
    width: ClassVar[int] = 1024
    rate: ClassVar[int] = 16_000
    step: ClassVar[int] = 7_680
    window: ClassVar[int] = 15_600
    needs_weights: ClassVar[bool] = True
    extras: ClassVar[tuple[str, ...]] = (CLASSES_FILE,)

    def load(self, weights: Path | None) -> None:
        """Load the network, which runs on the CPU whatever the device.

        The extra file `yamnet_classes` (yamnet_class_map.csv) names the classes; by default it is
        fetched when tags are asked for. Raises ProjectError without LiteRT, DataError for another
        network.
        """
        self.device = torch.device("cpu")
        path = locate_weights(self.name, weights)
        self.weights_sha256 = sha256_of(path)
        self._interpreter = _interpreter(path)
        details = self._interpreter.get_tensor_details()
        self._input = self._interpreter.get_input_details()[0]["index"]
        inside = [one for one in details if list(one["shape"]) == [1, self.width]]
        if list(self._interpreter.get_input_details()[0]["shape"]) != [self.window] or not inside:
            raise DataError(
                f"{path}: is not YAMNet: expected an input of {self.window} samples and a layer of "
                f"{self.width}; get it again, or name yours with --weights yamnet=FILE"
            )
        self._embedding = inside[-1]["index"]

    def __call__(self, waves: Sequence[Wave]) -> list[Tokens]:
        """Return (N, 1024) of each sound."""
        return [self._embed(wave) for wave in waves]

    def _embed(self, wave: Wave) -> Tokens:
        count = max(0, -(-(len(wave) - self.window) // self.step)) + 1
        length = (count - 1) * self.step + self.window
        wave = np.pad(wave, (0, max(0, length - len(wave))))
        tokens = np.empty((count, self.width), np.float32)
        for index in range(count):
            window = wave[index * self.step : index * self.step + self.window]
            self._interpreter.set_tensor(self._input, window)
            self._interpreter.invoke()
            tokens[index] = self._interpreter.get_tensor(self._embedding)[0]
        return tokens

    def tags(self, tokens: Tokens, count: int = 3) -> list[Tag]:
        """Return the classes of a sound with the highest mean score over its tokens (N, 1024)."""
        scores = self.scores(tokens).mean(axis=0)
        best = np.argsort(-scores, kind="stable")[:count]
        return [Tag(self.classes[index], float(scores[index])) for index in best]

    def scores(self, tokens: Tokens) -> NDArray[np.float32]:
        """Return the score of each class for each token: (N, 521), between 0 and 1."""
        weight, bias = self._classifier
        logits = np.asarray(tokens, np.float32) @ weight + bias
        return (1 / (1 + np.exp(-logits))).astype(np.float32)

    @functools.cached_property
    def classes(self) -> list[str]:
        """The names of the 521 classes; DataError or DownloadError when they are not to be had."""
        return read_classes(locate_weights(CLASSES_FILE, self.extra.get(CLASSES_FILE)))

    @functools.cached_property
    def _classifier(self) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
        """Return the last layer's weight (1024, 521) and bias (521,)."""
        found: dict[tuple[int, ...], NDArray[np.float32]] = {}
        for one in self._interpreter.get_tensor_details():
            shape = tuple(int(size) for size in one["shape"])
            if shape in ((CLASSES, self.width), (CLASSES,)) and shape not in found:
                values = self._interpreter.get_tensor(one["index"]).astype(np.float32)
                scales = one["quantization_parameters"]["scales"]
                found[shape] = values * scales[0] if len(scales) else values
        return found[CLASSES, self.width].T, found[(CLASSES,)]


def read_classes(path: Path) -> list[str]:
    """Return the names in a table index, mid, display_name; DataError for anything else."""
    with open_regular(path) as file:
        content = file.read(LARGEST_CLASSES_FILE)
    rows = list(csv.reader(io.StringIO(content.decode("utf-8", "replace"), newline="")))[1:]
    names = [row[2] for row in rows if len(row) == 3]
    if [row[0] for row in rows] != [str(index) for index in range(CLASSES)] or len(names) < CLASSES:
        raise DataError(
            f"{path}: expected the {CLASSES} lines of yamnet_class_map.csv (index, mid, "
            f"display_name), found {len(rows)}; get it again, or name it with --weights "
            f"{CLASSES_FILE}=FILE"
        )
    return names


def _interpreter(path: Path) -> Any:  # noqa: ANN401
    """Return LiteRT's interpreter of a file, keeping the layers inside."""
    with needed_by("yamnet", "requirements/yamnet.txt"):
        from ai_edge_litert.interpreter import Interpreter
    try:
        with warnings.catch_warnings():  # about the memory of what is kept: 10 MB
            warnings.simplefilter("ignore")
            interpreter = Interpreter(
                str(path), num_threads=2, experimental_preserve_all_tensors=True
            )
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise DataError(f"{path}: is not a network of LiteRT ({str(error)[:200]})") from None
    return interpreter
