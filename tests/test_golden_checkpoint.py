"""The golden checkpoint: what was written once must be read, and mean the same, for ever.

Made by tests/make_golden.py.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import numpy as np
import pytest

from fwt import tasks
from fwt.fwcore.errors import CheckpointError
from fwt.fwcore.storage import checkpoint
from tests.cli_tools import good, refused
from tests.make_golden import BAD_FILE, FOLDER
from tests.tolerances import assert_close

# of the tensors alone, in canonical order, so that the header may change and the numbers not
WEIGHTS = "e8e7f4765f9a9d420ca0ce907faced45ede4b47693378b28cebfc5906af2d650"
MOMENTS = "416c44549686bd6fcaca3391b6971305090b59d7a58300f8187805cf229c5309"
FILES = {
    "model.safetensors": "68a2fed13d9a51ec94aa98725051ed0b29fa157e56ad199426ac78d9a99a8b78",
    BAD_FILE: "6fd095f49d749a9ee0d9681ab2f5576112b57521156b8d0ca5bd02b9d9800dc9",
}


def digest(arrays: dict[str, np.ndarray]) -> str:
    found = hashlib.sha256()
    for name in sorted(arrays):
        found.update(f"{name} {arrays[name].dtype} {arrays[name].shape}\n".encode())
        found.update(arrays[name].tobytes())
    return found.hexdigest()


def test_the_golden_tensors_are_the_pinned_ones():
    found = checkpoint.read(FOLDER)
    assert digest(found.params) == WEIGHTS
    assert found.moments is not None
    assert digest(found.moments) == MOMENTS
    assert {name: checkpoint.sha256(FOLDER / name) for name in FILES} == FILES
    assert digest(checkpoint.read(FOLDER / "model.safetensors").params) == WEIGHTS


def test_the_golden_checkpoint_says_what_it_is():
    found = checkpoint.read(FOLDER)
    core = found.spec.model.core
    assert (core.kind, core.size) == ("fast-weights", 6)
    assert found.spec.task["kind"] == "retrieval"
    assert (found.progress.step, found.progress.best is not None) == (60, True)
    assert checkpoint.read(FOLDER / "model.safetensors").spec == found.spec
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 60_000


@pytest.mark.usefixtures("eager")
@pytest.mark.parametrize("form", ["matrix", "attention", "chunked"])
def test_every_backend_gives_the_golden_logits(engine, form):
    found = checkpoint.read(FOLDER)
    stored = json.loads((FOLDER / "logits.json").read_text(encoding="utf-8"))
    subject = tasks.load(tasks.parse(found.spec.task))
    inputs = np.stack([subject.parse(text) for text in stored["strings"]])
    wanted = np.array(stored["logits"])
    assert wanted.shape == (32, 10)
    scores = engine.compile(found.spec.model, found.params, memory=form).forward(inputs)
    assert_close("golden logits", wanted, scores, "logits", engine.dtype, "oracle")
    assert (scores.argmax(1) == wanted.argmax(1)).all()


def test_the_golden_strings_are_still_what_the_task_generates():
    found = checkpoint.read(FOLDER)
    stored = json.loads((FOLDER / "logits.json").read_text(encoding="utf-8"))
    subject = tasks.load(tasks.parse(found.spec.task))
    rows = subject.split("test").inputs[: len(stored["strings"])]
    assert [subject.render(row) for row in rows] == stored["strings"]


def test_the_golden_checkpoint_by_the_command():
    found = good("eval", FOLDER, "--backend", "numpy", "--task", "retrieval", "--json").json
    assert (found["step"], found["examples"]) == (60, 64)


def test_the_transposed_file_is_refused():
    bad = FOLDER / BAD_FILE
    words = ["'core.c' has shape (16, 6), expected (6, 16) (transposed?)"]
    refused(4, words, "eval", bad, "--backend", "numpy")
    refused(4, words, "convert", bad, FOLDER / "nowhere", "--to", "torch")
    assert not Path(FOLDER / "nowhere").exists()
    with pytest.raises(CheckpointError) as caught:
        checkpoint.read(bad)
    assert str(caught.value).count("has shape") == 1  # nothing else is wrong with it
