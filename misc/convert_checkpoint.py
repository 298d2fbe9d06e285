"""Convert a checkpoint (.pth), ours or a released one, to safetensors and JSON.

    python misc/convert_checkpoint.py trained_model.pth weights.safetensors

The weights go to the named file, under their published names; epoch, configuration and whatever
else is no tensor to a JSON file beside it. Nothing of the checkpoint is executed. The optimiser's
tensors are left out.
"""

from __future__ import annotations

import argparse
import math
import sys
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import torch

from utils.errors import CheckpointError, UsageError, needed_by, run_main
from utils.files import atomic_writer, write_json
from utils.reading.checkpoints import Opaque, read_torch_checkpoint

DEEPEST = 50


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command; returns its exit status."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkpoint", type=Path)
    parser.add_argument("output", type=Path, help="ends in .safetensors")
    args = parser.parse_args(argv)
    return run_main(lambda: convert(args.checkpoint, args.output))


def convert(checkpoint: Path, output: Path) -> int:
    """Write `output` and the JSON file beside it."""
    with needed_by("the conversion", "requirements/convert.in", UsageError):
        from safetensors.torch import save
    if output.suffix != ".safetensors":
        raise UsageError(f"{output}: expected a name that ends in .safetensors")
    content = read_torch_checkpoint(checkpoint)
    state = content.pop("state_dict", None)
    if not isinstance(state, dict) or not state:
        raise CheckpointError(
            f"{checkpoint} holds no state_dict; it is not a checkpoint of a model"
        )
    for name, weights in state.items():
        if not isinstance(name, str) or not isinstance(weights, torch.Tensor):
            raise CheckpointError(f"{checkpoint}: {name!r} of its state_dict is not a named tensor")
    # safetensors takes no tensors that share their numbers.
    packed = save({name: weights.clone().contiguous() for name, weights in state.items()})
    with atomic_writer(output) as file:
        file.write(packed)
    write_json(output.with_suffix(".json"), plain(content))
    print(f"{output}: {len(state)} tensors, {sum(map(torch.Tensor.numel, state.values()))} numbers")
    print(f"{output.with_suffix('.json')}: everything else")
    return 0


def plain(value: object, depth: int = 0) -> object:
    """Return what JSON can hold of a value: foreign objects by name, tensors by shape."""
    if depth > DEEPEST:
        return "..."
    if value is None or isinstance(value, (bool, int, str)):
        return value
    if isinstance(value, float):
        return value if math.isfinite(value) else str(value)
    if isinstance(value, dict):
        return {str(key): plain(inner, depth + 1) for key, inner in value.items()}
    if isinstance(value, (list, tuple, set, frozenset)):
        return [plain(inner, depth + 1) for inner in value]
    if isinstance(value, torch.Tensor):
        return f"tensor {tuple(value.shape)} {value.dtype}"
    if isinstance(value, Opaque):
        parts = {"args": value.args, "state": value.state}
        kept = {name: plain(part, depth + 1) for name, part in parts.items() if part}
        return {"class": value.name, **kept}
    return type(value).__name__


if __name__ == "__main__":
    sys.exit(main())
