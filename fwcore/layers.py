"""What stands around a core: encoders (symbols or pixels to its input) and heads (h to classes)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Literal

import numpy as np
import pydantic

from fwt.fwcore import params
from fwt.fwcore.cells.base import MOST, PositiveInt, Weights
from fwt.fwcore.frozen import Frozen
from fwt.fwcore.lookup import LookedUp
from fwt.fwcore.ops import Array, Ops
from fwt.fwcore.params import Param


class EmbeddingSpec(Frozen):
    """A learned vector for each symbol: int (B, T) -> (B, T, size).

    Attributes:
        symbols: how many symbols there are.
        size: numbers a symbol (100 default, as in the paper).
    """

    kind: Literal["embedding"] = "embedding"
    symbols: PositiveInt
    size: PositiveInt = 100


class OneHotSpec(Frozen):
    """No embedding: a symbol is a one-hot vector, int (B, T) -> (B, T, symbols).

    Attributes:
        symbols: how many symbols there are.
    """

    kind: Literal["one-hot"] = "one-hot"
    symbols: PositiveInt


class LinearSpec(Frozen):
    """One layer of ReLU units, shared by all time steps: (B, T, features) -> (B, T, size).

    Attributes:
        features: numbers a time step.
        size: ReLU units (100 default, as in the paper).
    """

    kind: Literal["linear"] = "linear"
    features: PositiveInt
    size: PositiveInt = 100


class IdentitySpec(Frozen):
    """No encoder: the core sees the input's numbers, (B, T, features) unchanged.

    Attributes:
        features: numbers a time step.
    """

    kind: Literal["identity"] = "identity"
    features: PositiveInt


EncoderSpec = Annotated[
    EmbeddingSpec | OneHotSpec | LinearSpec | IdentitySpec, pydantic.Field(discriminator="kind")
]


class HeadSpec(Frozen):
    """From the last hidden state to class scores: (B, R) -> (B, classes).

    Attributes:
        hidden: ReLU units between them (100 default, as in the paper; 0 leaves the layer out).
        classes: how many classes there are.
    """

    kind: Literal["classes"] = "classes"
    hidden: Annotated[int, pydantic.Field(ge=0, le=MOST)] = 100
    classes: PositiveInt


def encoder_outputs(spec: EncoderSpec) -> int:
    """I, the numbers a time step that the core receives."""
    if isinstance(spec, OneHotSpec):
        return spec.symbols
    return spec.features if isinstance(spec, IdentitySpec) else spec.size


def encoder_symbols(spec: EncoderSpec) -> int:
    """How many symbols the encoder knows; 0 for one that takes numbers."""
    return spec.symbols if isinstance(spec, EmbeddingSpec | OneHotSpec) else 0


def encoder_parameters(spec: EncoderSpec) -> list[Param]:
    """`encoder.weight` (and `encoder.bias`); the embedding is uniform with variance 1."""
    if isinstance(spec, EmbeddingSpec):
        shape = (spec.symbols, spec.size)
        return [Param("encoder.weight", shape, "NU", params.uniform(3.0**0.5))]
    if isinstance(spec, LinearSpec):
        return params.linear("encoder", spec.features, spec.size)
    return []


def encode(ops: Ops, spec: EncoderSpec, p: Weights, x: Array) -> Array:
    """The core's input: int (B, T) or (B, T, features) -> (B, T, I); symbols as `LookedUp`."""
    if isinstance(spec, EmbeddingSpec):
        return LookedUp(ops, p["encoder.weight"], x)
    if isinstance(spec, OneHotSpec):
        return LookedUp(ops, ops.constant(np.eye(spec.symbols)), x)
    if isinstance(spec, LinearSpec):
        return ops.relu(x @ p["encoder.weight"].T + p["encoder.bias"])
    return x


def head_parameters(spec: HeadSpec, size: int) -> list[Param]:
    """`head.hidden.*` unless left out, and `head.output.*`."""
    if spec.hidden == 0:
        return params.linear("head.output", size, spec.classes)
    hidden = params.linear("head.hidden", size, spec.hidden)
    return hidden + params.linear("head.output", spec.hidden, spec.classes)


def classify(ops: Ops, spec: HeadSpec, p: Mapping[str, Array], h: Array) -> Array:
    """Class scores (logits): (B, R) -> (B, classes)."""
    if spec.hidden:
        h = ops.relu(h @ p["head.hidden.weight"].T + p["head.hidden.bias"])
    return h @ p["head.output.weight"].T + p["head.output.bias"]
