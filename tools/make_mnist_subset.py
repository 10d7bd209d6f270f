"""Makes the bundled subset of MNIST: `python -m tools.make_mnist_subset FOLDER` from the root.

FOLDER holds the four IDX files of the full MNIST, whose checksums are verified. The subset has,
for every digit, 400 images of the first 50,000 training images, then 100 of the last 10,000 (for
validation, as in the full set, so that the splits of the two never mix), and 100 test images.
Images are drawn with a fixed seed and stay in their original order within each part.
"""

from __future__ import annotations

import argparse
import gzip
import struct
from pathlib import Path

import numpy as np

from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.rng import Stream
from fwt.tasks.datasets import BUNDLED, Images, images
from fwt.tasks.sources import FULL, SOURCES, SUBSET

SEED = 0
TRAIN, VALIDATION, TEST = 400, 100, 100  # images a class

LICENSE = """\
# The bundled subset of MNIST

The files in this folder are a class-balanced selection from the MNIST database of handwritten
digits: 5,000 training images (the last 1,000 serve as validation) and 1,000 test images, every
digit equally often. Training images come from MNIST's training file and test images from its test
file. Pixels and labels are unchanged; `tools/make_mnist_subset.py` made the selection.

MNIST: Yann LeCun and Corinna Cortes hold the copyright, and it is made available under the terms
of the Creative Commons Attribution-Share Alike 3.0 licence (CC BY-SA 3.0,
<https://creativecommons.org/licenses/by-sa/3.0/>). As a derived work this selection is under the
same licence, unlike the source code of this project.

Y. LeCun, L. Bottou, Y. Bengio, P. Haffner: *Gradient-based learning applied to document
recognition*, Proceedings of the IEEE 86(11), 1998.
"""


def choose(labels: NumpyArray, per_class: int, part: str) -> NumpyArray:
    """Places of `per_class` random examples of every class, ascending, int64.

    Args:
        labels: (N,) class numbers.
        per_class: how many of each class.
        part: names the random stream, so that parts are drawn independently.
    """
    order = Stream(SEED, SUBSET, part).permutation(len(labels))
    drawn = [order[labels[order] == label][:per_class] for label in np.unique(labels)]
    return np.sort(np.concatenate(drawn))


def select(full: Images) -> list[NumpyArray]:
    """Training images, training labels, test images, test labels of the subset."""
    border = len(full.train_labels) - full.source.validation
    train = choose(full.train_labels[:border], TRAIN, "train")
    val = border + choose(full.train_labels[border:], VALIDATION, "val")
    test = choose(full.test_labels, TEST, "test")
    kept = np.concatenate([train, val])
    return [
        full.train_images[kept],
        full.train_labels[kept],
        full.test_images[test],
        full.test_labels[test],
    ]


def idx_bytes(array: NumpyArray) -> bytes:
    """An array as the bytes of an IDX file of unsigned bytes."""
    header = struct.pack(f">4B{array.ndim}I", 0, 0, 8, array.ndim, *array.shape)
    return header + array.astype(np.uint8).tobytes()


def write(arrays: list[NumpyArray], folder: Path) -> None:
    """Write the four packed files and their licence; equal arrays give equal files."""
    folder.mkdir(parents=True, exist_ok=True)
    for file, array in zip(SOURCES[SUBSET].files, arrays, strict=True):
        (folder / f"{file.name}.gz").write_bytes(gzip.compress(idx_bytes(array), 9, mtime=0))
    (folder / "LICENSE.md").write_text(LICENSE, encoding="utf-8")


def main() -> None:
    """Read the full set, write the subset."""
    parser = argparse.ArgumentParser(description="Make the bundled subset of MNIST.")
    parser.add_argument("folder", type=Path, help="folder of the full MNIST's IDX files")
    parser.add_argument("--out", type=Path, default=BUNDLED / SUBSET, help="folder to write into")
    arguments = parser.parse_args()
    write(select(images(FULL, arguments.folder)), arguments.out)


if __name__ == "__main__":
    main()
