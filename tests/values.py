"""Compare values read from a file with those that its own library reads."""

import numpy as np
import torch


def same(ours, theirs):
    """Say whether values agree, with types, order of keys, and NaN equal to NaN."""
    if isinstance(theirs, torch.Tensor):
        numbers = [torch.nan_to_num(t.detach().float()) for t in (ours, theirs)]
        return (ours.dtype, ours.shape) == (theirs.dtype, theirs.shape) and torch.equal(*numbers)
    if isinstance(theirs, np.ndarray):
        return (
            isinstance(ours, np.ndarray)
            and (ours.dtype, ours.shape) == (theirs.dtype.newbyteorder("="), theirs.shape)
            and np.array_equal(ours, theirs, equal_nan=theirs.dtype.kind == "f")
        )
    if isinstance(theirs, (bytes, bytearray)):
        return bytes(ours) == bytes(theirs)
    if isinstance(theirs, dict):
        return list(ours) == list(theirs) and all(same(ours[key], theirs[key]) for key in theirs)
    if type(ours) is not type(theirs):
        return False
    if isinstance(theirs, (list, tuple)):
        return len(ours) == len(theirs) and all(map(same, ours, theirs))
    return ours == theirs or (ours != ours and theirs != theirs)
