"""A person's picture, in whatever form, as the images of a dataset are: 28x28, light on dark.

Where a form leaves no doubt of its meaning, the picture is brought into that of the dataset, and a
`PictureWarning` says so; where it could mean two things, it is refused. No dataset comes here.

Light or dark: where all images of a dataset have a blank border (`Source.blank_border`), a border
shows what the ground is. The digits of MNIST were fitted into 20 x 20 pixels and centred by their
mass in 28 x 28 (LeCun, Cortes & Burges, "The MNIST database"): of the 108 pixels along the edge of
each of its 70,000 images, at most 4 are lighter than halfway between its darkest and its lightest
pixel. So where more than half of them are, the ground is light, and the picture is turned. Clothes
and written signs reach the edge: there a light border is only named.
"""

from __future__ import annotations

import importlib
import io
import struct
import warnings
import zlib
from pathlib import Path
from typing import Any

import numpy as np

from fwt.fwcore import paths
from fwt.fwcore.errors import ConfigError, DataError
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.storage import files
from fwt.tasks.glimpses import IMAGE
from fwt.tasks.sources import Source

MOST_BYTES, MOST_PIXELS = 2**20, 2**20  # of an image's file, to be read at all
WHITES = (1, 255, 65535)  # what white is, by the largest value there is
SLACK = 1e-3  # of white, by which rounding may leave the range: float16 has steps of 5e-4 there
# what Pillow raises for a broken .png, beside OSError and ValueError
CHUNK_FAULTS = (SyntaxError, LookupError, TypeError, EOFError, struct.error, zlib.error)


class PictureWarning(UserWarning):
    """A picture was not in the form of its dataset and was brought into it, or could not be."""


# --- files ----------------------------------------------------------------------------------


def read(name: str) -> NumpyArray:
    """The numbers of an image file, of whatever shape and type: a `.npy` array or a `.png`.

    Raises:
        ConfigError: its name ends otherwise, or Pillow is not there for a .png.
        DataError: the file is missing, damaged or too large.
    """
    readers = {".npy": _read_npy, ".png": _read_png}
    suffix = Path(name).suffix
    if suffix.lower() not in readers:
        raise ConfigError(
            f"input {name!r}: expected the path of a 28x28 image that ends in .npy or .png, "
            f"got suffix={suffix!r}"
        )
    return readers[suffix.lower()](paths.expand(name))


def _read_npy(path: Path) -> NumpyArray:
    try:
        return files.from_npy(files.contents(path, MOST_BYTES))
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a .npy file of numbers, got {type(error).__name__}: {error}; "
            "write one with numpy.save"
        ) from error


def _read_png(path: Path) -> NumpyArray:
    try:
        return png_pixels(files.contents(path, MOST_BYTES), MOST_PIXELS)
    except ImportError as error:
        raise ConfigError(
            f"input {str(path)!r}: reading a .png needs Pillow, which is not installed; "
            "install it (pip install pillow) or give a .npy array"
        ) from error
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: expected a .png image, got {type(error).__name__}: {error}"
        ) from error


def png_pixels(stored: bytes, most: int, mode: str | None = None) -> NumpyArray:
    """The pixels of a PNG.

    Args:
        stored: the bytes of the file.
        most: pixels that it may have.
        mode: of Pillow; None is the file's own, palettes as RGBA, and 16 bits as 0 to 1.

    Returns:
        (H, W), or (H, W, C) with colours.

    Raises:
        ImportError: Pillow is not there.
        OSError, ValueError: it is no such PNG.
    """
    pillow: Any = importlib.import_module("PIL.Image")
    broken: Any = (*CHUNK_FAULTS, pillow.DecompressionBombError, pillow.DecompressionBombWarning)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error", pillow.DecompressionBombWarning)
            with pillow.open(io.BytesIO(stored), formats=("PNG",)) as picture:
                if picture.width * picture.height > most:  # said before anything is unpacked
                    raise ValueError(f"{picture.size} pixels")
                return _pixels(picture, mode)
    except pillow.UnidentifiedImageError as error:  # whose text is an address in memory
        raise ValueError("its bytes are not those of a PNG") from error
    except broken as error:
        raise ValueError(f"{type(error).__name__}: {error}") from error


def _pixels(picture: Any, mode: str | None) -> NumpyArray:
    picture.load()  # the last chunks, which may name a transparent colour
    if mode is None and (picture.mode == "P" or "transparency" in picture.info):
        mode = "RGBA"
    found = np.asarray(picture if mode is None else picture.convert(mode))
    deep = mode is None and picture.mode.startswith("I")
    return found / np.float32(WHITES[-1]) if deep else found


# --- arrays ---------------------------------------------------------------------------------


def as_images(given: Any, source: Source, where: str = "picture") -> NumpyArray:
    """Pictures as images of a dataset.

    Args:
        given: numbers or booleans of shape (28, 28), (784,), (N, 28, 28) or (N, 784), with axes of
            length 1 anywhere, or with a last axis of 2 (grey and opacity), 3 (RGB) or 4 (RGBA).
            White is 1, 255 or 65535, the least of them that no value exceeds.
        source: the dataset.
        where: the beginning of an error and of a warning.

    Returns:
        (N, 28, 28) uint8 in 0..255 or float32 in [0, 1], light on dark.

    Raises:
        DataError: they are no such pictures, have colours, or show nothing.
    """
    images, scaled = _scaled(_stacked(_grey(given, where), where), where)
    light = _is_light(images, where)
    turned = (
        f"dark on light in {light.sum()} of {len(light)}" if len(light) > 1 else "dark on light"
    )
    notes = [scaled] if scaled else []
    if light.any() and source.blank_border:
        white = 255 if images.dtype == np.uint8 else np.float32(1)
        images = np.where(light[:, None, None], white - images, images)
        notes.append(f"{turned}, and {source.name} is light on dark: turned")
    elif light.any():
        notes.append(
            f"its border is light, as it may be in {source.name}: taken as light on dark; if it is "
            "dark on light, turn it first"
        )
    if notes:
        warnings.warn(PictureWarning(f"{where}: {'; '.join(notes)}"), stacklevel=2)
    return images


def _grey(given: Any, where: str) -> NumpyArray:
    """Numbers without colours. Raises DataError."""
    array = np.asarray(given)
    if array.dtype.kind not in "buif":
        raise DataError(f"{where}: expected an image of numbers, got dtype={array.dtype}")
    array = array.squeeze()
    if array.ndim < 3 or array.shape[-3:-1] != (IMAGE, IMAGE) or array.shape[-1] not in (2, 3, 4):
        return array
    if array.shape[-1] == 3:
        colours, opacity = array, None
    else:
        colours, opacity = array[..., :-1], array[..., -1]
    if opacity is not None and (opacity != opacity.max()).any():
        seen = colours[opacity > 0]
        if (seen != seen[0]).any():
            raise DataError(
                f"{where}: expected a grey image, got several colours, transparent in part; save "
                "it in grey on an opaque ground"
            )
        return opacity  # ink of one colour: how opaque it is, whatever the colour
    if (colours != colours[..., :1]).any():
        raise DataError(f"{where}: expected a grey image, got colours; convert it to grey")
    return colours[..., 0]


def _stacked(array: NumpyArray, where: str) -> NumpyArray:
    """Grey pictures as (N, 28, 28). Raises DataError."""
    if array.shape[-1:] == (IMAGE * IMAGE,):
        array = array.reshape(*array.shape[:-1], IMAGE, IMAGE)
    if array.ndim not in (2, 3) or array.shape[-2:] != (IMAGE, IMAGE) or not array.size:
        raise DataError(
            f"{where}: expected one grey image of shape ({IMAGE}, {IMAGE}), got "
            f"shape={array.shape}; scale it to {IMAGE}x{IMAGE} pixels"
        )
    return array.reshape(-1, IMAGE, IMAGE)


def _scaled(pixels: NumpyArray, where: str) -> tuple[NumpyArray, str]:
    """Pictures in 0..255 or in [0, 1], and a word on their white where the type does not tell it.

    The same picture in 0..255, of whatever type, becomes the same uint8.

    Raises:
        DataError: values are negative or not finite, or it is not clear which of them is white.
    """
    low, high = float(pixels.min()), float(pixels.max())
    white = next((value for value in WHITES if high <= value * (1 + SLACK)), None)
    if white is None or not low >= -white * SLACK:  # so that NaN is refused too
        raise DataError(
            f"{where}: expected values from 0, which is black, to 1, 255 or 65535, got min={low!r} "
            f"max={high!r}; undo what they were normalised with"
        )
    usual = {"b": 1, "f": 1}.get(pixels.dtype.kind, 255)
    if white != usual and 0 < high < white / 2:
        raise DataError(
            f"{where}: expected values up to about 1, 255 or 65535, got max={high!r} of "
            f"dtype={pixels.dtype}, which leaves open what is white; divide by the value of white"
        )
    scaled = f"values of {pixels.dtype} up to {high:g}: {white} is white" if white != usual else ""
    if white == 255 and (pixels == np.rint(pixels)).all():
        return pixels.astype(np.uint8), scaled
    return np.clip(pixels.astype(np.float32) / np.float32(white), 0, 1), scaled


def _is_light(images: NumpyArray, where: str) -> NumpyArray:
    """Whether the ground of each image is light, (N,). Raises DataError where there is nothing."""
    flat = images.reshape(len(images), -1).astype(np.float32)
    low, high = flat.min(1, keepdims=True), flat.max(1, keepdims=True)
    if (low == high).any():
        raise DataError(
            f"{where}: expected something to be seen, got one value everywhere, {flat[0, 0]:g}"
        )
    edge = np.ones((IMAGE, IMAGE), bool)
    edge[1:-1, 1:-1] = False
    return np.asarray((flat[:, edge.ravel()] > (low + high) / 2).mean(1) > 0.5)
