"""Task 2, glimpses of digits: an image is seen as a sequence of 7x7 views and then named."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
from pydantic import Field, field_validator

from fwt.fwcore.errors import DataError, nearest
from fwt.fwcore.ops import NumpyArray
from fwt.tasks import picture
from fwt.tasks.base import Control, Pictures, Shape, Split, TaskSpec, check_split
from fwt.tasks.datasets import Images, images
from fwt.tasks.glimpses import FEATURES, IMAGE, PATCH, POLICIES, Policy, assemble, cut, policy_named
from fwt.tasks.sources import AUTO, FULL, NAMES, SOURCES, SUBSET, Source

SHADES = " .:-=+*#%@"  # from black to white

# Ba et al. 2016, table 2: test error on MNIST in percent, by R
PUBLISHED: dict[str, dict[int, float]] = {
    "irnn": {50: 12.95, 100: 1.95, 200: 1.42},
    "lstm": {50: 12.0, 100: 1.55, 200: 1.10},
    "convnet": {50: 1.81, 100: 1.00, 200: 0.90},
    "fast-weights": {50: 7.21, 100: 1.30, 200: 0.85},
}


class Spec(TaskSpec):
    """Options of the glimpse task (Ba et al. 2016, section 4.2).

    Attributes:
        policy: which glimpses in which order, a name in `fwt.tasks.glimpses.POLICIES`.
        dataset: a name in `fwt.tasks.NAMES`; `auto` is the full MNIST where it can be had,
            else the bundled subset.
        shift: the training split holds every image moved by up to so many pixels in each
            direction too, so (2 shift + 1)^2 times as many; 0 leaves it as it is. Digits keep 4
            blank pixels around them. The other splits are never moved.
    """

    kind: Literal["mnist-glimpse"] = "mnist-glimpse"
    policy: str = "multi-level"
    dataset: str = AUTO
    shift: int = Field(default=0, ge=0, le=4)

    @property
    def reads_files(self) -> bool:
        """Whether the dataset is not the bundled one."""
        return self.dataset != SUBSET

    @field_validator("policy")
    @classmethod
    def _policy_exists(cls, policy: str) -> str:
        if policy not in POLICIES:
            raise ValueError(f"unknown policy ({nearest(policy, POLICIES)})")
        return policy

    @field_validator("dataset")
    @classmethod
    def _dataset_exists(cls, dataset: str) -> str:
        if dataset not in NAMES:
            raise ValueError(f"unknown dataset ({nearest(dataset, NAMES)})")
        return dataset


class MnistGlimpse:
    """The glimpse task; the glimpses of a split are cut when first asked for, and kept.

    The last images of the training file (10,000, of the subset 1,000) are the validation split.
    """

    def __init__(self, spec: Spec, data: Images) -> None:
        """Wrap the data.

        Args:
            spec: the options; `dataset` must be the real name of the data.
            data: the images.

        Raises:
            DataError: there are too few training images to hold some out.
        """
        self.spec = spec
        self._data = data
        self._policy = policy_named(spec.policy)
        self._splits: dict[str, Split] = {}
        self._trained = len(data.train_images) - data.source.validation
        if self._trained < 1:
            raise DataError(
                f"dataset {spec.dataset!r}: expected more than {data.source.validation} training "
                f"images, which are held out for validation, got count={len(data.train_images)}"
            )
        self.shape = Shape(
            steps=len(self._policy.glimpses),
            symbols=0,
            features=FEATURES,
            classes=len(data.source.classes),
        )

    @property
    def dataset(self) -> str:
        """The name of the data that is really used, never `auto`."""
        return self.spec.dataset

    @property
    def chance_error(self) -> float:
        """Test error in percent of guessing one of equally frequent classes."""
        return 100.0 * (1.0 - 1.0 / self.shape.classes)

    @property
    def control(self) -> Control | None:
        """The control signal of the policy, where it has levels."""
        return self._policy.control

    @property
    def published(self) -> dict[str, dict[int, float]]:
        """Ba et al. 2016, table 2 (percent): model -> R -> error; empty unless on full MNIST."""
        if self.dataset != FULL:
            return {}
        return {model: dict(errors) for model, errors in PUBLISHED.items()}

    @property
    def data_bytes(self) -> int:
        """Bytes of the glimpses of all images."""
        moved = self._trained * ((2 * self.spec.shift + 1) ** 2 - 1)
        images = len(self._data.train_images) + moved + len(self._data.test_images)
        return 4 * images * self.shape.steps * self.shape.features

    def split(self, name: str) -> Split:
        """The glimpses of `train`, `val` or `test`: inputs (N, T, 49) float32 in [0, 1].

        Raises:
            ConfigError: for another name.
        """
        check_split(name)
        if name not in self._splits:
            pixels, labels = self._pictures(name)
            if name == "train" and self.spec.shift:
                pixels, labels = shifted(pixels, labels, self.spec.shift)
            self._splits[name] = Split(cut(pixels, self._policy), labels)
        return self._splits[name]

    def _pictures(self, name: str) -> tuple[NumpyArray, NumpyArray]:
        """The images (N, 28, 28) and labels (N,) of a split."""
        if name == "test":
            return self._data.test_images, self._data.test_labels
        part = slice(None, self._trained) if name == "train" else slice(self._trained, None)
        return self._data.train_images[part], self._data.train_labels[part]

    def render(self, inputs: NumpyArray, target: int | None = None) -> str:
        """The image behind glimpses (T, 49) as 28 lines of shades; a last line names the class."""
        image = assemble(inputs, self._policy)
        levels = np.rint(image * (len(SHADES) - 1)).astype(np.int64)
        lines = ["".join(SHADES[level] for level in row) for row in levels]
        if target is not None:
            lines.append(f"-> {self._data.source.classes[int(target)]}")
        return "\n".join(lines)

    def parse(self, text: str) -> NumpyArray:
        return GlimpseReader(self._policy, self._data.source).parse(text)


def shifted(images: NumpyArray, labels: NumpyArray, most: int) -> tuple[NumpyArray, NumpyArray]:
    """Images moved by up to `most` pixels in each direction, black where they came from.

    Args:
        images: (N, 28, 28).
        labels: (N,).
        most: the largest shift; there are V = (2 most + 1)^2.

    Returns:
        Images (V N, 28, 28), shift by shift from up and left to down and right, and labels (V N,).
    """
    edge = ((0, 0), (most, most), (most, most))
    framed, moves = np.pad(images, edge), range(2 * most, -1, -1)
    views = [framed[:, top : top + IMAGE, left : left + IMAGE] for top in moves for left in moves]
    return np.concatenate(views), np.tile(labels, len(views))


@dataclass(frozen=True)
class GlimpseReader:
    """Images of one's own, and the classes that answer them.

    Attributes:
        policy: which glimpses are cut.
        source: the dataset whose images they are to be like.
    """

    policy: Policy
    source: Source

    @property
    def classes(self) -> tuple[str, ...]:
        """What the classes are called."""
        return self.source.classes

    def parse(self, text: str) -> NumpyArray:
        """The glimpses (T, 49) float32 of an image file.

        Args:
            text: path of one 28x28 image, a .npy array or a .png (which needs Pillow).

        Raises:
            ConfigError: the path ends otherwise, or Pillow is not there for a .png.
            DataError: the file is missing, damaged or no such image; see `picture.as_images`.
        """
        name = text.strip()
        images = picture.as_images(picture.read(name), self.source, name)
        if len(images) > 1:
            raise DataError(
                f"{name}: expected one grey image, got {len(images)} (or colours, which belong on "
                "the last axis); save each in a file of its own"
            )
        return np.asarray(cut(images, self.policy)[0])

    def see(self, pictures: Any) -> NumpyArray:
        """The glimpses (N, T, 49) float32 of pictures in memory.

        Args:
            pictures: one or several in most forms there are; see `picture.as_images`.

        Raises:
            DataError: they are no such images.
        """
        return cut(picture.as_images(pictures, self.source), self.policy)

    def labels(self, inputs: NumpyArray) -> tuple[str, ...]:
        """The kind of each glimpse and its corner: `fine 7,14`."""
        return tuple(f"{kind} {top},{left}" for kind, top, left in self.policy.glimpses)

    def pictures(self, inputs: NumpyArray) -> Pictures:
        """The image (28, 28) and the glimpses (T, 7, 7)."""
        return Pictures(assemble(inputs, self.policy), inputs.reshape(-1, PATCH, PATCH))


def load(spec: Spec, data_dir: Path | None = None) -> MnistGlimpse:
    """The glimpse task with its images read.

    Args:
        spec: the options; in the task's own spec `auto` is replaced by the name of what was had.
        data_dir: the folder of the IDX files; None looks in the cache and downloads.

    Raises:
        DataError: the images are missing, damaged or cannot be had.
    """
    data = images(spec.dataset, data_dir)
    return MnistGlimpse(spec.model_copy(update={"dataset": data.source.name}), data)


def reader(spec: Spec) -> GlimpseReader:
    """What the task makes of one image; `auto` is a set of digits wherever it comes from."""
    source = SOURCES[FULL if spec.dataset == AUTO else spec.dataset]
    return GlimpseReader(policy_named(spec.policy), source)
