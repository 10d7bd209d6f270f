"""The registry of image datasets: what each is called, what its files are, and their hashes."""

from __future__ import annotations

import string
from dataclasses import dataclass, field

AUTO = "auto"
FULL, SUBSET = "mnist", "mnist-subset"  # what `auto` tries, and what it falls back to


@dataclass(frozen=True)
class IdxFile:
    """One file of a dataset.

    Attributes:
        name: its name without `.gz`.
        dims: 3 for images (N, 28, 28), 1 for labels (N,).
        count: N; None where it is not known for certain.
        md5: of the unpacked bytes, where known; files are often packed anew.
        gz_md5: of the `.gz` file as its authors packed it, where known; enough by itself.
    """

    name: str
    dims: int
    count: int | None = None
    md5: str | None = None
    gz_md5: str | None = None


@dataclass(frozen=True)
class Source:
    """What is known of a dataset.

    Attributes:
        name: the name on the command line.
        files: training images, training labels, test images, test labels.
        classes: what the labels 0, 1, ... mean.
        folder: torchvision's folder for the files, below its root; for the bundled dataset the
            folder in the package.
        torchvision: its class in `torchvision.datasets`; empty if it is bundled, not downloaded.
        options: arguments of that class.
        validation: how many images at the end of the training file are for validation.
        first_label: the number that the files give to the first class.
        transposed: the files hold every image with rows and columns exchanged.
        blank_border: along the border of its images there is nearly nothing, so that a border
            tells paper from ink; see `fwt.tasks.picture`.
    """

    name: str
    files: tuple[IdxFile, ...]
    classes: tuple[str, ...]
    folder: str
    torchvision: str = ""
    options: dict[str, str] = field(default_factory=dict)
    validation: int = 10_000
    first_label: int = 0
    transposed: bool = False
    blank_border: bool = False


Hashes = tuple[str | None, ...]
UNKNOWN: Hashes = (None, None, None, None)


def _files(
    parts: tuple[str, str] = ("train", "t10k"),
    counts: tuple[int | None, int | None] = (60_000, 10_000),
    md5: Hashes = UNKNOWN,
    gz_md5: Hashes = UNKNOWN,
) -> tuple[IdxFile, ...]:
    """The four files by their usual names; hashes in the order of `Source.files`."""
    files: list[IdxFile] = []
    for part, count in zip(parts, counts, strict=True):
        for what, dims in (("images", 3), ("labels", 1)):
            index = len(files)
            name = f"{part}-{what}-idx{dims}-ubyte"
            files.append(IdxFile(name, dims, count, md5[index], gz_md5[index]))
    return tuple(files)


def _emnist(split: str, classes: str, first_label: int = 0) -> Source:
    """A split of EMNIST (Cohen et al. 2017).

    Only a checksum of the whole archive is known, which torchvision compares when it downloads;
    descriptions of the dataset differ in the counts of its letters, so none is pinned.
    """
    return Source(
        name=f"emnist-{split}",
        files=_files((f"emnist-{split}-train", f"emnist-{split}-test"), (None, None)),
        classes=tuple(classes),
        folder="EMNIST/raw",
        torchvision="EMNIST",
        options={"split": split},
        first_label=first_label,
        transposed=True,
    )


_ALL = (
    Source(
        name=FULL,
        files=_files(
            md5=(
                "6bbc9ace898e44ae57da46a324031adb",
                "a25bea736e30d166cdddb491f175f624",
                "2646ac647ad5339dbf082846283269ea",
                "27ae3e4e09519cfbb04c329615203637",
            ),
            gz_md5=(
                "f68b3c2dcbeaaa9fbdd348bbdeb94873",
                "d53e105ee54ea40749a09fcbcd1e9432",
                "9fb629c4189551a2d022fa330f9573f3",
                "ec29112dd5afa0611ce80d1b7f02629c",
            ),
        ),
        classes=tuple(string.digits),
        folder="MNIST/raw",
        torchvision="MNIST",
        blank_border=True,
    ),
    Source(
        name=SUBSET,
        files=_files(
            counts=(5_000, 1_000),
            md5=(
                "11408a98df4b262233113a946cf9fb2f",
                "0592ba1de58c309b823f6a6d98ea8940",
                "ed0d7b5f68249c9ad299885221e7894d",
                "c993747e3d89c54ee1177f89d30aa8ef",
            ),
        ),
        classes=tuple(string.digits),
        folder=SUBSET,
        validation=1_000,
        blank_border=True,
    ),
    Source(
        name="fashion-mnist",
        files=_files(
            md5=(
                "f4a8712d7a061bf5bd6d2ca38dc4d50a",
                "9018921c3c673c538a1fc5bad174d6f9",
                "8181f5470baa50b63fa0f6fddb340f0a",
                "15d484375f8d13e6eb1aabb0c3f46965",
            ),
            gz_md5=(
                "8d4fb7e6c68d591d4c3dfef9ec88bf0d",
                "25c81989df183df01b3e8a0aad5dffbe",
                "bef4ecab320f06d8554ea6380940ec79",
                "bb300cfdad3c16e7a12a480ee83cd310",
            ),
        ),
        classes=(
            "T-shirt/top", "Trouser", "Pullover", "Dress", "Coat",
            "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot",
        ),
        folder="FashionMNIST/raw",
        torchvision="FashionMNIST",
    ),
    Source(
        name="kmnist",
        files=_files(
            # of the version of February 2019, as the hashes of the packed files are
            md5=(
                "92be26ec9822e900ac425d0a0aa84ced",
                "949e75301f8813e0dc5800dcc320fc52",
                "bf305b8cd328700fbc17f5acbc2856d2",
                "9f55f451c0988b028eccdf7d5cc265ab",
            ),
            gz_md5=(
                "bdb82020997e1d708af4cf47b453dcf7",
                "e144d726b3acfaa3e44228e80efcd344",
                "5c965bf0a639b31b8f53240b1b52f4d7",
                "7320c461ea6c1c855c0b718fb2a4b134",
            ),
        ),
        classes=("o", "ki", "su", "tsu", "na", "ha", "ma", "ya", "re", "wo"),
        folder="KMNIST/raw",
        torchvision="KMNIST",
    ),
    _emnist("digits", string.digits),
    _emnist("letters", string.ascii_lowercase, first_label=1),
    # upper and lower case of the other letters look alike and share a class
    _emnist("balanced", string.digits + string.ascii_uppercase + "abdefghnqrt"),
)  # fmt: skip

SOURCES: dict[str, Source] = {source.name: source for source in _ALL}
NAMES = (AUTO, *SOURCES)
