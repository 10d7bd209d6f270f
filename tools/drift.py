"""How far float32 drifts from float64 over a long sequence: every cell, memory form and backend.

python -m tools.drift --out results/drift.json

The same weights, exact in float32, read the same numbers in both types. A drift is the largest
difference as a part of the largest float64 number. Written beside it: which part of the gradients
of hidden states float16 would round to 0, which is why there is no float16.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fwt import backends
from fwt.fwcore import model
from fwt.fwcore.analysis.flow import loss_gradients
from fwt.fwcore.cells import presets
from fwt.fwcore.params import initialise
from fwt.fwcore.rng import Stream
from fwt.fwcore.spec import ModelSpec
from fwt.fwcore.storage.durable import write_text
from fwt.fwcore.storage.runs import find_checkpoint
from tools.outcome import place

BATCH, INPUTS, SIZE = 2, 8, 16
LONG, SHORT = 4096, 256  # time steps of outputs and states; of gradients
ATTENTION = 512  # of the attention form, which keeps T^2 / 2 arrays in MLX's graph
DECAYS = (0.9, 0.99, 1.0)
TYPES = ("float64", "float32")
PLAIN = ("rnn", "irnn", "lstm", "gru", "alstm")
FORMS = ("matrix", "attention", "chunked", "fused")
TRAINED = Path("checkpoints/retrieval-fast-weights-r20")
FLOAT16_BATCH, FLOAT16_ZERO = 128, 2.0**-25  # a mean loss of so many; what rounds to 0


@dataclass(frozen=True)
class Subject:
    """A core with its weights and its input.

    Attributes:
        name: as the table calls it.
        spec: the model; its encoder passes numbers on.
        params: float32 weights by canonical name.
        features: I, numbers of a time step.
    """

    name: str
    spec: ModelSpec
    params: dict[str, Any]
    features: int

    def inputs(self, steps: int) -> Any:
        """Uniform numbers of variance 1, exact in float32, (B, T, I)."""
        shape = (BATCH, steps, self.features)
        return Stream(0, "drift", "inputs").uniform(shape, -(3**0.5), 3**0.5).astype(np.float32)


def subject(name: str, core: dict[str, Any], params: dict[str, Any] | None = None) -> Subject:
    """A core behind an encoder that passes numbers on, with the first weights of seed 0 or others.

    Args:
        params: the core's weights, and no others.
    """
    inputs = INPUTS if params is None else params["core.c"].shape[1]
    parts = {"encoder": {"kind": "identity", "features": inputs}, "core": core}
    spec = ModelSpec.parse({**parts, "head": {"hidden": 0, "classes": 4}}, name)
    first = initialise(model.parameters(spec), 0)
    return Subject(name, spec, {**first, **(params or {})}, inputs)


def subjects() -> Iterator[Subject]:
    """Fast weights of each decay, the trained ones, and the cells beside them."""
    for decay in DECAYS:
        core = {"kind": "fast-weights", "size": SIZE, "decay": decay}
        yield subject(f"fast-weights, decay {decay}", core)
    found = find_checkpoint(TRAINED)
    core = {name: array for name, array in found.params.items() if name.startswith("core.")}
    yield subject("fast-weights, trained", found.spec.model.core.model_dump(), core)
    for name in PLAIN:
        yield subject(name, {**presets()[name], "size": SIZE})


def relative(want: Any, got: Any) -> float:
    """The largest difference as a part of the largest wanted number."""
    return float(np.abs(got - want).max() / np.abs(want).max())


def outputs_and_states(one: Subject, backend: str, form: str, steps: int) -> tuple[float, float]:
    """The drift of all T outputs, and the largest of the final states."""
    found = [made(one, backend, form, dtype).states(one.inputs(steps)) for dtype in TYPES]
    (want, last), (got, other) = found
    return relative(want, got), max(relative(last[name], other[name]) for name in last)


def gradients(one: Subject, backend: str, form: str, steps: int) -> float:
    """The largest drift of a parameter's gradient, as a part of the largest of all gradients."""
    targets = np.arange(BATCH) % 4
    want, got = (
        made(one, backend, form, dtype).gradients(one.inputs(steps), targets)[1] for dtype in TYPES
    )
    scale = max(np.abs(array).max() for array in want.values())
    return float(max(np.abs(got[name] - want[name]).max() for name in want) / scale)


def made(one: Subject, backend: str, form: str, dtype: str) -> Any:
    """A subject compiled for the CPU, the only device with both number types everywhere."""
    on = backends.load(backend)
    return on.compile(one.spec, one.params, device="cpu", dtype=dtype, memory=form)


def rows() -> Iterator[dict[str, Any]]:
    """A row of results for each subject, form and backend."""
    for one in subjects():
        forms = FORMS if one.spec.core.memory_reads else ("auto",)
        for backend in backends.TRAINING_ORDER:
            for form in forms:
                steps = ATTENTION if form == "attention" else LONG
                outputs, states = outputs_and_states(one, backend, form, steps)
                place = {"model": one.name, "backend": backend, "form": form, "steps": steps}
                moved = gradients(one, backend, form, SHORT)
                yield {**place, "outputs": outputs, "states": states, "gradients": moved}


def lost_in_float16(one: Subject) -> float:
    """The part of the gradients of hidden states, none of them 0, that float16 rounds to 0."""
    network = made(one, "torch", "auto", "float64")
    found = loss_gradients(network, one.inputs(SHORT), np.arange(BATCH) % 4) / FLOAT16_BATCH
    sizes = np.abs(found[found != 0])
    return float((sizes < FLOAT16_ZERO).mean())


def table(result: dict[str, Any]) -> str:
    """The largest drifts of each model over its forms, as Markdown."""
    lines = [
        f"| model | outputs, T = {LONG} | final states | gradients, T = {SHORT} | float16: zeros |",
        "|---|---|---|---|---|",
    ]
    for name, part in result["zero_in_float16"].items():
        own = [row for row in result["rows"] if row["model"] == name]
        worst = [max(row[key] for row in own) for key in ("outputs", "states", "gradients")]
        shown = " | ".join(f"{number:.1e}" for number in worst)
        lines.append(f"| {name} | {shown} | {100 * part:.0f} % |")
    return "\n".join(lines) + "\n"


def measured() -> dict[str, Any]:
    """All of it, as the file of results has it."""
    began, found = time.monotonic(), []
    for row in rows():
        found.append(row)
        print(json.dumps(row), file=sys.stderr, flush=True)
    return {
        "command": "python -m tools.drift",
        "batch": BATCH,
        "size": SIZE,
        "rows": found,
        "zero_in_float16": {one.name: lost_in_float16(one) for one in subjects()},
        "seconds": round(time.monotonic() - began, 1),
        **place(("fwt", "numpy", "torch", "mlx")),
    }


def main() -> None:
    """Measure, write the file, and print the table."""
    parser = argparse.ArgumentParser(prog="python -m tools.drift", description=__doc__)
    parser.add_argument("--out", type=Path, help="Write the result as JSON.")
    asked = parser.parse_args()
    result = measured()
    if asked.out is not None:
        write_text(asked.out, json.dumps(result, indent=1) + "\n")
    print(table(result), end="")


if __name__ == "__main__":
    main()
