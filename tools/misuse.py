"""Wrong calls of every public entry point of every backend: what each says, and what it leaves.

A call's arguments are a function of seed, entry point and number. Every backend must answer it in
the same way: with the same error and the same words, or, where only the type or the order in memory
is unusual, with what it gives for plain arrays, bit for bit. After each call a good one must give
the bits that it gave before. `python -m tools.misuse --only NAME` looks at one entry point.
"""

from __future__ import annotations

import argparse
import json
import platform
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from fwt import backends
from fwt.backends.contract import compile_population
from fwt.fwcore.errors import FwtError
from fwt.fwcore.rng import Stream
from fwt.fwcore.spec import ModelSpec, TrainSpec
from fwt.fwcore.storage.checkpoint import write_text
from fwt.fwcore.training.batches import Split

B, T, SYMBOLS, FEATURES, CLASSES, EXAMPLES, MEMBERS = 3, 4, 7, 5, 6, 9, 2
TRAIN = TrainSpec.parse({"steps": 1, "batch_size": B}, "misuse")
Arguments = dict[str, Any]


def spec_of(kind: str) -> ModelSpec:
    """A small network over symbols, or over numbers."""
    encoder = {
        "symbols": {"kind": "embedding", "symbols": SYMBOLS, "size": 4},
        "numbers": {"kind": "linear", "features": FEATURES, "size": 4},
    }[kind]
    core = {"kind": "fast-weights", "size": 4}
    head = {"classes": CLASSES, "hidden": 3}
    return ModelSpec.parse({"encoder": encoder, "core": core, "head": head}, "misuse")


def good(kind: str) -> Arguments:
    """Arguments that every entry point takes."""
    draw = Stream(0, "misuse", kind)
    inputs = draw.integers(SYMBOLS, (EXAMPLES, T))
    if kind == "numbers":
        inputs = draw.uniform((EXAMPLES, T, FEATURES)).astype(np.float32)
    return {
        "inputs": inputs,
        "targets": draw.integers(CLASSES, (EXAMPLES,)),
        "x": draw.uniform((B, T, 4)).astype(np.float32),
        "h": draw.uniform((B, 4)).astype(np.float32),
        "outputs": draw.uniform((T, EXAMPLES, 4)).astype(np.float32),
        "scores": draw.uniform((EXAMPLES, CLASSES)).astype(np.float32),
        "w": draw.uniform((4, 4)).astype(np.float32),
        "rows": draw.integers(EXAMPLES, (B,)),
        "member_rows": draw.integers(EXAMPLES, (MEMBERS, B)),
        "batch": B,
    }


class Subject:
    """A network on a backend, begun to train where it can, and a population of it."""

    def __init__(self, name: str, kind: str) -> None:
        backend, spec = backends.load(name), spec_of(kind)
        self.good, self.trains = good(kind), name in backends.TRAINING_ORDER
        self.split = Split(self.good["inputs"], self.good["targets"])
        self.model: Any = backend.compile(spec)
        if self.trains:
            self.model.begin_training(TRAIN, self.split)
            first = self.model.parameters()
            self.population: Any = compile_population(backend, [spec] * MEMBERS, [first] * MEMBERS)
            self.population.begin_training([TRAIN] * MEMBERS, self.split)
        self.last = self.bits()

    def bits(self) -> bytes:
        """Everything that a good call gives, and all weights and moments."""
        found = [self.model.forward(self.good["inputs"]), *self.model.parameters().values()]
        if self.trains:
            found += self.model.optimizer_state().values()
            found.append(self.population.evaluate(self.good["inputs"], self.good["targets"]))
        return b"".join(np.ascontiguousarray(array).tobytes() for array in found)


Entry = Callable[[Subject, Arguments], Any]
# name -> the call, and which of its arguments are drawn; of a model first, then of a population
FORWARD_ENTRIES: dict[str, tuple[Entry, tuple[str, ...]]] = {
    "forward": (lambda s, a: s.model.forward(a["inputs"]), ("inputs",)),
    "trace": (lambda s, a: s.model.trace(a["inputs"]).scores, ("inputs",)),
    "states": (lambda s, a: s.model.states(a["x"], {"h": a["h"]})[0], ("x", "h")),
    "stream": (lambda s, a: s.model.stream(a["batch"]) and 0, ("batch",)),
    "evaluate": (
        lambda s, a: s.model.evaluate(a["inputs"], a["targets"]),
        ("inputs", "targets"),
    ),
    "load_parameters": (
        lambda s, a: s.model.load_parameters({**s.model.parameters(), "core.w": a["w"]}),
        ("w",),
    ),
}
TRAINING_ENTRIES: dict[str, tuple[Entry, tuple[str, ...]]] = {
    "gradients": (
        lambda s, a: s.model.gradients(a["inputs"], a["targets"])[0],
        ("inputs", "targets"),
    ),
    "hidden_gradients": (
        lambda s, a: s.model.hidden_gradients(a["inputs"], a["outputs"], a["scores"]),
        ("inputs", "outputs", "scores"),
    ),
    "begin_training": (
        lambda s, a: s.model.begin_training(TRAIN, Split(a["inputs"], a["targets"])),
        ("inputs", "targets"),
    ),
    "train_step": (lambda s, a: s.model.train_step(a["rows"], 0.0, None) is None, ("rows",)),
    "load_optimizer_state": (
        lambda s, a: s.model.load_optimizer_state(
            {**s.model.optimizer_state(), "m.core.w": a["w"]}, 0
        ),
        ("w",),
    ),
    "population.begin_training": (
        lambda s, a: s.population.begin_training(
            [TRAIN] * MEMBERS, Split(a["inputs"], a["targets"])
        ),
        ("inputs", "targets"),
    ),
    "population.train_step": (
        lambda s, a: s.population.train_step(a["member_rows"], np.zeros(MEMBERS), None) is None,
        ("member_rows",),
    ),
    "population.evaluate": (
        lambda s, a: s.population.evaluate(a["inputs"], a["targets"]),
        ("inputs", "targets"),
    ),
}


def spoiled(value: Any, draw: Stream) -> Any:
    """An argument in a drawn way wrong, or only unusual."""
    array = np.asarray(value)
    place = tuple(int(draw.integers(size, ())) for size in array.shape)

    def with_one(number: Any) -> Any:
        other = array.astype(np.result_type(array.dtype, np.asarray(number).dtype))
        other[place] = number
        return other

    locked = array.copy()
    locked.flags.writeable = False
    wide = np.repeat(array, 2, -1) if array.ndim else np.repeat(array, 2)
    ways: list[Callable[[], Any]] = [
        lambda: array.astype(bool),
        lambda: array.astype(complex),
        lambda: array.astype(str),
        lambda: array.astype(object),
        lambda: array.astype(np.uint8),
        lambda: array.astype(np.float16),
        lambda: array.astype(np.int64),
        lambda: array.astype(array.dtype.newbyteorder()),
        lambda: with_one(-1),
        lambda: with_one(10**6),
        lambda: with_one(np.iinfo(np.int64).min),
        lambda: array[None],
        lambda: array[..., None],
        lambda: array[0] if array.ndim else None,
        lambda: array[:0] if array.ndim else 0,
        lambda: array[:, :0] if array.ndim > 1 else -3,
        lambda: array[..., :-1] if array.ndim else 1.5,
        lambda: array.tolist(),
        lambda: np.asfortranarray(array),
        lambda: array[::-1] if array.ndim else -1,
        lambda: wide[..., ::2],
        lambda: locked,
        lambda: None,
        lambda: "c9k8j3f1??c",
        lambda: [[1, 2], [3]],
        lambda: {"a": 1},
    ]
    return ways[int(draw.integers(len(ways), ()))]()


def plain(value: Any) -> Any:
    """The same numbers as a plain array."""
    array = np.asarray(value)
    kind = array.dtype.kind
    wanted = np.int64 if kind in "iu" else np.float32 if array.dtype.itemsize < 8 else np.float64
    return np.ascontiguousarray(array, dtype=wanted) if array.ndim else value


def answer(subject: Subject, entry: Entry, arguments: Arguments) -> tuple[str, str]:
    """The kind of an answer: an error and its words, or `taken` and the bits."""
    try:
        found = entry(subject, arguments)
    except FwtError as error:
        return type(error).__name__, str(error).replace(str(subject.model.backend), "*")
    except Exception as error:  # the fault that this looks for
        return f"raw {type(error).__name__}", str(error)
    return "taken", "" if found is None else np.asarray(found).tobytes().hex()


def run(
    calls: int, seed: int, names: list[str], only: str = ""
) -> tuple[dict[str, Any], list[str]]:
    """So many calls of every entry point; counts of the answers, and the faults."""
    counts: dict[str, Counter[str]] = {}
    faults: list[str] = []
    for kind in ("symbols", "numbers"):
        subjects = {name: Subject(name, kind) for name in names}
        for name, (entry, drawn) in {**FORWARD_ENTRIES, **TRAINING_ENTRIES}.items():
            if only not in ("", name):
                continue
            able = {n: s for n, s in subjects.items() if s.trains or name in FORWARD_ENTRIES}
            found = counts.setdefault(name, Counter())
            for number in range(calls // 2):
                draw = Stream(seed, "misuse", kind, name, number)
                which = drawn[int(draw.integers(len(drawn), ()))]
                base = good(kind)
                arguments = {**base, which: spoiled(base[which], draw)}
                shown = " ".join(repr(arguments[which]).split())
                label = f"{name} {kind} {number}: {which}={shown:.60}"
                faults += _judge(label, able, entry, arguments, which, found)
    return {name: dict(count) for name, count in counts.items()}, faults


def _judge(
    label: str,
    subjects: dict[str, Subject],
    entry: Entry,
    arguments: Arguments,
    which: str,
    found: Counter[str],
) -> list[str]:
    """What is wrong with the answers to one call."""
    faults, answers = [], {}
    for name, subject in subjects.items():
        answers[name] = kind, words = answer(subject, entry, arguments)
        found[kind] += 1
        if kind.startswith("raw"):
            faults.append(f"{label} on {name}: {kind}: {words}")
        if kind == "taken":
            same = answer(subject, entry, {**arguments, which: plain(arguments[which])})
            if same != answers[name]:
                faults.append(f"{label} on {name}: another answer than for plain arrays")
        before, subject.last = subject.last, subject.bits()
        if kind != "taken" and subject.last != before:
            faults.append(f"{label} on {name}: a good call gives other bits afterwards")
    told = {(kind, "" if kind == "taken" else words) for kind, words in answers.values()}
    if len(told) > 1:
        faults.append(f"{label}: the backends differ: {answers}")
    return faults


def main() -> int:
    """Run all and store the counts; 1 if anything was found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--calls", type=int, default=1000, help="of each entry point and backend")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", default="", help="one entry point")
    parser.add_argument("--out", type=Path, help="JSON file of the counts")
    asked = parser.parse_args()
    names = list(backends.BACKENDS)
    counts, faults = run(asked.calls, asked.seed, names, asked.only)
    versions = {k: v for name in names for k, v in backends.load(name).versions().items()}
    result = {
        "command": f"python -m tools.misuse --calls {asked.calls} --seed {asked.seed}",
        "versions": {"python": platform.python_version(), **versions},
        "answers": counts,
        "calls": sum(sum(count.values()) for count in counts.values()),
        "faults": len(faults),
    }
    print("\n".join(faults[:40]), file=sys.stderr)
    print(json.dumps(result, indent=1))
    if asked.out:
        write_text(asked.out, json.dumps(result, indent=1) + "\n")
    return bool(faults)


if __name__ == "__main__":
    sys.exit(main())
