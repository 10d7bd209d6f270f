"""What several tests share: every variant of every cell, its oracle, random weights, engines."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from itertools import product
from typing import Any

import numpy as np

from fwt import backends
from fwt.backends.contract import Backend, Compiled
from fwt.fwcore import model
from fwt.fwcore.cells.base import CellSpec
from fwt.fwcore.memory import PLAIN_FORMS
from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.params import Param, initialise
from fwt.fwcore.rng import Stream
from fwt.fwcore.spec import ModelSpec
from tests import oracle

Fields = dict[str, Any]

REAL_FORMS = PLAIN_FORMS

# --- engines ------------------------------------------------------------------------------


def dtypes_of(name: str) -> tuple[str, ...]:
    """The number types to test: backends that train must have both, a reference float64."""
    return ("float64", "float32") if name in backends.TRAINING_ORDER else ("float64",)


@dataclass(frozen=True)
class Engine:
    """A backend in one number type; float64 on the CPU, because no GPU of MLX has it."""

    backend: Backend
    dtype: str

    @property
    def name(self) -> str:
        return self.backend.name

    def compile(
        self, spec: ModelSpec, params: Mapping[str, NumpyArray] | None = None, memory: str = "auto"
    ) -> Compiled:
        device = "cpu" if self.dtype == "float64" else "auto"
        return self.backend.compile(spec, params, device=device, dtype=self.dtype, memory=memory)


# --- variants of the cells ----------------------------------------------------------------

# the control signal of the multi-level memory; steps past the end of a sequence are dropped
PLANS: dict[str, Fields] = {
    "flat": {},
    "store": {"store": (0, 2, 3, 6)},
    "wipe": {"store": (0, 2, 4), "wipe": True},
    "levels": {"store": (0, 3, 5), "wipe": True, "integrate": (2, 3, 6)},
    "wipe-always": {"wipe": True},
    "integrate": {"integrate": (0, 1, 4)},
}


def fast_weights(
    norm: str, write: str, sustained: str, inner: int, plan: str, **more: Any
) -> Fields:
    """One variant. Without a norm around the reads only a small rate keeps the numbers finite."""
    return {
        "kind": "fast-weights",
        "norm": norm,
        "write": write,
        "sustained": sustained,
        "inner_steps": inner,
        "decay": 0.9,
        "rate": 0.5 if norm in ("sum", "both") else {0: 0.2, 1: 0.05, 3: 0.01}[inner],
        **PLANS[plan],
        **more,
    }


FAST: dict[str, Fields] = {
    "-".join(("fast", norm, write, sustained, f"S{inner}", plan)): fast_weights(
        norm, write, sustained, inner, plan
    )
    for norm, write, sustained, inner, plan in product(
        ("sum", "none", "slow"),
        ("final", "preliminary"),
        ("boundary", "identity"),
        (0, 1, 3),
        PLANS,
    )
}

# what some public implementations do, beside the paper's options
PORTS: dict[str, Fields] = {
    f"fast-{norm}-{write}-{sustained}-S{inner}-{plan}{'-bias' if bias else ''}": fast_weights(
        norm, write, sustained, inner, plan, **({"bias": True} if bias else {})
    )
    for norm, write, sustained, inner, plan, bias in (
        ("both", "final", "boundary", 0, "flat", False),
        ("both", "final", "boundary", 1, "flat", False),
        ("both", "final", "boundary", 3, "levels", False),
        ("both", "preliminary", "identity", 1, "wipe", False),
        ("both", "preliminary", "preliminary", 3, "integrate", True),
        ("sum", "preliminary", "preliminary", 1, "flat", True),
        ("sum", "final", "preliminary", 0, "flat", False),
        ("sum", "final", "preliminary", 3, "levels", False),
        ("none", "final", "preliminary", 1, "store", False),
        ("slow", "final", "preliminary", 3, "wipe", False),
        ("sum", "final", "boundary", 1, "flat", True),
        ("sum", "final", "boundary", 3, "levels", True),
        ("none", "final", "identity", 1, "integrate", True),
    )
}

PLAIN: dict[str, Fields] = {
    **{
        f"rnn-{activation}-{norm}": {"kind": "rnn", "activation": activation, "norm": norm}
        for activation, norm in product(("relu", "tanh"), ("none", "layer"))
    },
    **{
        f"{kind}-{norm}": {"kind": kind, "norm": norm}
        for kind, norm in product(("lstm", "gru"), ("none", "layer"))
    },
    **{f"alstm-{copies}": {"kind": "alstm", "copies": copies} for copies in (1, 3)},
    "convnet": {"kind": "convnet", "steps": 11},
}

VARIANTS: dict[str, Fields] = {**FAST, **PORTS, **PLAIN}

# one of each kind where all of them would take too long
SOME = (
    "fast-sum-final-boundary-S1-flat",
    "fast-sum-final-boundary-S3-levels",
    "fast-none-preliminary-identity-S1-store",
    "fast-slow-final-identity-S3-wipe",
    "fast-sum-preliminary-boundary-S0-integrate",
    "fast-both-preliminary-preliminary-S3-integrate-bias",
    "fast-sum-final-boundary-S1-flat-bias",
    *PLAIN,
)


def core_of(variant: str, size: int, **more: Any) -> Fields:
    """The core of a variant with R units; one more of an odd R where half of them are complex."""
    odd = size % 2 if VARIANTS[variant]["kind"] == "alstm" else 0
    return {**VARIANTS[variant], "size": size + odd, **more}


def inputs_of(variant: str, usual: int, side: int = 7) -> int:
    """I for a variant: the usual number, or the pixels of a glimpse."""
    return side * side if VARIANTS[variant]["kind"] == "convnet" else usual


def core_only(core: Mapping[str, Any], inputs: int) -> ModelSpec:
    """A model whose core sees the numbers that go in; its head is as small as can be."""
    return ModelSpec.parse(
        {
            "encoder": {"kind": "identity", "features": inputs},
            "core": dict(core),
            "head": {"hidden": 0, "classes": 2},
        },
        "test",
    )


def forms_of(core: CellSpec) -> tuple[str, ...]:
    """The memory forms to run: all of them for the cell that has a memory."""
    return REAL_FORMS if hasattr(core, "store") else ("auto",)


# --- the oracle of a spec -----------------------------------------------------------------


def _fast_core(spec: Any, p: oracle.Params, x: NumpyArray) -> tuple[NumpyArray, oracle.States]:
    time, decay, rate = x.shape[1], spec.decay, spec.rate
    if spec.trained:
        decay = 1 / (1 + math.exp(-float(p["core.decay_logit"])))
        rate = math.exp(float(p["core.log_rate"]))
    return oracle.fast_weights(
        p,
        x,
        inner_steps=spec.inner_steps,
        decay=decay,
        rate=rate,
        norm=spec.norm,
        write=spec.write,
        sustained=spec.sustained,
        bias=spec.bias,
        store=None if spec.store is None else [t for t in spec.store if t < time],
        wipe=spec.wipe,
        integrate=[t for t in spec.integrate if t < time],
    )


def _rnn_core(spec: Any, p: oracle.Params, x: NumpyArray) -> tuple[NumpyArray, oracle.States]:
    return oracle.rnn(p, x, activation=spec.activation, norm=spec.norm == "layer")


def _lstm_core(spec: Any, p: oracle.Params, x: NumpyArray) -> tuple[NumpyArray, oracle.States]:
    return oracle.lstm(p, x, norm=spec.norm == "layer")


def _gru_core(spec: Any, p: oracle.Params, x: NumpyArray) -> tuple[NumpyArray, oracle.States]:
    return oracle.gru(p, x, norm=spec.norm == "layer")


def _alstm_core(spec: Any, p: oracle.Params, x: NumpyArray) -> tuple[NumpyArray, oracle.States]:
    half = spec.size // 2
    drawn = [Stream(0, "alstm", "permutation", s).permutation(half) for s in range(spec.copies)]
    return oracle.alstm(p, x, permutations=[order.tolist() for order in drawn])


def _convnet_core(spec: Any, p: oracle.Params, x: NumpyArray) -> tuple[NumpyArray, oracle.States]:
    return oracle.convnet(p, x)


ORACLES: dict[str, Callable[[Any, oracle.Params, NumpyArray], tuple[NumpyArray, oracle.States]]] = {
    "fast-weights": _fast_core,
    "rnn": _rnn_core,
    "lstm": _lstm_core,
    "gru": _gru_core,
    "alstm": _alstm_core,
    "convnet": _convnet_core,
}


def oracle_core(core: CellSpec) -> oracle.Core:
    """The oracle of a core: (params, x (B, T, I)) -> (hs (B, T, R), final states)."""
    return partial(ORACLES[core.kind], core)


# --- random numbers, all of them exact in float32 -----------------------------------------


def exact(array: NumpyArray) -> NumpyArray:
    """Float64 numbers that float32 holds exactly, so that no type begins with an error."""
    return np.asarray(array, dtype=np.float32).astype(np.float64)


def noise(seed: int, *shape: int) -> NumpyArray:
    return exact(np.random.default_rng(seed).normal(size=shape))


def random_params(table: list[Param], seed: int = 0, spread: float = 0.3) -> dict[str, NumpyArray]:
    """First values plus noise, so that gains, biases and W are not trivial."""
    random = np.random.default_rng(seed)
    first = initialise(table, seed, np.float64)
    return {n: exact(a + spread * random.normal(size=a.shape)) for n, a in first.items()}


def params_of(spec: ModelSpec, seed: int = 0, spread: float = 0.3) -> dict[str, NumpyArray]:
    return random_params(model.parameters(spec), seed, spread)
