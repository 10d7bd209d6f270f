"""Valid files of every kind that `fwt` reads, small, and the same at every call."""

from __future__ import annotations

import gzip
import io
import json
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np

from fwt.fwcore import model
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import foreign, layouts
from fwt.fwcore.storage.checkpoint import Best, Checkpoint, Progress
from fwt.fwcore.storage.runs import RunFolder
from fwt.tasks.sources import SOURCES
from tests.fuzz.tree import Tree, tree_of
from tests.small_run import SPEC, Model

SIDE = 28  # pixels along a side
IMAGES, TESTS = 6, 3  # images of the small dataset


@cache
def spec(kind: str = "fast-weights") -> RunSpec:
    """The small run, or one of another core as small."""
    data = SPEC.json_data()
    if kind != "fast-weights":
        data["model"]["core"] = {"kind": kind, "size": 3}
    return RunSpec.parse(data, "sample")


def model_of(kind: str = "fast-weights") -> Model:
    return Model(table=model.parameters(spec(kind).model))


@cache
def checkpoint_of(kind: str = "fast-weights") -> Checkpoint:
    """A checkpoint of that run in memory."""
    one, best = model_of(kind), Best(step=2, error_pct=50.0, loss=1.5)
    progress = Progress(step=2, best=best, unreported=[[1.0, 2.0, 3.0]], elapsed_s=0.5)
    return Checkpoint(spec(kind), one.params, one.moments, progress, Path("sample"))


@cache
def layout(name: str, kind: str = "lstm") -> Tree:
    with TemporaryDirectory() as above:
        folder = Path(above) / "point"
        foreign.save(folder, checkpoint_of(kind), name)
        return tree_of(folder)


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


@cache
def run() -> Tree:
    """A run folder that is done, with two checkpoints."""
    whole = checkpoint_of()
    with TemporaryDirectory() as above:
        folder = RunFolder.create(Path(above) / "run", whole.spec)
        for step in (2, 3):
            progress = whole.progress.model_copy(update={"step": step})
            folder.save(model_of(), whole.spec, progress)
        for line in LINES:
            folder.append_metrics(line)
        folder.write_json("run.json", {"sessions": [SESSION]})
        folder.finish(DONE)
        return tree_of(folder.path)


@cache
def spec_file(kind: str) -> bytes:
    return json.dumps(spec(kind).json_data()).encode()


@cache
def records() -> bytes:
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
    images = [idx((count, SIDE, SIDE), at) for at, count in enumerate((IMAGES, TESTS))]
    labels = [idx((count,), at, 10) for at, count in enumerate((IMAGES, TESTS))]
    return {
        f"{files[0].name}.gz": gzip.compress(images[0], mtime=0),
        files[1].name: labels[0],
        f"{files[2].name}.gz": gzip.compress(images[1], mtime=0),
        f"{files[3].name}.gz": gzip.compress(labels[1], mtime=0),
    }


def weights(name: str, kind: str = "lstm") -> dict[str, NumpyArray]:
    """Weights by the names of a layout."""
    table = model.parameters(spec(kind).model)
    return layouts.export(table, kind, checkpoint_of(kind).params, name)


@cache
def npz() -> bytes:
    """A .npz file of weights in the layout of MLX."""
    file = io.BytesIO()
    np.savez(file, **weights("mlx"))
    return file.getvalue()


@cache
def pt() -> bytes:
    """A .pt file of weights in the layout of PyTorch."""
    import torch

    file = io.BytesIO()
    torch.save({k: torch.from_numpy(v.copy()) for k, v in weights("torch").items()}, file)
    return file.getvalue()
