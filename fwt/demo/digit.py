"""A drawing as an image like those of MNIST, made the way those were made."""

from __future__ import annotations

import base64

import numpy as np
from PIL import Image

from fwt.fwcore.errors import DataError
from fwt.fwcore.ops import NumpyArray
from fwt.tasks.glimpses import IMAGE
from fwt.tasks.picture import png_pixels

BOX = 20  # pixels along the longer side of a digit
PREFIX = "data:image/png;base64,"
LARGEST = 4_000_000  # pixels of a drawing


def ink_of(address: str) -> NumpyArray:
    """The ink of a drawing: how opaque each pixel is.

    Args:
        address: a PNG as a `data:` address, as a canvas of a page gives it.

    Returns:
        (H, W) uint8, 0 where nothing is drawn.

    Raises:
        DataError: it is no such picture, or larger than `LARGEST`.
    """
    try:
        if not address.startswith(PREFIX):
            raise ValueError(f"it begins with {address[: len(PREFIX)]!r}")
        data = base64.b64decode(address[len(PREFIX) :], validate=True)
        return png_pixels(data, LARGEST, "RGBA")[:, :, 3]
    except (ValueError, OSError) as error:  # binascii.Error is a ValueError
        raise DataError(f"drawing: expected a PNG as a data: address, got {error}") from error


def like_mnist(ink: NumpyArray) -> NumpyArray:
    """Ink scaled into a box of 20 x 20 and centred by its mass in 28 x 28, grey from antialiasing.

    So were the images of MNIST made (LeCun, Cortes & Burges, "The MNIST database"): the box is
    moved by whole pixels until its centre of mass is nearest to pixel (14, 14), never out of the
    image.

    Args:
        ink: (H, W) uint8, more is darker on paper; some of it must not be 0.

    Returns:
        (28, 28) uint8, light on dark as in MNIST.

    Raises:
        DataError: there is no ink.
    """
    if not ink.any():
        raise DataError("drawing: expected a digit, got an empty page; draw one")
    rows, columns = np.flatnonzero(ink.any(1)), np.flatnonzero(ink.any(0))
    part = ink[rows[0] : rows[-1] + 1, columns[0] : columns[-1] + 1]
    width, height = (max(1, round(BOX * side / max(part.shape))) for side in part.shape[::-1])
    small = np.asarray(Image.fromarray(part).resize((width, height), Image.Resampling.BOX))
    image = np.zeros((IMAGE, IMAGE), np.uint8)
    top, left = (_start(small.sum(1 - axis, dtype=np.float64)) for axis in (0, 1))
    image[top : top + height, left : left + width] = small
    return image


def _start(mass: NumpyArray) -> int:
    """Where a line of mass begins in the image, so that its centre is the image's."""
    total = max(float(mass.sum()), 1.0)  # ink so thin that scaling lost it has no centre
    centre = float(mass @ np.arange(len(mass))) / total
    return int(np.clip(round(IMAGE / 2 - centre), 0, IMAGE - len(mass)))
