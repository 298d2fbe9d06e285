"""Released weights of BERT-shaped networks, from a file on disk."""

from collections.abc import Mapping
from pathlib import Path

import torch

from model import bert
from utils.errors import DataError, nearest, needed_by
from utils.reading.checkpoints import read_torch_checkpoint

WEIGHTS = ("model.safetensors", "pytorch_model.bin")
REQUIREMENTS = "requirements/text.txt"


def weights_file(place: Path) -> Path:
    """Return a file of weights, or the one in a folder; raises DataError when it has none."""
    if not place.is_dir():
        return place
    for name in WEIGHTS:
        if (place / name).is_file():
            return place / name
    raise DataError(f"{place}: expected {' or '.join(WEIGHTS)}, found neither")


def read_weights(file: Path) -> dict[str, torch.Tensor]:
    """Read the tensors of a .safetensors or .bin file by name; DataError when it is damaged."""
    if file.suffix != ".safetensors":
        state = read_torch_checkpoint(file)["state_dict"]
        return {key: value for key, value in state.items() if isinstance(value, torch.Tensor)}
    with needed_by(file, REQUIREMENTS, DataError):
        from safetensors import SafetensorError
        from safetensors.torch import load_file
    try:
        return load_file(file)
    except (SafetensorError, OSError) as error:
        raise DataError(f"{file}: is missing or damaged ({error})") from None


def load_bert(network: bert.Bert, weights: Mapping[str, torch.Tensor], source: Path) -> None:
    """Load released weights; a `bert.` before their names and heads of other tasks are ignored.

    A file without the pooler, which nothing uses, is taken as well.
    """
    given = {key.removeprefix("bert."): value for key, value in weights.items()}
    own = network.state_dict()
    for name in own:
        published = bert.published_name(name)
        # Releases before 2019 have the names of the first implementation.
        old = published.replace("LayerNorm.weight", "LayerNorm.gamma")
        old = old.replace("LayerNorm.bias", "LayerNorm.beta")
        value = given.get(published, given.get(old))
        if value is None and name.startswith("pooler."):
            continue
        if value is None:
            raise DataError(f"{source}: has no weights {published!r}{nearest(published, given)}")
        if value.shape != own[name].shape:
            raise DataError(
                f"{source}: {published} has shape {tuple(value.shape)}, expected "
                f"{tuple(own[name].shape)} of the configuration"
            )
        own[name] = value.float()
    network.load_state_dict(own)
