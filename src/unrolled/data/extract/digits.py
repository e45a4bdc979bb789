"""From digits written as numbers to the format of MNIST."""

import json
import struct
from collections.abc import Mapping
from pathlib import PurePosixPath

import numpy as np

from unrolled.data.archives import bundle


def digits(members: Mapping[str, bytes]) -> bytes:
    """Files `0.json` to `9.json` as a zip of two IDX files.

    Each has `data`, 784 numbers from 0 to 1 for each digit. The numbers are bytes divided by 255 and
    rounded to three places.
    """
    pixels, labels = [], []
    for path in sorted(members):
        values = np.array(json.loads(members[path])["data"]).reshape(-1, 28, 28)
        pixels.append((values * 255).round().astype(np.uint8))
        labels.append(np.full(len(values), int(PurePosixPath(path).stem), np.uint8))
    images, targets = np.concatenate(pixels), np.concatenate(labels)
    return bundle({
        "images-idx3-ubyte": struct.pack(">BBBB3I", 0, 0, 8, 3, *images.shape) + images.tobytes(),
        "labels-idx1-ubyte": struct.pack(">BBBBI", 0, 0, 8, 1, len(targets)) + targets.tobytes(),
    })  # fmt: skip
