"""The trained networks in `checkpoints/` are whole, and answer on every backend as when shipped."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from fwt.backends.contract import Backend
from fwt.fwcore.storage.checkpoint import Checkpoint, read, sha256
from fwt.fwcore.storage.runs import RunFolder, default_path
from fwt.fwcore.training.batches import Split
from tests.cli_tools import good
from tests.reproduce_tools import SHORT, here, tiny_cells
from tools import ship_checkpoints as shipping

FOLDER = shipping.FOLDER
KNOWN = json.loads((FOLDER / shipping.INDEX).read_text(encoding="utf-8"))


@cache
def at_hand(name: str) -> tuple[Checkpoint, Split]:
    found = read(FOLDER / name)
    return found, shipping.slice_of(found)[1]


def test_the_index_names_every_file_and_its_hash() -> None:
    files = {path for path in FOLDER.rglob("*") if path.is_file() and path.parent != FOLDER}
    hashes = {str(path.relative_to(FOLDER)): sha256(path) for path in files}
    assert hashes == {
        f"{name}/{file}": known
        for name, each in KNOWN.items()
        for file, known in each["sha256"].items()
    }
    for name, each in KNOWN.items():
        assert "optimizer.safetensors" not in each["sha256"]  # three times the size, for no answer
        assert {"model.safetensors", "spec.json", "metrics.jsonl", "run.json", "parity.json",
                "README.md"} <= each["sha256"].keys()  # fmt: skip
        sizes = [(FOLDER / name / file).stat().st_size for file in each["sha256"]]
        assert each["bytes"] == sum(sizes)


def test_together_they_are_small() -> None:
    size = sum(path.stat().st_size for path in FOLDER.rglob("*") if path.is_file())
    assert size < 20_000_000


@pytest.mark.parametrize("name", KNOWN)
def test_every_backend_answers_as_when_it_was_shipped(
    name: str, backend: Backend, eager: None
) -> None:
    found, split = at_hand(name)
    known = KNOWN[name]["slice"]
    assert len(split) == known["examples"] == (2000 if "retrieval" in name else 1000)
    assert shipping.wrong_of(backend.name, found, split) == known["wrong"]
    # on so many examples the error of a right network is near that of the whole split
    assert abs(100 * known["wrong"] / known["examples"] - KNOWN[name]["test_error_pct"]) < 2


@pytest.mark.parametrize("name", KNOWN)
def test_the_comparison_is_of_these_weights_and_holds(name: str) -> None:
    parity = json.loads((FOLDER / name / shipping.PARITY).read_text(encoding="utf-8"))
    assert parity["sha256"] == KNOWN[name]["sha256"]["model.safetensors"]
    assert [row["backends"] for row in parity["pairs"]] == [
        ["numpy", "torch"], ["numpy", "mlx"], ["torch", "mlx"]
    ]  # fmt: skip
    assert all(row["ok"] for row in parity["pairs"])


@pytest.mark.parametrize("name", KNOWN)
def test_index_and_card_say_what_the_files_say(name: str) -> None:
    path, known = FOLDER / name, KNOWN[name]
    facts = shipping.facts(path)
    assert facts == {key: known[key] for key in facts}
    assert name == f"{facts['task']}-{facts['model']}-r{facts['size']}"
    compare = json.loads((path / shipping.PARITY).read_text(encoding="utf-8"))
    assert (path / shipping.CARD).read_text(encoding="utf-8") == shipping.card(path, facts, compare)


def test_the_page_of_the_folder_is_that_of_the_index() -> None:
    assert (FOLDER / shipping.CARD).read_text(encoding="utf-8") == shipping.page(KNOWN)


def test_the_first_thing_a_visitor_can_do() -> None:
    path = FOLDER / "retrieval-fast-weights-r20"
    found = good("eval", path, "--backend", "numpy", "--json").json
    assert found["error_pct"] == KNOWN[path.name]["test_error_pct"]


# --- the tool -------------------------------------------------------------------------------


@pytest.fixture(name="tiny")
def _tiny(monkeypatch: Any) -> Any:
    yield from tiny_cells(monkeypatch)


def test_the_seed_with_the_lowest_validation_error_is_shipped(tiny: None, tmp_path: Path) -> None:
    assert here(tmp_path, "--model", "irnn", "--seeds", "0-2").code == 0
    (cell,) = shipping.wanted_cells("retrieval", ["irnn"], [20])
    errors = {}
    for seed in cell.seeds:
        run = default_path(tmp_path / "runs", cell.seeded(seed), "irnn", "torch")
        val = RunFolder(run).read_json("DONE")["val"]
        errors[val["error_pct"], val["loss"]] = run
    run = shipping.best_run(cell, tmp_path / "runs")
    assert run == errors[min(errors)]
    target = shipping.ship(cell, run, tmp_path)
    assert target.name == "retrieval-irnn-r20"
    best = RunFolder(run).best()
    assert sha256(target / "model.safetensors") == sha256(best / "model.safetensors")
    assert read(target).spec == RunFolder(run).read_spec()
    words = json.loads((target / "run.json").read_text())["sessions"][0]["argv"]
    assert not {"--runs-dir", str(tmp_path / "runs")} & set(words)
    facts = shipping.facts(target)
    assert (facts["steps"], facts["published_pct"]) == (SHORT["train.steps"], 62.11)
    assert shipping.best_run(cell, tmp_path / "nothing") is None
