"""Examples that the page draws by itself: the n-th string, the n-th image as a drawing."""

from __future__ import annotations

import base64
import io

import numpy as np
from PIL import Image

from fwt.demo.digit import PREFIX
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.rng import Stream
from fwt.tasks.datasets import images
from fwt.tasks.retrieval import RetrievalReader, generate
from fwt.tasks.sources import SUBSET

SCALE = 10  # pixels of a drawing, a pixel of the image


def string(pairs: int, number: int) -> str:
    """A string of so many pairs; its number is the seed that it is drawn with."""
    return "".join(RetrievalReader().labels(generate(pairs, 1, number, "demo").inputs[0]))


def drawing(number: int) -> str:
    """A test image of the bundled MNIST as a drawing, as `fwt.demo.digit.ink_of` reads it.

    Raises:
        DataError: the images are not there.
    """
    pictures = images(SUBSET).test_images
    chosen = Stream(0, "demo").permutation(len(pictures))[number % len(pictures)]
    ink = np.kron(pictures[chosen], np.ones((SCALE, SCALE), np.uint8))
    return _address(np.dstack([np.zeros((*ink.shape, 3), np.uint8), ink]))


def _address(pixels: NumpyArray) -> str:
    """Pixels (H, W, 4) uint8 as a `data:` address."""
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return PREFIX + base64.b64encode(file.getvalue()).decode()
