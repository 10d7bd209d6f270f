"""Valid files of every kind that `fwt` reads, small, and the same at every call."""

from __future__ import annotations

import gzip
import io
import json
import pickle
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np

from fwt.fwcore import model
from fwt.fwcore.params import initialise
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint, foreign
from fwt.fwcore.storage.checkpoint import Best, Checkpoint, Progress
from fwt.fwcore.storage.runs import RunFolder
from fwt.tasks.sources import SOURCES
from tools.fuzz.tree import Tree, taken

IMAGE = 28  # pixels along a side
IMAGES, TESTS = 6, 3  # images of the small dataset
CANARY = "fwt_fuzz_canary"  # what code in a pickle would leave behind


@cache
def spec(kind: str = "fast-weights") -> RunSpec:
    """A run of a model of three units."""
    data = {
        "recipe": "sample",
        "task": {"kind": "retrieval", "pairs": 2, "train": 64, "val": 32, "test": 32},
        "model": {
            "encoder": {"kind": "embedding", "symbols": 37, "size": 5},
            "core": {"kind": kind, "size": 3},
            "head": {"classes": 10, "hidden": 4},
        },
        "train": {"steps": 3, "seed": 9},
    }
    return RunSpec.parse(data, "sample")


@cache
def made(kind: str = "fast-weights") -> Checkpoint:
    """A checkpoint of that run in memory."""
    one = spec(kind)
    table = model.parameters(one.model)
    moments = {
        f"{mark}{name}": array
        for at, mark in enumerate(checkpoint.MOMENTS, 1)
        for name, array in initialise(table, at).items()
    }
    best = Best(step=2, error_pct=50.0, loss=1.5)
    progress = Progress(step=2, best=best, unreported=[[1.0, 2.0, 3.0]], elapsed_s=0.5)
    return Checkpoint(one, initialise(table, 0), moments, progress, Path("sample"))


@cache
def layout(name: str, kind: str = "lstm") -> Tree:
    """A checkpoint folder in a layout."""
    with TemporaryDirectory() as above:
        folder = Path(above) / "point"
        foreign.save(folder, made(kind), name)
        return taken(folder)


LINES = (
    {"step": 1, "split": "train", "loss": 2.3, "error_pct": 90.0, "grad_norm": 1.0,
     "examples_per_s": 100.0, "elapsed_s": 0.1},
    {"step": 2, "split": "val", "loss": 1.5, "error_pct": 50.0, "elapsed_s": 0.2},
    {"step": 3, "split": "train", "loss": 1.4, "error_pct": 50.0, "grad_norm": 1.5,
     "examples_per_s": 90.0, "elapsed_s": 0.3},
    {"step": 3, "split": "val", "loss": 1.6, "error_pct": 52.0, "elapsed_s": 0.4},
    {"step": 3, "split": "test", "loss": 1.6, "error_pct": 51.0, "elapsed_s": 0.5},
)  # fmt: skip
SESSION = {"backend": "numpy", "device": "cpu", "dtype": "float32", "memory": "matrix",
           "kernel": "none", "model": "fast-weights", "dataset": "retrieval-k2", "commit": "0" * 40,
           "argv": ["train", "--task", "retrieval"], "started": "2026-01-01T00:00:00+00:00",
           "fwt": "0", "numpy": "2", "exit": "done"}  # fmt: skip
DONE = {"best_step": 2, "steps": 3, "train_s": 0.5,
        "val": {"error_pct": 50.0, "loss": 1.5, "examples": 32},
        "test": {"error_pct": 51.0, "loss": 1.6, "examples": 32}}  # fmt: skip


class Still:
    """What a run folder asks of a model; it has a checkpoint's numbers."""

    def __init__(self, found: Checkpoint) -> None:
        self._found = found

    def parameters(self) -> dict[str, Any]:
        """The weights."""
        return dict(self._found.params)

    def load_parameters(self, params: Any) -> None:
        """Nothing: the numbers stay."""

    def optimizer_state(self) -> dict[str, Any]:
        """The moments."""
        return dict(self._found.moments or {})

    def load_optimizer_state(self, moments: Any, step: int) -> None:
        """Nothing: the numbers stay."""


@cache
def run() -> Tree:
    """A run folder that is done, with two checkpoints."""
    found = made()
    with TemporaryDirectory() as above:
        folder = RunFolder.create(Path(above) / "run", found.spec)
        for step in (2, 3):
            progress = found.progress.model_copy(update={"step": step})
            folder.save(Still(found), found.spec, progress)
        for line in LINES:
            folder.append_metrics(line)
        folder.write_json("run.json", {"sessions": [SESSION]})
        folder.finish(DONE)
        return taken(folder.path)


@cache
def said(kind: str) -> bytes:
    """A `spec.json`."""
    return json.dumps(spec(kind).json_data()).encode()


@cache
def records() -> bytes:
    """Stored results of two runs."""
    one = {"model": "fast-weights", "backend": "torch", "device": "cpu", "dataset": "retrieval-k2",
           "spec": spec().json_data(), "parameters": 100, "test_error_pct": 1.0,
           "test_examples": 32, "val_error_pct": 1.0, "best_step": 2, "steps": 3, "train_s": 0.5,
           "commit": None, "command": "fwt train", "versions": {"numpy": "2"},
           "curve": [[1, 90.0], [2, 50.0]]}  # fmt: skip
    return json.dumps({"runs": [one, {**one, "backend": "mlx"}]}).encode()


CONFIG = b"""# settings
[task]
pairs = 2
train = 64

[model.core]
kind = "fast-weights"
size = 3
decay = 0.9
store = [1, 2]

[train]
lr = 1e-3
steps = 3
schedule = "cosine"
[report]
log_every = 10
"""
SWEEP = b"""name = "small"
task = "retrieval"
backend = "numpy"
[base]
steps = 3
pairs = 2
train.batch_size = 16
[axes]
model = ["lstm", "irnn"]
R = [3, 4]
lr = [1e-3, 3e-3]
seed = "0-2"
"""
SEARCH = b"""name = "search"
task = "retrieval"
[base]
steps = 3
[axes]
model = ["lstm", "irnn"]
seed = [0, 1]
[search]
sampler = "tpe"
trials = 5
[search.space]
lr = {low = 1e-4, high = 1e-2, log = true}
batch_size = [16, 32]
"""


def idx(shape: tuple[int, ...], seed: int, most: int = 256) -> bytes:
    """An IDX file of random bytes."""
    numbers = np.random.default_rng(seed).integers(0, most, shape).astype(np.uint8)
    header = bytes([0, 0, 8, len(shape)]) + b"".join(n.to_bytes(4, "big") for n in shape)
    return header + numbers.tobytes()


@cache
def dataset(name: str) -> Tree:
    """The four files of a small dataset, the images packed."""
    files = SOURCES[name].files
    images = [idx((count, IMAGE, IMAGE), at) for at, count in enumerate((IMAGES, TESTS))]
    labels = [idx((count,), at, 10) for at, count in enumerate((IMAGES, TESTS))]
    return {
        f"{files[0].name}.gz": gzip.compress(images[0], mtime=0),
        files[1].name: labels[0],
        f"{files[2].name}.gz": gzip.compress(images[1], mtime=0),
        f"{files[3].name}.gz": gzip.compress(labels[1], mtime=0),
    }


def picture() -> Any:
    """A 28x28 image of uint8."""
    return np.arange(IMAGE * IMAGE, dtype=np.uint8).reshape(IMAGE, IMAGE)


def npy(array: Any = None) -> bytes:
    """A .npy file."""
    file = io.BytesIO()
    np.lib.format.write_array(file, picture() if array is None else array)
    return file.getvalue()


@cache
def png(mode: str = "L") -> bytes:
    """A .png file."""
    from PIL import Image

    file = io.BytesIO()
    Image.fromarray(picture()).convert(mode).save(file, "PNG")
    return file.getvalue()


@cache
def npz() -> bytes:
    """A .npz file of weights in the layout of MLX."""
    found = layouts_of("mlx")
    file = io.BytesIO()
    np.savez(file, **found)
    return file.getvalue()


def layouts_of(name: str, kind: str = "lstm") -> dict[str, Any]:
    """Weights by the names of a layout."""
    from fwt.fwcore.storage import layouts

    found = made(kind)
    return layouts.export(model.parameters(found.spec.model), kind, found.params, name)


@cache
def state_dict() -> bytes:
    """A .pt file of weights in the layout of PyTorch."""
    import torch

    file = io.BytesIO()
    torch.save({k: torch.from_numpy(v.copy()) for k, v in layouts_of("torch").items()}, file)
    return file.getvalue()


class _Code:
    def __reduce__(self) -> Any:
        return exec, (f"open({CANARY!r}, 'w').close()",)


@cache
def pickles() -> tuple[bytes, ...]:
    """Pickles that run code when they are loaded, in every protocol."""
    return tuple(
        pickle.dumps(value, protocol)
        for value in (_Code(), {"core.weight": _Code()})
        for protocol in (0, 2, 4, 5)
    )
