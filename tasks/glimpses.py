"""Glimpses: a 28x28 image as a fixed sequence of 7x7 views, the sequence named by a policy."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, NamedTuple

import numpy as np

from fwt.fwcore.errors import ConfigError, nearest
from fwt.fwcore.ops import NumpyArray
from fwt.tasks.base import Control

IMAGE = 28  # pixels along a side of the image,
QUADRANT = 14  # of one of its four quadrants,
PATCH = 7  # and of a glimpse
FEATURES = PATCH * PATCH


class Glimpse(NamedTuple):
    """One look at the image.

    Attributes:
        kind: `coarse` is a quadrant, every 2x2 pixels averaged into one; `fine` is a patch of
            7x7 pixels as they are.
        top: the first row of the quadrant or patch in the image.
        left: its first column.
    """

    kind: Literal["coarse", "fine"]
    top: int
    left: int


@dataclass(frozen=True)
class Policy:
    """A named sequence of glimpses.

    Attributes:
        name: the name on the command line.
        glimpses: the T glimpses in the order in which they are shown.
        levels: for the multi-level memory, one (store step, integration step) a level, counted
            from 0; empty for a sequence of one level.
    """

    name: str
    glimpses: tuple[Glimpse, ...]
    levels: tuple[tuple[int, int], ...] = ()

    @property
    def control(self) -> Control | None:
        """The control signal of the levels, None without levels."""
        if not self.levels:
            return None
        store, integrate = zip(*self.levels, strict=True)
        return Control(store=store, wipe=True, integrate=integrate)


def _corners(size: int, step: int, top: int = 0, left: int = 0) -> list[tuple[int, int]]:
    """The corners (row, column) of squares that tile a square of `size`, in raster order."""
    places = range(0, size, step)
    return [(top + row, left + column) for row in places for column in places]


def _fine(size: int, top: int = 0, left: int = 0) -> list[Glimpse]:
    """The fine glimpses that tile a square of `size` at (top, left), in raster order."""
    return [Glimpse("fine", *corner) for corner in _corners(size, PATCH, top, left)]


QUADRANTS = _corners(IMAGE, QUADRANT)


def _multi_level() -> Policy:
    """Each quadrant: coarse, its four fine glimpses, coarse again to integrate.

    The paper gives 24 glimpses and two scales (Ba et al. 2016, section 4.2, figure 3) but does
    not print their order; this order is ours.
    """
    glimpses: list[Glimpse] = []
    levels = []
    for top, left in QUADRANTS:
        coarse = Glimpse("coarse", top, left)
        level = [coarse, *_fine(QUADRANT, top, left), coarse]
        levels.append((len(glimpses), len(glimpses) + len(level) - 1))
        glimpses += level
    return Policy("multi-level", tuple(glimpses), tuple(levels))


def _coarse_to_fine() -> Policy:
    """The four quadrants coarsely, then their fine glimpses quadrant by quadrant."""
    coarse = [Glimpse("coarse", top, left) for top, left in QUADRANTS]
    fine = [glimpse for top, left in QUADRANTS for glimpse in _fine(QUADRANT, top, left)]
    return Policy("coarse-to-fine", tuple(coarse + fine))


POLICIES: dict[str, Policy] = {
    policy.name: policy
    for policy in (_multi_level(), Policy("raster", tuple(_fine(IMAGE))), _coarse_to_fine())
}


def policy_named(name: str) -> Policy:
    """The policy of that name.

    Raises:
        ConfigError: no policy has it.
    """
    if name not in POLICIES:
        raise ConfigError(f"glimpses: unknown policy {name!r} ({nearest(name, POLICIES)})")
    return POLICIES[name]


def cut(images: NumpyArray, policy: Policy) -> NumpyArray:
    """The glimpses of every image.

    Args:
        images: (N, 28, 28), uint8 in 0..255 or floats in [0, 1].
        policy: which glimpses, in which order.

    Returns:
        (N, T, 49) float32 in [0, 1]; each glimpse row by row.

    Raises:
        ConfigError: the images have another shape, type or range.
    """
    _check_images(images)
    white = np.float32(255 if images.dtype == np.uint8 else 1)
    pixels = images.astype(np.float32)
    # four slices are added in a fixed order, so that the sums are the same bits everywhere
    blocks = (
        pixels[:, ::2, ::2] + pixels[:, ::2, 1::2] + pixels[:, 1::2, ::2] + pixels[:, 1::2, 1::2]
    )
    fine, coarse = pixels / white, blocks / (4 * white)
    out = np.empty((len(images), len(policy.glimpses), FEATURES), dtype=np.float32)
    for step, (kind, top, left) in enumerate(policy.glimpses):
        source, row, column = (fine, top, left) if kind == "fine" else (coarse, top // 2, left // 2)
        view = source[:, row : row + PATCH, column : column + PATCH]
        out[:, step] = view.reshape(len(images), FEATURES)
    return out


def assemble(glimpses: NumpyArray, policy: Policy) -> NumpyArray:
    """The image that one sequence of glimpses (T, 49) shows, (28, 28) float32 in [0, 1].

    Only the fine glimpses are used; pixels that none of them covers stay 0.
    """
    image = np.zeros((IMAGE, IMAGE), dtype=np.float32)
    for view, (kind, top, left) in zip(glimpses, policy.glimpses, strict=True):
        if kind == "fine":
            image[top : top + PATCH, left : left + PATCH] = view.reshape(PATCH, PATCH)
    return image


def _check_images(images: NumpyArray) -> None:
    if images.ndim != 3 or images.shape[1:] != (IMAGE, IMAGE):
        raise ConfigError(
            f"glimpses: expected images of shape (N, {IMAGE}, {IMAGE}), got shape={images.shape}"
        )
    if images.dtype == np.uint8:
        return
    if images.dtype.kind != "f":
        raise ConfigError(f"glimpses: expected uint8 or float images, got dtype={images.dtype}")
    # written so that NaN is refused too
    if images.size and not (images.min() >= 0 and images.max() <= 1):
        raise ConfigError(
            f"glimpses: expected float images in [0, 1], got min={float(images.min())!r} "
            f"max={float(images.max())!r}; tasks.picture.as_images takes other forms"
        )
