"""Makes tests/data/golden-retrieval, the checkpoint that every version and backend must read.

    python -m tests.make_golden

Run it only when the format changes on purpose: raise the format version, keep the old folder
readable, and pin the new hashes in tests/test_golden_checkpoint.py.
"""

from __future__ import annotations

import json
import shutil
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from fwt import backends, tasks
from fwt.cli.main import run
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.storage.checkpoint import MODEL_FILE, Checkpoint, Progress

FOLDER = Path(__file__).parent / "data" / "golden-retrieval"
BAD_FILE = "transposed.safetensors"
EXAMPLES = 32

TRAIN = (
    "train", "--backend", "torch", "--device", "cpu", "--task", "retrieval", "--size", "6",
    "--set", "model.encoder.size=16", "--set", "model.head.hidden=12", "--set", "task.train=640",
    "--set", "task.val=64", "--set", "task.test=64", "--batch-size", "64", "--lr", "0.01",
    "--steps", "60", "--quiet",
)  # fmt: skip


def logits(found: Checkpoint) -> dict[str, Any]:
    """Test strings and their class scores in float64."""
    subject = tasks.load(tasks.parse(found.spec.task))
    inputs = subject.split("test").inputs[:EXAMPLES]
    scores = backends.load("numpy").compile(found.spec.model, found.params).forward(inputs)
    return {"strings": [subject.render(row) for row in inputs], "logits": scores.tolist()}


def write_transposed(found: Checkpoint, path: Path) -> None:
    """The same model file with one matrix the wrong way round; nothing else is wrong with it."""
    arrays = {**found.params, "core.c": np.ascontiguousarray(found.params["core.c"].T)}
    checkpoint.write_tensors(path, arrays, checkpoint.metadata_of(found.spec))


def main() -> None:
    """Train, and write the folder."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    with tempfile.TemporaryDirectory() as name:
        if code := run([*TRAIN, "--out", f"{name}/run"]):
            raise SystemExit(code)
        found = checkpoint.read(Path(name) / "run" / "checkpoints" / "step-00000060")
    progress = Progress(step=found.progress.step, best=found.progress.best)  # no clock in it
    checkpoint.write(FOLDER, found.spec, found.params, found.moments, progress)
    text = json.dumps(logits(found), indent=0)
    (FOLDER / "logits.json").write_text(f"{text}\n", encoding="utf-8")
    write_transposed(found, FOLDER / BAD_FILE)
    print(f"{MODEL_FILE} {checkpoint.sha256(FOLDER / MODEL_FILE)}")


if __name__ == "__main__":
    main()
