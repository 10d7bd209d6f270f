"""Pictures of one's own: each form is brought into that of the dataset, or refused and told why."""

from __future__ import annotations

import io
import warnings
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt import tasks
from fwt.demo import digit
from fwt.fwcore.errors import DataError
from fwt.tasks import picture
from fwt.tasks.datasets import images
from fwt.tasks.glimpses import POLICIES, cut
from fwt.tasks.picture import PictureWarning, as_images
from fwt.tasks.sources import SOURCES
from tests.cli_tools import ROOT, Done, clean_environment, fwt, good, refused

NETWORK = ROOT / "checkpoints" / "mnist-glimpse-fast-weights-r50"
MNIST, CLOTHES = SOURCES["mnist"], SOURCES["fashion-mnist"]
PIXELS = images("mnist-subset").test_images[7]  # a 2
MASK = (PIXELS > 127).astype(np.uint8)
LEVELS = PIXELS.astype(np.float64)


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    clean_environment(monkeypatch)
    monkeypatch.chdir(tmp_path)


def shown(*arguments: object) -> Done:
    """A command that succeeds, with the warnings that a person sees."""
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        return good(*arguments)


# --- light or dark --------------------------------------------------------------------------


def test_every_bundled_digit_is_told_right_in_both_polarities():
    data = images("mnist-subset")
    every = np.concatenate([data.train_images, data.test_images])
    assert np.array_equal(as_images(every, MNIST), every)  # without a warning
    with pytest.warns(PictureWarning, match="dark on light in 6000 of 6000, and mnist is light"):
        assert np.array_equal(as_images(255 - every, MNIST), every)
    floats = (every / 255).astype(np.float32)
    with pytest.warns(PictureWarning, match="6000 of 6000"):
        assert np.abs(as_images(1 - floats, MNIST) - floats).max() < 1e-7


def test_each_picture_of_a_batch_is_told_by_itself():
    with pytest.warns(PictureWarning, match="picture: dark on light in 1 of 2, and mnist is light"):
        found = as_images([PIXELS, 255 - PIXELS], MNIST)
    assert np.array_equal(found, [PIXELS, PIXELS])


def test_grey_paper_is_light_and_grey_ink_on_black_is_not():
    paper = np.full((28, 28), 90, np.uint8)
    paper[8:20, 13:15] = 30
    with pytest.warns(PictureWarning, match="turned"):
        assert np.array_equal(as_images(paper, MNIST)[0], 255 - paper)
    assert np.array_equal(as_images(120 - paper, MNIST)[0], 120 - paper)


def test_what_reaches_the_edge_is_not_turned_where_objects_do():
    coat = np.full((28, 28), 200, np.uint8)
    coat[:, 13:15] = 0
    words = "its border is light, as it may be in fashion-mnist: taken as light on dark"
    with pytest.warns(PictureWarning, match=words):
        assert np.array_equal(as_images(coat, CLOTHES)[0], coat)


# --- values and shapes ----------------------------------------------------------------------

SAME: dict[str, Any] = {
    "uint8": PIXELS,
    "a list": PIXELS.tolist(),
    "int64": PIXELS.astype(np.int64),
    "big-endian uint16": PIXELS.astype(">u2"),
    "(1, 28, 28)": PIXELS[None],
    "(28, 28, 1)": PIXELS[..., None],
    "(1, 1, 28, 28)": PIXELS[None, None],
    "(784,)": PIXELS.ravel(),
    "(784, 1)": PIXELS.reshape(784, 1),
    "Fortran order": np.asfortranarray(PIXELS),
    "RGB of equal colours": np.repeat(PIXELS[..., None], 3, -1),
    "opaque RGBA": np.dstack([PIXELS, PIXELS, PIXELS, np.full_like(PIXELS, 255)]),
    "black ink, transparent paper": np.dstack([np.zeros((28, 28, 3), np.uint8), PIXELS]),
    "white ink, transparent paper": np.dstack([np.full_like(PIXELS, 255), PIXELS]),
}


@pytest.mark.parametrize("form", SAME)
def test_the_same_picture_in_other_forms_has_the_same_bits(form):
    found = as_images(SAME[form], MNIST)
    assert found.dtype == np.uint8
    assert np.array_equal(found, PIXELS[None])


@pytest.mark.parametrize("shape", [(2, 28, 28), (2, 784), (2, 28, 28, 1), (2, 1, 28, 28)])
def test_batches(shape):
    assert np.array_equal(as_images(np.stack([PIXELS, PIXELS]).reshape(shape), MNIST), [PIXELS] * 2)


@pytest.mark.parametrize("kind", [np.float16, np.float32, np.float64])
def test_floats_up_to_255_are_the_same_bits_and_said(kind):
    with pytest.warns(PictureWarning, match=rf"values of {kind.__name__} up to 255: 255 is white"):
        assert np.array_equal(as_images(PIXELS.astype(kind), MNIST), PIXELS[None])


@pytest.mark.parametrize(
    "changed",
    [LEVELS / 255 * 1.0000001, LEVELS / 255 * 1.001, LEVELS / 255 - 1e-7, LEVELS / 255 - 9e-4],
)
def test_rounding_out_of_the_range_is_clipped(changed):
    found = as_images(changed, MNIST)
    assert found.dtype == np.float32
    assert (found.min(), found.max()) == (0, min(1, np.float32(changed.max())))
    assert np.array_equal(found[0], np.clip(changed, 0, 1).astype(np.float32))


@pytest.mark.parametrize("kind", [np.uint8, np.int64])
def test_zeros_and_ones_are_a_mask(kind):
    with pytest.warns(PictureWarning, match=f"values of {kind.__name__} up to 1: 1 is white"):
        found = as_images(MASK.astype(kind), MNIST)
    wanted = cut(MASK[None] * np.uint8(255), POLICIES["multi-level"])
    assert np.array_equal(cut(found, POLICIES["multi-level"]), wanted)
    for form in (MASK.astype(bool), MASK.astype(np.float32)):  # whose types say so already
        assert np.array_equal(as_images(form, MNIST), found)
    with pytest.warns(PictureWarning, match="1 is white; dark on light"):
        assert np.array_equal(as_images(1 - MASK.astype(kind), MNIST), found)


TWO_COLOURS = np.dstack([PIXELS, PIXELS, PIXELS, np.full_like(PIXELS, 255)])
TWO_COLOURS[0, 0, 3] = 9


@pytest.mark.parametrize(
    ("given", "words"),
    [
        (LEVELS / 255 * 1.01, "which leaves open what is white"),
        (LEVELS / 32, "got max=7.96875 of dtype=float64, which leaves open what is white"),
        (PIXELS.astype(np.uint16) * 16, "got max=4080.0 of dtype=uint16, which leaves open"),
        (LEVELS * 258, "got min=0.0 max=65790.0"),
        (LEVELS / 127.5 - 1, "got min=-1.0 max=1.0; undo what they were normalised with"),
        (LEVELS * np.nan, "got min=nan max=nan"),
        (np.full((28, 28), np.inf), "max=inf"),
        (PIXELS.astype(complex), "expected an image of numbers, got dtype=complex128"),
        (PIXELS.astype("U3"), "got dtype=<U3"),
        (np.zeros((28, 28)), "expected something to be seen, got one value everywhere, 0"),
        (np.full((28, 28), 255, np.uint8), "got one value everywhere, 255"),
        (np.zeros((28, 28), np.int64), "got one value everywhere, 0"),
        (np.dstack([PIXELS, PIXELS, PIXELS // 2]), "got colours; convert it to grey"),
        (TWO_COLOURS, "got several colours, transparent in part"),
        (np.zeros((28, 29)), "got shape=(28, 29); scale it to 28x28 pixels"),
        (np.zeros((32, 32)), "got shape=(32, 32); scale"),
        (np.zeros((2, 2, 28, 28)), "got shape=(2, 2, 28, 28)"),
        (np.zeros((0, 28, 28)), "got shape=(0, 28, 28)"),
        (np.float32(1), "got shape=()"),
    ],
)
def test_what_could_mean_two_things_is_refused_for_its_reason(given, words):
    with pytest.raises(DataError) as caught:
        as_images(given, MNIST, "here")
    assert str(caught.value).startswith("here: expected ")
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reader_sees_pictures_in_memory():
    reader = tasks.reader(tasks.parse({"kind": "mnist-glimpse"}))
    wanted = cut(PIXELS[None], POLICIES["multi-level"])
    assert np.array_equal(reader.see(PIXELS), wanted)
    with pytest.warns(PictureWarning):
        assert np.array_equal(reader.see(255 - PIXELS), wanted)


# --- files ----------------------------------------------------------------------------------


def pillow() -> Any:
    return pytest.importorskip("PIL.Image")


def _ink(colour: int) -> Any:
    """The digit as ink of a colour on transparent paper."""
    return pillow().fromarray(np.dstack([np.full((28, 28, 3), colour, np.uint8), PIXELS]))


PNGS: dict[str, Callable[[], Any]] = {
    "L": lambda: pillow().fromarray(PIXELS),
    "LA": lambda: pillow().fromarray(PIXELS).convert("LA"),
    "RGB": lambda: pillow().fromarray(PIXELS).convert("RGB"),
    "RGBA": lambda: pillow().fromarray(PIXELS).convert("RGBA"),
    "P": lambda: pillow().fromarray(PIXELS).convert("P"),
    "black ink": lambda: _ink(0),
    "white ink": lambda: _ink(255),
}


@pytest.mark.parametrize("mode", PNGS)
def test_modes_of_png(mode, tmp_path):
    PNGS[mode]().save(tmp_path / "digit.png")
    assert np.array_equal(as_images(picture.read("digit.png"), MNIST), PIXELS[None])


def test_a_png_of_one_bit_and_one_of_sixteen(tmp_path):
    pillow().fromarray(MASK * np.uint8(255)).convert("1").save(tmp_path / "mask.png")
    assert np.array_equal(as_images(picture.read("mask.png"), MNIST), MASK[None])
    deep = np.arange(784, dtype=np.uint16).reshape(28, 28) * 80
    deep[[0, -1]] = deep[:, [0, -1]] = 0
    pillow().fromarray(deep).save(tmp_path / "deep.png")
    found = as_images(picture.read("deep.png"), MNIST)[0]
    assert np.abs(found - deep / 65535).max() < 1e-7


def test_a_png_with_a_transparent_colour(tmp_path):
    pillow().fromarray(MASK * np.uint8(255)).save(tmp_path / "key.png", transparency=0)
    assert np.array_equal(as_images(picture.read("key.png"), MNIST), MASK[None] * np.uint8(255))


def test_a_png_whose_chunks_are_broken_is_refused(tmp_path):
    """Over a colour profile without an end, after the pixels, Pillow fails by an IndexError."""
    file = io.BytesIO()
    pillow().fromarray(PIXELS).save(file, "PNG")
    body = b"iCCPx\0"
    chunk = (len(body) - 4).to_bytes(4, "big") + body + zlib.crc32(body).to_bytes(4, "big")
    stored, end = file.getvalue(), file.getvalue().index(b"IEND") - 4
    (tmp_path / "digit.png").write_bytes(stored[:end] + chunk + stored[end:])
    with pytest.raises(DataError, match=r"digit.png: expected a .png image, got .*IndexError"):
        picture.read("digit.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(DataError, match=r"its bytes are not those of a PNG$"):
        picture.read("text.png")


def test_a_file_of_several_pictures_is_refused(tmp_path):
    for count in (2, 3):
        np.save(tmp_path / "all.npy", np.stack([PIXELS] * count))
        words = ("all.npy: expected one grey image", f"got {count}", "a file of its own")
        refused(4, words, "predict", NETWORK, "all.npy")


# --- the verbs ------------------------------------------------------------------------------


def test_predict_and_inspect_take_a_dark_digit_on_white_paper_and_say_so(tmp_path):
    np.save(tmp_path / "light.npy", PIXELS)
    np.save(tmp_path / "dark.npy", 255 - PIXELS)
    line = "warning: dark.npy: dark on light, and mnist is light on dark: turned\n"
    want = shown("predict", NETWORK, "light.npy")
    done = shown("predict", NETWORK, "dark.npy")
    assert (want.err, done.err) == ("", line)
    assert done.out == want.out.replace("light.npy", "dark.npy")
    assert done.out.startswith("dark.npy -> 2  99.97%")
    want = shown("inspect", NETWORK, "--example", "light.npy")
    done = shown("inspect", NETWORK, "--example", "dark.npy")
    assert (want.err, done.err) == ("", line)
    assert done.out == want.out.replace("light.npy", "dark.npy")


def test_predict_says_why_a_picture_is_refused(tmp_path):
    np.save(tmp_path / "deep.npy", PIXELS.astype(np.uint16) * 16)
    refused(4, ("deep.npy: ", "leaves open what is white"), "predict", NETWORK, "deep.npy")
    assert fwt("inspect", NETWORK, "--example", "deep.npy").code == 4


def test_a_drawing_of_the_page_is_read_by_the_same_means(monkeypatch):
    import base64

    file = io.BytesIO()
    _ink(0).save(file, "PNG")
    address = digit.PREFIX + base64.b64encode(file.getvalue()).decode()
    assert np.array_equal(digit.ink_of(address), PIXELS)
    monkeypatch.setattr(digit, "LARGEST", 783)
    with pytest.raises(DataError, match=r"drawing: expected a PNG.*\(28, 28\) pixels"):
        digit.ink_of(address)


def test_a_picture_path_may_lie_in_a_home(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    np.save(Path("digit.npy"), PIXELS)
    assert np.array_equal(picture.read("~/digit.npy"), PIXELS)
