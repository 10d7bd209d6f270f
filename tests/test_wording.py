"""Types are strict, and what is wrong with a setting is told in the product's own words."""

from __future__ import annotations

import json
import typing
from typing import Any

import pydantic
import pydantic_core.core_schema
import pytest

from fwt.cli.main import app
from fwt.fwcore import wording
from fwt.fwcore.cells import cells
from fwt.fwcore.errors import ConfigError
from fwt.fwcore.frozen import Frozen, Items
from fwt.fwcore.spec import RunSpec
from fwt.sweep.plan import Range, SearchSpec
from fwt.tasks import TASKS, parse
from tests.cli_tools import check_refusal, clean_environment, good, refused, typed
from tests.plain_spec import MODEL, put

TRAIN = ("train", "--task", "retrieval", "--dry-run")


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


# --- strict types -------------------------------------------------------------------------


def numbers(cls: type[pydantic.BaseModel]) -> list[str]:
    """The fields that hold a number, or a list of them."""
    found = []
    for name, field in cls.model_fields.items():
        words = str(field.annotation)
        if ("int" in words or "float" in words) and "Literal" not in words:
            found.append(name)
    return found


def fields() -> list[tuple[str, type[Frozen], str]]:
    """(table of a run, its class, field) of every number in a run's spec."""
    train, report = (RunSpec.model_fields[name].annotation for name in ("train", "report"))
    rows = [("train", train), ("report", report)]
    rows += [(f"core {kind}", cell.Spec) for kind, cell in cells().items()]
    return [(where, cls, name) for where, cls in rows for name in numbers(cls)]


@pytest.mark.parametrize(("where", "cls", "name"), fields(), ids=lambda part: str(part))
def test_no_number_of_a_spec_is_a_truth_value_or_text(where, cls, name):
    least: dict[str, Any] = {"steps": 3} if where == "train" else {}
    for wrong in (True, False, "3", [True], None):
        if wrong is None and "None" in str(cls.model_fields[name].annotation):
            continue
        with pytest.raises(ConfigError, match="expected") as caught:
            cls.parse({"size": 4, **least, name: wrong} if "core" in where else
                      {**least, name: wrong}, "here")  # fmt: skip
        assert (
            "whole number" in str(caught.value)
            or "number" in str(caught.value)
            or ("list" in str(caught.value))
        )


@pytest.mark.parametrize("kind", TASKS)
def test_no_number_of_a_task_is_a_truth_value(kind):
    cls = type(parse({"kind": kind}))
    for name in numbers(cls):
        with pytest.raises(ConfigError, match=f"{name}: expected a whole number, got {name}=True"):
            parse({"kind": kind, name: True})


@pytest.mark.parametrize(
    "setting",
    ["train.clip", "train.steps", "train.seed", "task.pairs", "model.core.size", "report.keep",
     "train.lr", "model.core.decay", "model.head.hidden", "model.encoder.size", "task.train"],
)  # fmt: skip
def test_true_is_no_number_on_the_command_line_and_in_files(setting, tmp_path):
    words = [setting.rpartition(".")[2], "number, got", "=True"]
    refused(2, words, *TRAIN, "--set", f"{setting}=true")
    table, key = setting.rsplit(".", 1)
    (tmp_path / "c.toml").write_text(f"[{table}]\n{key} = true\n")
    refused(2, words, *TRAIN, "--config", tmp_path / "c.toml")


def test_numbers_of_a_sweep_are_strict():
    with pytest.raises(ConfigError, match="trials: expected a whole number, got trials=True"):
        SearchSpec.parse({"trials": True, "space": {"lr": [1, 2]}}, "sweep")
    with pytest.raises(ConfigError, match="low: expected a number, got low=True"):
        Range.parse({"low": True, "high": 2}, "sweep")


def test_what_json_has_is_taken():
    """A whole number where any is meant, and a list for a tuple."""
    data = put("model.core.store", [1, 2])
    data["train"] = {"epochs": 2, "lr": 1}
    spec = RunSpec.parse(json.loads(json.dumps(data)), "here")
    assert (spec.train.epochs, spec.train.lr) == (2.0, 1.0)
    assert spec.model.core.store == (1, 2)


# --- words --------------------------------------------------------------------------------


class Every(Frozen):
    """A field of each kind that specs have."""

    whole: int = 0
    number: float = 0.0
    flag: bool = False
    text: typing.Annotated[str, pydantic.Field(min_length=2, pattern="^x")] = "xx"
    few: typing.Annotated[Items[int], pydantic.Field(min_length=1, max_length=2)] = (1,)
    table: dict[str, int] = pydantic.Field(default_factory=dict)
    above: typing.Annotated[float, pydantic.Field(gt=0.5, lt=2)] = 1.0
    between: typing.Annotated[int, pydantic.Field(ge=3, le=4000)] = 3
    choice: typing.Literal["one", "two"] = "one"
    nothing: None = None


WORDS: list[tuple[str, Any, str]] = [
    ("whole", "twenty", "expected a whole number, got whole='twenty'"),
    ("whole", 1.5, "expected a whole number, got whole=1.5"),
    ("whole", 2.0, "expected a whole number, got whole=2.0"),
    ("whole", None, "expected a whole number, got whole=None"),
    ("number", "x", "expected a number, got number='x'"),
    ("number", float("inf"), "expected a finite number, got number=inf"),
    ("flag", "yes", "expected true or false, got flag='yes'"),
    ("flag", 1, "expected true or false, got flag=1"),
    ("text", 3, "expected text, got text=3"),
    ("text", "x", "expected text of at least 2 characters, got text='x'"),
    ("text", "yy", "expected text like ^x, got text='yy'"),
    ("few", 3, "expected a list, got few=3"),
    ("few", [1, "2"], "expected a whole number, got few.1='2'"),
    ("few", [], "expected at least 1 entries, got few=[]"),
    ("few", [1, 2, 3], "expected at most 2 entries, got few=[1, 2, 3]"),
    ("table", 3, "expected a table, got table=3"),
    ("above", 0.5, "expected a number above 0.5, got above=0.5"),
    ("above", 2, "expected a number below 2, got above=2"),
    ("between", 2, "expected at least 3, got between=2"),
    ("between", 9999, "expected at most 4,000, got between=9999"),
    ("choice", "tow", "expected 'one' or 'two', got choice='tow'; did you mean 'two'?"),
    ("nothing", 3, "expected nothing, got nothing=3"),
]


@pytest.mark.parametrize(("name", "value", "words"), WORDS, ids=lambda part: str(part)[:20])
def test_what_was_expected_and_what_came(name, value, words):
    with pytest.raises(ConfigError) as caught:
        Every.parse({name: value}, "here")
    assert str(caught.value).split(": ", 2)[2] == words


def test_missing_tables_and_unknown_kinds():
    message = "train: expected a value, got none"
    with pytest.raises(ConfigError, match=message):
        RunSpec.parse({"task": {}, "model": MODEL}, "here")
    with pytest.raises(ConfigError, match=r"model\.head: expected a table"):
        RunSpec.parse(put("model.head", 3), "here")
    with pytest.raises(ConfigError, match=r"kind='one-hut'; did you mean 'one-hot'"):
        RunSpec.parse(put("model.encoder.kind", "one-hut"), "here")
    with pytest.raises(ConfigError, match="expected a table with a kind, got none"):
        RunSpec.parse(put("model.encoder", {}), "here")


def test_no_kind_of_fault_is_told_in_the_words_of_pydantic():
    for kind in typing.get_args(pydantic_core.core_schema.ErrorType):
        if kind in wording.OWN:
            continue
        context: dict[str, Any] = {
            "gt": 1, "ge": 1, "lt": 1, "le": 1, "min_length": 1, "max_length": 1, "pattern": "x",
            "expected": "'a'", "expected_tags": "'a'", "tag": "b",
        }  # fmt: skip
        words = wording.expected({"type": kind, "ctx": context})
        assert words.startswith("expected ")
        assert "input" not in words


# --- the command line ---------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "line"),
    [
        (("--size", "twenty"), "--size: expected a whole number, got size='twenty'"),
        (("-R", "1.5"), "--size: expected a whole number, got size='1.5'"),
        (("--epochs", "1,5"), "--epochs: expected a number, got epochs='1,5'"),
        (("--stop-after", "0"), "--stop-after: expected at least 1, got stop-after='0'"),
        (("--lr", "1", "--lr", "2"), "--lr: expected it once, got it 2 times"),
        (("--lr", "1", "--learning-rate=2"), "--lr: expected it once, got it 2 times"),
        (("-R", "1", "-R2", "--size", "3"), "--size: expected it once, got it 3 times"),
        (("--quiet", "-q"), "--quiet: expected it once, got it 2 times"),
    ],
)
def test_values_of_options(arguments, line):
    done = typed(*TRAIN, *arguments)
    assert done.code == 2
    check_refusal(done, [line])


def test_a_variable_is_named(monkeypatch):
    monkeypatch.setenv("FWT_SIZE", "twenty")
    refused(2, ["--size (FWT_SIZE): expected a whole number, got size='twenty'"], *TRAIN)


def test_options_that_take_several_values_may_stand_several_times():
    found = good(*TRAIN, "--set", "train.lr=1", "--set", "train.clip=2").json["train"]
    assert (found["lr"], found["clip"]) == (1.0, 2.0)


@pytest.mark.parametrize("verb", [each.name for each in app.registered_commands])
def test_no_verb_takes_an_option_twice(verb):
    done = typed(verb, "--debug", "--debug")
    assert done.code == 2
    assert "--debug: expected it once, got it 2 times" in done.err
