"""What is wrong with data, in the product's own words: what was expected, what came."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, get_args

import pydantic

from fwt.fwcore.errors import closest, nearest

# kind of a fault, as pydantic has it, and what was expected; `{...}` are of the fault's context
EXPECTED = {
    "missing": "a value",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_parsing_size": "a whole number of fewer digits",
    "int_from_float": "a whole number",
    "float_type": "a number",
    "float_parsing": "a number",
    "finite_number": "a finite number",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
    "string_type": "text",
    "string_unicode": "text that is UTF-8",
    "string_too_short": "text of at least {min_length} characters",
    "string_pattern_mismatch": "text like {pattern}",
    "tuple_type": "a list",
    "list_type": "a list",
    "too_short": "at least {min_length} entries",
    "too_long": "at most {max_length} entries",
    "dict_type": "a table",
    "model_type": "a table",
    "model_attributes_type": "a table",
    "none_required": "nothing",
    "greater_than": "a number above {gt:,}",
    "greater_than_equal": "at least {ge:,}",
    "less_than": "a number below {lt:,}",
    "less_than_equal": "at most {le:,}",
    "literal_error": "{expected}",
    "union_tag_invalid": "kind {expected_tags}",
    "union_tag_not_found": "a table with a kind",
}
OWN = ("value_error", "assertion_error")  # whose text is the product's
GIVEN_NONE = ("missing", "union_tag_not_found")


def expected(fault: Mapping[str, Any]) -> str:
    """What a fault of `ValidationError.errors()` says was expected."""
    if fault["type"] in OWN:
        message = str(fault["ctx"]["error"])
        return message[:1].lower() + message[1:]
    context = {
        key: int(value) if isinstance(value, float) and value.is_integer() else value
        for key, value in fault.get("ctx", {}).items()
    }
    return f"expected {EXPECTED.get(fault['type'], 'another value').format_map(context)}"


def got(name: str, fault: Mapping[str, Any]) -> str:
    """What came, as `, got name=value`; nothing is said of tables, which are long."""
    if fault["type"] in GIVEN_NONE:
        return ", got none"
    given = fault.get("input")
    return "" if isinstance(given, dict | pydantic.BaseModel) else f", got {name}={given!r}"


def explain(error: pydantic.ValidationError, cls: type[pydantic.BaseModel]) -> str:
    """Every fault of data for a model, in one line, with the nearest known key or value."""
    faults = []
    for fault in error.errors(include_url=False):
        path = fault["loc"]
        name = ".".join(str(part) for part in path) or cls.__name__
        if fault["type"] == "extra_forbidden":
            known = nearest(str(path[-1]), _fields_at(cls, path[:-1]))
            faults.append(f"unknown key {name!r} ({known})")
            continue
        text = f"{name}: {expected(fault)}{got(name, fault)}"
        near = NEAREST.get(fault["type"])
        faults.append(text if near is None else text + near(fault))
    return "; ".join(faults)


def _near(value: object, choices: str) -> str:
    """`; did you mean 'one'?` for a value and its quoted choices; "" if none is near."""
    return "".join(
        f"; did you mean {each!r}?"
        for each in closest(str(value), re.findall(r"'([^']+)'", choices))
    )


NEAREST: dict[str, Callable[[Mapping[str, Any]], str]] = {
    "literal_error": lambda fault: _near(fault["input"], fault["ctx"]["expected"]),
    "union_tag_invalid": lambda fault: (
        f", got kind={fault['ctx']['tag']!r}"
        + _near(fault["ctx"]["tag"], fault["ctx"]["expected_tags"])
    ),
}


def _fields_at(cls: type[pydantic.BaseModel], path: tuple[int | str, ...]) -> list[str]:
    """The field names of the model that `path` (without its last part) leads to.

    Where a field may hold one of several models, the next part of `path` is the `kind` of one.
    """
    models: list[Any] = [cls]
    for part in path:
        fields = [model.model_fields[part] for model in models if part in model.model_fields]
        if fields:
            kinds = [field.annotation for field in fields]
            members = [member for kind in kinds for member in get_args(kind) or (kind,)]
            models = [member for member in members if hasattr(member, "model_fields")]
        else:
            tags = [(model, model.model_fields.get("kind")) for model in models]
            models = [model for model, tag in tags if tag is not None and tag.default == part]
    return [name for model in models for name in model.model_fields]
