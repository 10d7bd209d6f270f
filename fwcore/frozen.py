"""The base of every spec: frozen, strict about keys, exact in JSON, clear when wrong."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Mapping
from typing import Annotated, ClassVar, Self, TypeVar

import pydantic
from pydantic import JsonValue

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.wording import explain

T = TypeVar("T")
JsonObject = dict[str, JsonValue]
Items = Annotated[tuple[T, ...], pydantic.Strict(False)]  # a list of JSON, kept as a tuple


class Frozen(pydantic.BaseModel):
    """A value object: fields cannot be changed, unknown keys are refused, NaN is no number.

    Types are strict: true is no number, and neither is text that reads like one.

    Attributes:
        omit_default: fields left out of the JSON while they have their default. A field that is
            added to a spec is named here, so that every older spec keeps its JSON and its hash.
    """

    model_config = pydantic.ConfigDict(
        frozen=True, extra="forbid", validate_default=True, allow_inf_nan=False, strict=True
    )

    omit_default: ClassVar[frozenset[str]] = frozenset()

    @pydantic.model_serializer(mode="wrap")
    def _omit_defaults(
        self, serialize: pydantic.SerializerFunctionWrapHandler
    ) -> dict[str, object]:
        data: dict[str, object] = serialize(self)
        for name in self.omit_default:
            if getattr(self, name) == type(self).model_fields[name].default:
                data.pop(name, None)
        return data

    @classmethod
    def parse(cls, data: object, where: str) -> Self:
        """Build from plain JSON data.

        Args:
            data: the fields by name.
            where: what the data came from, for the error line (`"runs/x/spec.json"`).

        Raises:
            ConfigError: naming every wrong key and value, with the nearest known key.
        """
        try:
            return cls.model_validate(data)
        except pydantic.ValidationError as error:
            raise ConfigError(f"{where}: {explain(error, cls)}") from None

    def json_data(self) -> JsonObject:
        """The fields as plain JSON data; `parse` gives back an equal object."""
        return self.model_dump(mode="json")

    def digest(self) -> str:
        """The first 8 hex digits of the SHA-256 of the canonical JSON."""
        return digest_of(self.json_data())


def digest_of(data: JsonValue) -> str:
    """8 hex digits that name JSON data: keys sorted, no spaces, SHA-256."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def leaves(data: Mapping[str, JsonValue], at: str = "") -> Iterator[tuple[str, JsonValue]]:
    """Dotted keys and values of nested objects, lists being values."""
    for key, value in data.items():
        if isinstance(value, dict):
            yield from leaves(value, f"{at}{key}.")
        else:
            yield f"{at}{key}", value


def differences(have: Mapping[str, object], asked: Mapping[str, object], at: str = "") -> list[str]:
    """Where settings asked for (JSON data) differ from those that are there, one phrase each."""
    faults = []
    for key, value in asked.items():
        name = f"{at}{key}"
        if key not in have:
            faults.append(f"{name}={value!r} is unknown to it")
        elif isinstance(value, Mapping) and isinstance(inner := have[key], Mapping):
            faults += differences(inner, value, f"{name}.")
        elif have[key] != value:
            faults.append(f"it has {name}={have[key]!r}, asked for {name}={value!r}")
    return faults


def changes(
    before: Mapping[str, JsonValue], after: Mapping[str, JsonValue], at: str = ""
) -> JsonObject:
    """Where two JSON data differ: dotted key -> `{"from": ..., "to": ...}`, None for no value."""
    result: JsonObject = {}
    for key in {**before, **after}:
        old, new = before.get(key), after.get(key)
        if isinstance(old, dict) and isinstance(new, dict):
            result |= changes(old, new, f"{at}{key}.")
        elif old != new:
            result[f"{at}{key}"] = {"from": old, "to": new}
    return result
