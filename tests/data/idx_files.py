"""Arrays in the format of IDX."""

import struct

import numpy as np

KINDS = {"u1": 8, "i1": 9, "i2": 11, "i4": 12, "f4": 13, "f8": 14}


def as_idx(array: np.ndarray) -> bytes:
    """The array as the format has it."""
    kind = KINDS[array.dtype.str[1:]]
    head = struct.pack(f">BBBB{array.ndim}I", 0, 0, kind, array.ndim, *array.shape)
    return head + array.astype(array.dtype.newbyteorder(">")).tobytes()
