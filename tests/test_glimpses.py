"""Glimpses and the glimpse task: pixel values, order, coverage, control, parse and render."""

from __future__ import annotations

import hashlib
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from fwt import tasks
from fwt.fwcore.errors import ConfigError, DataError
from fwt.fwcore.ops import NumpyArray
from fwt.tasks.base import Control
from fwt.tasks.datasets import Images
from fwt.tasks.glimpses import POLICIES, assemble, cut, policy_named
from fwt.tasks.mnist_glimpse import MnistGlimpse, Spec, load
from fwt.tasks.sources import SOURCES

CORNERS = [(0, 0), (0, 14), (14, 0), (14, 14)]
PIXELS = arrays(np.uint8, (2, 28, 28), elements=st.integers(0, 255))


def fine(image: NumpyArray, top: int, left: int) -> list[float]:
    """Oracle: 49 pixels one by one."""
    return [float(image[top + r, left + c]) / 255 for r in range(7) for c in range(7)]


def coarse(image: NumpyArray, top: int, left: int) -> list[float]:
    """Oracle: 49 averages of four pixels one by one."""
    out = []
    for r in range(7):
        for c in range(7):
            y, x = top + 2 * r, left + 2 * c
            four = [int(image[y + i, x + j]) for i in (0, 1) for j in (0, 1)]
            out.append(sum(four) / 4 / 255)
    return out


def expected_sequence(name: str, image: NumpyArray) -> list[list[float]]:
    """Oracle: the sequences as their descriptions say, spelled out."""
    within = [(0, 0), (0, 7), (7, 0), (7, 7)]
    if name == "raster":
        return [fine(image, top, left) for top in (0, 7, 14, 21) for left in (0, 7, 14, 21)]
    details = {
        corner: [fine(image, corner[0] + r, corner[1] + c) for r, c in within] for corner in CORNERS
    }
    if name == "coarse-to-fine":
        return [coarse(image, *corner) for corner in CORNERS] + [
            view for corner in CORNERS for view in details[corner]
        ]
    return [
        view
        for corner in CORNERS
        for view in [coarse(image, *corner), *details[corner], coarse(image, *corner)]
    ]


@pytest.mark.parametrize("name", ["multi-level", "raster", "coarse-to-fine"])
@settings(max_examples=10, deadline=None)
@given(pixels=PIXELS)
def test_values_against_a_loop(name: str, pixels: NumpyArray) -> None:
    views = cut(pixels, POLICIES[name])
    assert views.dtype == np.float32
    for image, sequence in zip(pixels, views, strict=True):
        wanted = np.array(expected_sequence(name, image))
        assert sequence.shape == wanted.shape
        assert np.abs(sequence - wanted).max() < 1e-7


def test_registry_is_what_the_oracle_covers() -> None:
    assert {name: len(policy.glimpses) for name, policy in POLICIES.items()} == {
        "multi-level": 24,
        "raster": 16,
        "coarse-to-fine": 20,
    }
    assert all(policy.name == name for name, policy in POLICIES.items())


@pytest.mark.parametrize("name", POLICIES)
def test_fine_glimpses_cover_every_pixel_once(name: str) -> None:
    seen = np.zeros((28, 28), dtype=int)
    for kind, top, left in POLICIES[name].glimpses:
        if kind == "fine":
            seen[top : top + 7, left : left + 7] += 1
    assert (seen == 1).all()


@pytest.mark.parametrize("name", POLICIES)
def test_assemble_undoes_cut(name: str) -> None:
    pixels = np.arange(784, dtype=np.uint64).reshape(1, 28, 28).astype(np.uint8)
    image = assemble(cut(pixels, POLICIES[name])[0], POLICIES[name])
    assert np.array_equal(image, pixels[0] / np.float32(255))


def test_control_of_each_policy() -> None:
    levels = Control(store=(0, 6, 12, 18), wipe=True, integrate=(5, 11, 17, 23))
    assert POLICIES["multi-level"].control == levels
    assert POLICIES["raster"].control is None
    assert POLICIES["coarse-to-fine"].control is None


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
def test_float_images_give_the_same_glimpses(dtype: type) -> None:
    pixels = np.random.default_rng(0).integers(0, 256, (3, 28, 28)).astype(np.uint8)
    from_floats = cut((pixels / 255).astype(dtype), POLICIES["multi-level"])
    assert np.abs(from_floats - cut(pixels, POLICIES["multi-level"])).max() < 2e-7


def test_extremes_are_exact() -> None:
    white = cut(np.full((1, 28, 28), 255, np.uint8), POLICIES["multi-level"])
    assert white.min() == white.max() == 1.0


def test_no_images() -> None:
    assert cut(np.zeros((0, 28, 28), np.uint8), POLICIES["raster"]).shape == (0, 16, 49)


@pytest.mark.parametrize(
    ("pixels", "words"),
    [
        (np.zeros((28, 28), np.uint8), "shape=\\(28, 28\\)"),
        (np.zeros((1, 27, 28), np.uint8), "shape=\\(1, 27, 28\\)"),
        (np.zeros((1, 28, 28), np.int64), "dtype=int64"),
        (np.full((1, 28, 28), 1.5), "max=1.5"),
        (np.full((1, 28, 28), -0.5), "min=-0.5"),
        (np.full((1, 28, 28), np.nan), "min=nan"),
    ],
)
def test_cut_refuses_what_is_no_image(pixels: NumpyArray, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        cut(pixels, POLICIES["raster"])


def test_unknown_policy() -> None:
    with pytest.raises(ConfigError, match=r"unknown policy 'rastr'.*did you mean 'raster'"):
        policy_named("rastr")
    assert policy_named("raster") is POLICIES["raster"]


# --- the task -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def subset() -> MnistGlimpse:
    return load(Spec(dataset="mnist-subset"))


def test_golden_glimpses(subset: MnistGlimpse) -> None:
    assert {
        name: hashlib.sha256(subset.split(name).inputs[:16].tobytes()).hexdigest()
        for name in ("train", "val", "test")
    } == {
        "train": "56f544380135acf0c9f13e0a5d14c8d3dc1e184ab08af345c74f42c6bc654482",
        "val": "f835804e8512dc594d9fb95f99a59a4cd0ef88e179f5ee46597b65ab2a044818",
        "test": "4d9936d3c7d1016dd1b7f5e606a8f2e0f7b86a96365d174aca8eb4389653d6d5",
    }
    assert subset.split("train").targets[:10].tolist() == [2, 0, 8, 3, 4, 5, 1, 2, 9, 1]


def test_splits_are_balanced(subset: MnistGlimpse) -> None:
    for name, each in (("train", 400), ("val", 100), ("test", 100)):
        split = subset.split(name)
        assert split.inputs.shape == (10 * each, 24, 49)
        assert np.bincount(split.targets).tolist() == [each] * 10
        assert 0.0 <= split.inputs.min() < split.inputs.max() <= 1.0
    assert subset.split("val") is subset.split("val")


def test_task_tells_what_a_model_needs(subset: MnistGlimpse) -> None:
    shape = subset.shape
    assert (shape.steps, shape.symbols, shape.features, shape.classes) == (24, 0, 49, 10)
    assert subset.chance_error == pytest.approx(90.0)
    assert subset.control == POLICIES["multi-level"].control
    assert subset.dataset == "mnist-subset"
    raster = load(Spec(dataset="mnist-subset", policy="raster"))
    assert raster.shape.steps == raster.split("test").inputs.shape[1] == 16
    assert raster.control is None


def made_up(name: str, train: int = 10_003, test: int = 2) -> Images:
    labels = np.arange(train, dtype=np.int64) % 10
    pixels = np.zeros((train, 28, 28), np.uint8)
    pixels[:, 0, 0] = np.arange(train) % 251
    return Images(SOURCES[name], pixels, labels, pixels[:test], labels[:test])


def test_the_last_ten_thousand_are_validation() -> None:
    task = MnistGlimpse(Spec(dataset="mnist", policy="raster"), made_up("mnist"))
    assert [len(task.split(name)) for name in ("train", "val", "test")] == [3, 10_000, 2]
    assert task.split("train").targets.tolist() == [0, 1, 2]
    assert task.split("val").targets[:2].tolist() == [3, 4]
    assert task.split("val").inputs[0, 0, 0] == np.float32(3) / np.float32(255)


def test_shift_adds_every_moved_image_to_the_training_split_alone() -> None:
    found = made_up("mnist", train=10_002)
    found.train_images[0, 4:24, 4:24] = np.arange(1, 401).reshape(20, 20) % 255 + 1
    plain, moved = (
        MnistGlimpse(Spec(dataset="mnist", policy="raster", shift=most), found) for most in (0, 2)
    )
    assert len(moved.split("train")) == 25 * 2
    assert moved.split("train").targets.tolist() == [0, 1] * 25
    digit = found.train_images[0]
    places = [(down, right) for down in range(-2, 3) for right in range(-2, 3)]
    for number, (down, right) in enumerate(places):
        image = np.zeros((28, 28), np.uint8)
        image[4 + down : 24 + down, 4 + right : 24 + right] = digit[4:24, 4:24]
        wanted = cut(image[None], POLICIES["raster"])[0]
        assert np.array_equal(moved.split("train").inputs[2 * number], wanted), (down, right)
    for name in ("val", "test"):
        assert np.array_equal(moved.split(name).inputs, plain.split(name).inputs)
    assert moved.data_bytes - plain.data_bytes == 24 * plain.split("train").inputs.nbytes


def test_what_is_moved_out_of_the_picture_is_gone() -> None:
    task = MnistGlimpse(Spec(dataset="mnist", policy="raster", shift=1), made_up("mnist", 10_003))
    dots = task.split("train").inputs.reshape(9, 3, 16, 7, 7)[:, 2, 0]  # a corner pixel of 2 / 255
    assert np.argwhere(dots).tolist() == [[4, 0, 0], [5, 0, 1], [7, 1, 0], [8, 1, 1]]


def test_too_few_images_to_hold_out() -> None:
    with pytest.raises(DataError, match=r"more than 10000 training images.*count=10000"):
        MnistGlimpse(Spec(dataset="mnist"), made_up("mnist", train=10_000))


def test_classes_and_chance_follow_the_dataset() -> None:
    letters = MnistGlimpse(Spec(dataset="emnist-letters"), made_up("emnist-letters"))
    assert letters.shape.classes == 26
    assert letters.chance_error == pytest.approx(100 * 25 / 26)
    assert letters.render(letters.split("train").inputs[0], 25).endswith("\n-> z")


def test_published_only_for_the_full_mnist(subset: MnistGlimpse) -> None:
    full = MnistGlimpse(Spec(dataset="mnist"), made_up("mnist"))
    assert full.published == {
        "irnn": {50: 12.95, 100: 1.95, 200: 1.42},
        "lstm": {50: 12.0, 100: 1.55, 200: 1.1},
        "convnet": {50: 1.81, 100: 1.0, 200: 0.9},
        "fast-weights": {50: 7.21, 100: 1.3, 200: 0.85},
    }
    assert subset.published == {}


@pytest.mark.parametrize("policy", POLICIES)
def test_render_shows_the_image(policy: str) -> None:
    task = load(Spec(dataset="mnist-subset", policy=policy))
    image = np.zeros((1, 28, 28), np.uint8)
    image[0, 2, 5], image[0, 27, 0] = 255, 128
    rows = task.render(cut(image, POLICIES[policy])[0]).split("\n")
    wanted = [[" "] * 28 for _ in range(28)]
    wanted[2][5], wanted[27][0] = "@", "+"
    assert rows == ["".join(row) for row in wanted]


def test_render_names_the_class(subset: MnistGlimpse) -> None:
    split = subset.split("test")
    lines = subset.render(split.inputs[0], int(split.targets[0])).split("\n")
    assert len(lines) == 29
    assert lines[-1] == f"-> {split.targets[0]}"


@pytest.mark.parametrize("form", ["uint8.npy", "float.npy", "grey.png"])
def test_parse_reads_an_image_file(subset: MnistGlimpse, tmp_path: Path, form: str) -> None:
    pixels = np.zeros((28, 28), np.uint8)
    pixels[1:-1, 1:-1] = np.random.default_rng(1).integers(0, 256, (26, 26))
    path = tmp_path / form
    if form == "grey.png":
        pytest.importorskip("PIL.Image").fromarray(pixels).save(path)
    else:
        np.save(path, pixels if form == "uint8.npy" else pixels / 255)
    views = subset.parse(f" {path}\n")
    assert views.dtype == np.float32
    assert np.abs(views - np.array(expected_sequence("multi-level", pixels))).max() < 1e-7


def test_parse_refuses_other_files(subset: MnistGlimpse, tmp_path: Path) -> None:
    np.save(tmp_path / "long.npy", np.zeros((28, 29), np.uint8))
    np.save(tmp_path / "range.npy", np.full((28, 28), 7.0))
    np.save(tmp_path / "pickled.npy", np.array([[{}]], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array", encoding="utf-8")
    (tmp_path / "text.png").write_text("no picture", encoding="utf-8")
    for name, words in {
        "long.npy": "shape=\\(28, 29\\)",
        "range.npy": "max=7",
        "pickled.npy": "allow_pickle",
        "text.npy": "expected a .npy file",
        "missing.npy": "No such file",
        "text.png": "expected a .png image",
        "missing.png": "No such file",
    }.items():
        with pytest.raises(DataError, match=words) as caught:
            subset.parse(str(tmp_path / name))
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_parse_refuses_a_colour_picture(subset: MnistGlimpse, tmp_path: Path) -> None:
    pillow = pytest.importorskip("PIL.Image")
    pillow.new("RGB", (28, 28), "red").save(tmp_path / "colour.png")
    with pytest.raises(DataError, match=r"got colours; convert it to grey"):
        subset.parse(str(tmp_path / "colour.png"))


@pytest.mark.parametrize("text", ["", "picture.jpg", "c9k8??c"])
def test_parse_says_which_files_it_takes(subset: MnistGlimpse, text: str) -> None:
    with pytest.raises(ConfigError, match=r"ends in .npy or .png, got suffix="):
        subset.parse(text)


def test_parse_without_pillow(
    subset: MnistGlimpse, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "picture.png").touch()
    monkeypatch.setitem(sys.modules, "PIL.Image", None)
    with pytest.raises(ConfigError, match=r"needs Pillow.*give a .npy"):
        subset.parse(str(tmp_path / "picture.png"))


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"policy": "multilevel"}, "policy='multilevel'"),
        ({"policy": "multilevel"}, "did you mean 'multi-level'"),
        ({"dataset": "fashion"}, "dataset='fashion'"),
        ({"dataset": "fashion"}, "did you mean 'fashion-mnist'"),
    ],
)
def test_spec_names_the_mistake(options: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words) as caught:
        tasks.parse({"kind": "mnist-glimpse", **options})
    assert "\n" not in str(caught.value)


def test_unknown_split(subset: MnistGlimpse) -> None:
    with pytest.raises(ConfigError, match=r"unknown split 'valid'.*did you mean 'val'"):
        subset.split("valid")
