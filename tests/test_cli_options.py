"""Every option of `fwt train` through every layer of settings, and what the layers make of it."""

from __future__ import annotations

import json
import tomllib
from typing import Any

import numpy as np
import pytest

from fwt import backends, tasks
from fwt.fwcore.cells import cells, presets
from fwt.fwcore.memory import FORMS
from fwt.fwcore.spec import RunSpec
from fwt.keys import KEYS
from fwt.tasks.glimpses import POLICIES
from fwt.tasks.sources import NAMES
from tests.cli_tools import ROOT, TINY, clean_environment, fwt, good, refused
from tests.option_samples import DIGITS, RETRIEVAL, SAMPLES, at

LAYERS = ("flag", "variable", "config", "set")


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def resolved(*arguments: object) -> dict[str, Any]:
    """The spec that `fwt train --dry-run` prints."""
    return good("train", *arguments, "--dry-run").json


def toml(path: str, value: Any) -> str:
    table, key = path.rsplit(".", 1)
    return f"[{table}]\n{key} = {json.dumps(value)}\n"


def idx(array: np.ndarray) -> bytes:
    """An IDX file of unsigned bytes."""
    lengths = b"".join(length.to_bytes(4, "big") for length in array.shape)
    return bytes([0, 0, 8, array.ndim]) + lengths + array.tobytes()


@pytest.fixture(scope="module", name="emnist")
def _emnist(tmp_path_factory):
    """A folder with the four files of a dataset that has no checksums: blank pictures."""
    folder = tmp_path_factory.mktemp("emnist")
    for part, count in (("train", 10_001), ("test", 1)):
        name = f"emnist-digits-{part}"
        (folder / f"{name}-images-idx3-ubyte").write_bytes(idx(np.zeros((count, 28, 28), "u1")))
        (folder / f"{name}-labels-idx1-ubyte").write_bytes(idx(np.zeros(count, "u1")))
    return folder


def test_the_samples_cover_every_flag():
    assert list(SAMPLES) == list(KEYS)


@pytest.mark.parametrize("through", LAYERS)
@pytest.mark.parametrize("name", KEYS)
def test_every_flag_arrives_through_every_layer(name, through, tmp_path, monkeypatch, emnist):
    path, (value, where) = KEYS[name], SAMPLES[name]
    more = ("--data-dir", emnist) if name == "dataset" else ()
    if name != "dataset":  # its default would look for the full MNIST
        default = at(resolved(*where), path)
        value = "constant" if default == value == "cosine" else value  # a recipe may want either
        assert default != value
    arguments: tuple[object, ...] = ()
    if through == "flag":
        arguments = (f"--{name.replace('_', '-')}", value)
    elif through == "variable":
        monkeypatch.setenv(f"FWT_{name.upper()}", str(value))
    elif through == "config":
        (tmp_path / "c.toml").write_text(toml(path, value))
        arguments = ("--config", tmp_path / "c.toml")
    else:
        arguments = ("--set", f"{path}={value}")
    assert at(resolved(*where, *more, *arguments), path) == value


def test_settings_override_in_the_documented_order(tmp_path, monkeypatch):
    """Defaults < recipe < --config < FWT_* < flags < --set, one field through all of them."""
    config = tmp_path / "c.toml"
    config.write_text(toml("train.clip", 2))
    models = recipe_file("retrieval")["models"]
    silent = next(name for name in presets() if "clip" not in models.get(name, {}).get("train", {}))
    arguments: list[object] = [*RETRIEVAL, "--model", silent]
    found = [resolved(*arguments)["train"]["clip"]]

    def clip(*more: object) -> None:
        arguments.extend(more)
        found.append(resolved(*arguments)["train"]["clip"])

    clip("--model", "irnn")
    recipe = models["irnn"]["train"]["clip"]
    assert recipe not in (0.0, 2.0)
    clip("--config", config)
    monkeypatch.setenv("FWT_CLIP", "3")
    clip()
    clip("--clip", "4")
    clip("--set", "train.clip=5")
    assert found == [0.0, recipe, 2.0, 3.0, 4.0, 5.0]


@pytest.mark.parametrize(("flag", "variable"), [("epochs", "steps"), ("steps", "epochs")])
def test_a_length_in_a_flag_beats_the_other_length_below_it(flag, variable, tmp_path, monkeypatch):
    monkeypatch.setenv(f"FWT_{variable.upper()}", "9")
    train = resolved(*RETRIEVAL, f"--{flag}", "3")["train"]
    assert (train[flag], train[variable]) == (3, None)
    (tmp_path / "c.toml").write_text(toml(f"train.{flag}", 4))
    train = resolved(*RETRIEVAL, "--config", tmp_path / "c.toml")["train"]
    assert (train[flag], train[variable]) == (None, 9)


def test_two_lengths_in_one_layer_are_refused(tmp_path, monkeypatch):
    words = ["exactly one of epochs and steps", "epochs=2", "steps=3"]
    refused(2, words, "train", *RETRIEVAL, "--epochs", 2, "--steps", 3, "--out", tmp_path / "r")
    assert not (tmp_path / "r").exists()
    both = ("--set", "train.epochs=2", "--set", "train.steps=3")
    refused(2, words, "train", *RETRIEVAL, *both, "--dry-run")


def test_task_model_and_cell_follow_the_same_order(tmp_path, monkeypatch):
    config = tmp_path / "c.toml"
    config.write_text('[task]\nkind = "mnist-glimpse"\ndataset = "mnist-subset"\n')
    assert resolved("--config", config)["task"]["kind"] == "mnist-glimpse"
    config.write_text('[task]\nkind = "mnist-glimpse"\n[model.core]\nkind = "lstm"\n')
    found = resolved("--config", config, *RETRIEVAL)
    assert (found["task"]["kind"], found["model"]["core"]["kind"]) == ("retrieval", "lstm")
    assert found["model"]["encoder"]["kind"] == "embedding"
    monkeypatch.setenv("FWT_MODEL", "gru")
    monkeypatch.setenv("FWT_TASK", "retrieval")
    assert resolved("--config", config)["model"]["core"]["kind"] == "gru"
    assert resolved("--config", config, "--model", "irnn")["recipe"] == "retrieval-irnn-R20"
    found = resolved("--config", config, "-m", "irnn", "--set", "model.core.kind=lstm")
    assert (found["recipe"], found["model"]["core"]["kind"]) == ("retrieval-lstm-R20", "lstm")
    monkeypatch.setenv("FWT_TASK", "retrieval")
    dataset = ("--set", "task.dataset=mnist-subset")
    found = resolved("--set", "task.kind=mnist-glimpse", *dataset)
    assert found["recipe"] == "mnist-glimpse-gru-R50"


def test_aliases_of_flags():
    train = resolved(*RETRIEVAL, "--iters", 7, "--learning-rate", "0.25")["train"]
    assert (train["steps"], train["lr"]) == (7, 0.25)
    assert resolved(*RETRIEVAL, "-m", "lstm", "-R", "9")["model"]["core"]["size"] == 9


@pytest.mark.parametrize(
    "arguments",
    [
        (*RETRIEVAL, "--seed", "3", "--steps", "5"),
        (*RETRIEVAL, "--model", "irnn", "--size", "7"),
        (*DIGITS, "--policy", "raster", "--epochs", "2"),
        (*DIGITS, "--control", "flat"),
        (*DIGITS, "--model", "gru"),
    ],
)
def test_a_resolved_spec_is_a_config_that_gives_itself(arguments, tmp_path):
    spec = resolved(*arguments)
    file = tmp_path / "spec.json"
    file.write_text(json.dumps(spec))
    again = resolved("--config", file)
    assert again == spec
    assert RunSpec.parse(again, "again").run_digest() == RunSpec.parse(spec, "spec").run_digest()


def test_the_spec_file_of_a_run_is_a_config_of_the_same_run(tmp_path):
    good("train", *TINY, "--backend", "torch", "--stop-after", 1, "--out", tmp_path / "run")
    again = resolved("--config", tmp_path / "run" / "spec.json")
    assert again == json.loads((tmp_path / "run" / "spec.json").read_text())


@pytest.mark.parametrize("task", tasks.TASKS)
@pytest.mark.parametrize("name", presets())
def test_every_model_resolves_on_every_task(name, task):
    subset = ("--dataset", "mnist-subset") if task == "mnist-glimpse" else ()
    if name == "convnet" and task == "retrieval":
        words = ["'convnet' expects a task of pictures", "task='retrieval'", "mnist-glimpse"]
        refused(2, words, "train", "--task", task, "--model", name, "--dry-run")
        return
    found = resolved("--task", task, "--model", name, *subset)
    core = found["model"]["core"]
    assert {key: core[key] for key in presets()[name]} == presets()[name]
    assert found["recipe"].startswith(f"{task}-{name}-R")


@pytest.mark.parametrize(("policy", "steps"), [("multi-level", 24), ("raster", 16)])
def test_a_convnet_sees_the_pixels_of_every_glimpse(policy, steps):
    model = resolved(*DIGITS, "--model", "convnet", "--policy", policy)["model"]
    assert model["encoder"] == {"kind": "identity", "features": 49}
    assert model["core"]["steps"] == steps
    assert resolved(*DIGITS, "-m", "lstm")["model"]["encoder"]["kind"] == "linear"
    assert "steps" not in resolved(*DIGITS, "-m", "lstm")["model"]["core"]


# --- recipes ------------------------------------------------------------------------------


def recipe_file(task: str) -> dict[str, Any]:
    return tomllib.loads((ROOT / "tasks" / "recipes" / f"{task}.toml").read_text("utf-8"))


def recipe_rows() -> list[tuple[str, str, int]]:
    """(task, model, size) of every recipe: the sizes with settings of their own, and the rest."""
    rows = []
    for task in tasks.TASKS:
        file = recipe_file(task)
        for name, chosen in file["models"].items():
            rows += [(task, name, int(size)) for size in (*chosen.get("sizes", {}), file["size"])]
    return rows


def leaves(tree: dict[str, Any], at: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        found |= leaves(value, f"{at}{key}.") if isinstance(value, dict) else {f"{at}{key}": value}
    return found


@pytest.mark.parametrize(("task", "name", "size"), recipe_rows())
def test_every_value_of_a_recipe_is_in_the_run(task, name, size):
    file = recipe_file(task)
    chosen = dict(file["models"][name])
    own = chosen.pop("sizes", {}).get(str(size), {})
    wanted = leaves(file["all"]) | leaves(chosen) | leaves(own)
    subset = ("--dataset", "mnist-subset") if task == "mnist-glimpse" else ()
    spec = resolved("--task", task, "--model", name, "--size", size, *subset)
    parts = {key: spec[key] for key in ("task", "train", "report")}
    found = leaves({"core": spec["model"]["core"], **parts})
    assert wanted
    assert {key: found[key] for key in wanted} == wanted  # a key the spec lacks is a KeyError


@pytest.mark.parametrize("task", tasks.TASKS)
def test_recipes_name_models_and_tables_that_exist(task):
    file = recipe_file(task)
    assert file.keys() == {"model", "size", "all", "models"}
    assert file["model"] in presets()
    assert file["models"].keys() <= presets().keys()
    tables = {"core", "train", "report", "task", "control"}
    assert file["all"].keys() <= tables
    for chosen in file["models"].values():
        assert chosen.keys() <= tables | {"sizes"}
        for size, own in chosen.get("sizes", {}).items():
            assert size.isdigit()
            assert own.keys() <= tables


# --- the control signal -------------------------------------------------------------------


def control_of(*arguments: object) -> tuple[Any, bool, list[int]]:
    core = resolved(*arguments)["model"]["core"]
    return core["store"], core["wipe"], core["integrate"]


def test_control_follows_the_task_unless_told_otherwise(tmp_path):
    auto = control_of(*DIGITS)
    assert auto[0]
    assert auto == control_of(*DIGITS, "--control", "auto")
    assert auto == control_of(*DIGITS, "--control", "multi-level")
    flat = (None, False, [])
    assert control_of(*DIGITS, "--control", "flat") == flat
    assert control_of(*RETRIEVAL) == flat
    assert control_of(*RETRIEVAL, "--control", "flat") == flat
    assert control_of(*DIGITS, "--policy", "raster") == flat
    spec = tmp_path / "spec.json"  # a flag is above a config, --set above a flag
    spec.write_text(json.dumps(resolved(*DIGITS)))
    assert control_of("--config", spec, "--control", "flat") == flat
    spec.write_text(json.dumps(resolved(*DIGITS, "--control", "flat")))
    assert control_of("--config", spec) == flat
    assert control_of("--config", spec, "--control", "multi-level") == auto
    assert control_of(*DIGITS, "--control", "flat", "--set", "model.core.store=[1]")[0] == [1]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ((*RETRIEVAL, "--control", "multi-level"), ["--control", "flat", "no levels"]),
        ((*DIGITS, "-m", "lstm", "--control", "multi-level"), ["'lstm' has no store", "flat"]),
        ((*DIGITS, "--policy", "raster", "--control", "multi-level"), ["no levels"]),
        ((*RETRIEVAL, "--control", "multi-levl"), ["'multi-levl'", "mean 'multi-level'"]),
    ],
)
def test_a_control_that_cannot_be_is_refused(arguments, words):
    refused(2, words, "train", *arguments, "--dry-run")


@pytest.mark.parametrize("task", [RETRIEVAL, DIGITS])
@pytest.mark.parametrize("control", ["auto", "flat"])
def test_cells_without_a_store_take_auto_and_flat(task, control):
    core = resolved(*task, "--model", "lstm", "--control", control)["model"]["core"]
    assert "store" not in core


# --- help and lists -----------------------------------------------------------------------


def help_of(verb: str, option: str) -> str:
    """The help text of an option as one line."""
    import typer

    from fwt.cli.main import app

    command = typer.main.get_command(app).commands[verb]
    return next(str(p.help) for p in command.params if option in p.opts)


@pytest.mark.parametrize(
    ("option", "names"),
    [
        ("--task", tasks.TASKS),
        ("--model", presets()),
        ("--backend", backends.BACKENDS),
        ("--memory", FORMS),
        ("--policy", POLICIES),
    ],
)
def test_help_written_by_hand_names_what_the_registries_have(option, names):
    text = help_of("train", option)
    assert all(name in text for name in names), text


def test_list_is_the_registries():
    found = good("list", "--json").json
    assert found["tasks"] == list(tasks.TASKS)
    assert found["models"] == list(presets())
    assert found["backends"] == list(backends.BACKENDS)
    assert found["memory"] == list(FORMS)
    assert found["policies"] == list(POLICIES)
    assert found["datasets"] == list(NAMES)
    shown = good("list").out
    assert all(name in shown for names in found.values() for name in names)


def test_doctor_tells_versions_devices_memory_and_precision():
    found = good("doctor", "--json").json
    assert found["precision"].startswith("highest")
    assert list(found["backends"]) == list(backends.BACKENDS)
    numpy = found["backends"]["numpy"]
    assert (numpy["ready"], numpy["devices"], numpy["numpy"]) == (True, ["cpu"], np.__version__)
    assert numpy["memory_gib"] > 0
    assert numpy["fused"] == {"cpu": "none: the equations alone"}
    shown = good("doctor").out
    for word in ("python", "precision highest", "numpy", np.__version__, "cpu", "GiB"):
        assert word in shown


def test_data_shows_sizes_and_examples():
    done = good("data", "retrieval", "--pairs", 2, "--show", 2, "--split", "val", "--json")
    found = done.json
    assert found["examples"] == {"train": 100_000, "val": 10_000, "test": 20_000}
    assert (found["steps"], found["classes"], found["chance_error_pct"]) == (7, 10, 90.0)
    assert len(found["shown"]) == 2
    for text in found["shown"]:
        string, answer = text.split(" -> ")
        assert string[string.index(string[-1]) + 1] == answer
    shown = good("data", "retrieval", "--pairs", 2, "--show", 2, "--split", "val").out
    assert shown.splitlines()[1:] == found["shown"]
    assert "100,000 train, 10,000 val, 20,000 test" in shown
    digits = good("data", "mnist-glimpse", "--dataset", "mnist-subset", "--show", 1)
    assert digits.out.startswith("mnist-subset: 4,000 train, 1,000 val, 1,000 test; T = 24")
    assert len(digits.out.splitlines()) == 1 + 28 + 1


def test_every_cell_has_a_model_that_is_its_plain_self():
    """`name_of` finds a name for every core."""
    assert {fields["kind"] for fields in presets().values()} == set(cells())
    for kind in cells():
        assert {"kind": kind} in list(presets().values())


def test_a_word_alone_shows_the_help_and_is_a_usage_error():
    done = fwt()
    assert done.code == 2
    assert "fwt [OPTIONS] COMMAND" in done.out + done.err
