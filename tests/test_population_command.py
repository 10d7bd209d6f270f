"""`fwt train` with lists: folders, results, errors, and the combinations that lists stand for."""

from __future__ import annotations

import json
from itertools import product
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt import lists
from tests.cli_tools import SMALL, TINY, clean_environment, fwt, good, refused, snapshot
from tests.conftest import need
from tests.equal_runs import metrics
from tests.tolerances import assert_close


@pytest.fixture(autouse=True)
def _clean(monkeypatch: pytest.MonkeyPatch) -> None:
    clean_environment(monkeypatch)


# --- the command --------------------------------------------------------------------------

SEEDS = (*TINY, "--backend", "torch", "--dropout", "0.1", "--eval-every", "4", "--save-every", "3")


def names(root: Path) -> list[str]:
    return sorted(path.name for path in root.iterdir())


def test_the_folders_are_those_of_lone_runs(tmp_path: Path) -> None:
    lone, many = tmp_path / "lone", tmp_path / "many"
    values = list(product(("0", "3"), ("0.001", "0.01"), ("0.9", "0.5")))
    for seed, lr, decay in values:
        own = ("--seed", seed, "--lr", lr, "--decay", decay, "--runs-dir", lone)
        good("train", *SEEDS, *own, "--quiet")
    given = ("--seeds", "0,3", "--lr", "1e-3,1e-2", "--decay", "0.9,0.5")
    done = good("train", *SEEDS, *given, "--runs-dir", many, "--quiet", "--json")
    lone, many = lone / "retrieval", many / "retrieval"
    assert names(lone) == names(many)
    assert len(names(many)) == len(values)
    for name in names(lone):
        one, other = lone / name, many / name
        assert set(snapshot(one)) == set(snapshot(other))
        assert (one / "spec.json").read_bytes() == (other / "spec.json").read_bytes()
        assert [list(row) for row in metrics(one)] == [list(row) for row in metrics(other)]
        results = [json.loads((path / "DONE").read_text()) for path in (one, other)]
        assert list(results[0]) == list(results[1])
        for key in ("val", "test"):
            wanted, got = (result[key]["loss"] for result in results)
            assert_close(key, wanted, got, "training losses", "float32", "population")
        sessions = [json.loads((p / "run.json").read_text())["sessions"] for p in (one, other)]
        assert sessions[1][0].keys() == sessions[0][0].keys() | {"members"}
        assert sessions[1][0]["exit"] == "done"
    check_statistics(done.json, many)


def check_statistics(found: dict[str, Any], root: Path) -> None:
    members = found["members"]
    assert [Path(each["run"]) for each in members[:1]] == [root / Path(members[0]["run"]).name]
    assert sorted(Path(each["run"]).name for each in members) == names(root)
    assert members[0]["label"] == "seed=0 lr=0.001 decay=0.9"
    errors = [json.loads((root / n / "DONE").read_text())["test"]["error_pct"] for n in names(root)]
    assert found["n"] == len(errors)
    assert found["mean"] == pytest.approx(np.mean(errors))
    assert found["sd"] == pytest.approx(np.std(errors, ddof=1))
    labels = [f"lr={lr} decay={decay}" for lr, decay in product((0.001, 0.01), (0.9, 0.5))]
    assert [each["label"] for each in found["settings"]] == labels
    for each in found["settings"]:
        seeds = [m["test"]["error_pct"] for m in members if m["label"].endswith(each["label"])]
        assert (each["n"], each["mean"]) == (2, pytest.approx(np.mean(seeds)))


def test_one_member_goes_on_alone_and_ends_where_the_lone_run_ends(tmp_path: Path) -> None:
    good("train", *SEEDS, "--seed", 4, "--out", tmp_path / "lone")
    root = tmp_path / "many"
    done = good("train", *SEEDS, "--seeds", "3-5", "--stop-after", 2, "--out", root)
    assert done.out.count("stopped at step 2 of 6") == 3
    assert "mean" not in done.out
    mine = next(root / name for name in names(root) if "-s4-" in name)
    others = {name: snapshot(root / name) for name in names(root) if "-s4-" not in name}
    good("train", "--resume", mine)
    assert {name: snapshot(root / name) for name in others} == others
    want, got = (json.loads((p / "DONE").read_text()) for p in (tmp_path / "lone", mine))
    assert_close(
        "test",
        want["test"]["loss"],
        got["test"]["loss"],
        "training losses",
        "float32",
        "population",
    )
    assert [list(row) for row in metrics(tmp_path / "lone")] == [list(row) for row in metrics(mine)]


def test_a_result_for_people_has_a_line_for_each_run(tmp_path: Path) -> None:
    done = good("train", *SEEDS, "--seeds", "0-2", "--out", tmp_path / "r")
    shown = done.out.splitlines()
    assert [line.split()[0] for line in shown] == [
        "dataset",
        *(f"seed={i}" for i in range(3)),
        "all",
    ]
    found = [json.loads((tmp_path / "r" / n / "DONE").read_text()) for n in names(tmp_path / "r")]
    errors = [each["test"]["error_pct"] for each in found]
    assert f"mean error {np.mean(errors):.2f}%  sd {np.std(errors, ddof=1):.2f}%" in shown[-1]
    assert "n = 3" in shown[-1]
    assert done.err.count("  val ") == 2  # not one for each run


@pytest.mark.parametrize(
    ("given", "rows"),
    [
        (("--lr", "1e-3,1e-2"), ["all"]),
        (("--lr", "1e-3,1e-2", "--seeds", "0,1"), ["lr=0.001", "lr=0.01", "all"]),
    ],
)
def test_settings_that_several_runs_share_have_a_line(
    given: tuple[str, ...], rows: list[str], tmp_path: Path
) -> None:
    done = good("train", *SEEDS, *given, "--out", tmp_path / "r", "--quiet")
    assert [line.split()[0] for line in done.out.splitlines() if " mean error " in line] == rows


def test_divergence_is_told_last_and_by_the_exit_code(tmp_path: Path) -> None:
    done = fwt("train", *SEEDS, "--lr", "1e-3,1e30", "--out", tmp_path / "r", "--json", "--quiet")
    assert done.code == 5
    (line,) = done.err.splitlines()
    for word in ("error: 1 of 2 runs diverged", "lr=1e+30", "expected finite numbers"):
        assert word in line
    first, second = done.json["members"]
    assert (first["done"], second["done"]) == (True, False)
    assert (done.json["n"], done.json["sd"]) == (1, None)
    exits = [
        json.loads((Path(each["run"]) / "run.json").read_text())["sessions"][0]["exit"]
        for each in (first, second)
    ]
    assert exits[0] == "done"
    assert exits[1].startswith("DivergedError (exit 5): ")


def test_a_folder_that_is_taken_stops_all_before_any_is_made(tmp_path: Path) -> None:
    good("train", *SEEDS, "--seeds", "2,3", "--out", tmp_path / "r")
    before = snapshot(tmp_path)
    words = ["1 of 3 folders exist", "-s2-torch", "fwt train --resume", "--out"]
    refused(2, words, "train", *SEEDS, "--seeds", "0-2", "--out", tmp_path / "r")
    assert snapshot(tmp_path) == before


def test_what_a_killed_process_left_of_a_first_file_takes_no_folder(tmp_path: Path) -> None:
    need("torch")
    lists = ("train", *SEEDS, "--seeds", "0-1", "--quiet", "--stop-after", 1)
    good(*lists, "--out", tmp_path / "names")
    folder = tmp_path / "many" / names(tmp_path / "names")[1]
    folder.mkdir(parents=True)
    (folder / ".lock").touch()
    (folder / ".spec.json.partial").write_text("{")
    good(*lists, "--out", tmp_path / "many")
    assert names(tmp_path / "many") == names(tmp_path / "names")
    assert (folder / "last").read_text() == "step-00000001\n"


def test_memory_is_checked_for_all_members(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    kind = type(need("torch"))
    monkeypatch.setattr(kind, "memory_bytes", lambda self, device: 20_000_000)
    good("train", *SEEDS, "--out", tmp_path / "one")
    words = ["memory: the run needs about", "torch"]
    refused(2, words, "train", *SEEDS, "--seeds", "0-199", "--out", tmp_path / "many")
    assert names(tmp_path) == ["one"]


# --- lists in settings --------------------------------------------------------------------

TASK = ("--task", "retrieval", *SMALL)


def dry(*arguments: object) -> list[dict[str, Any]]:
    """The specs of a dry run."""
    found = good("train", *TASK, *arguments, "--dry-run").json
    specs: list[dict[str, Any]] = found.get("members", [found])
    return specs


def seeds(*arguments: object) -> list[int]:
    return [spec["train"]["seed"] for spec in dry(*arguments)]


def test_seeds_are_ranges_and_numbers() -> None:
    assert seeds("--seeds", "0-3") == [0, 1, 2, 3]
    assert seeds("--seeds", "0,3,7") == [0, 3, 7]
    assert seeds("--seeds", "9, 2-4,0") == [9, 2, 3, 4, 0]
    assert seeds("--seeds", "-2-1") == [-2, -1, 0, 1]
    assert seeds("--seeds", "5") == [5]
    assert "members" not in good("train", *TASK, "--seeds", "5", "--dry-run").json


def test_members_are_the_product_of_the_lists() -> None:
    given = ("--rate", "0.1,0.2", "--seeds", "1,2", "--decay", "0.5,1", "--lr", "1e-3,2e-3,3e-3")
    found = [
        (
            s["train"]["seed"],
            s["train"]["lr"],
            s["model"]["core"]["decay"],
            s["model"]["core"]["rate"],
        )
        for s in dry(*given)
    ]
    assert found == list(product((1, 2), (1e-3, 2e-3, 3e-3), (0.5, 1.0), (0.1, 0.2)))


def test_lists_follow_the_order_of_the_layers(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = tmp_path / "c.toml"
    config.write_text("[train]\nlr = [0.5, 0.25]\n")

    def rates(*arguments: object) -> list[float]:
        return [spec["train"]["lr"] for spec in dry("--config", config, *arguments)]

    assert rates() == [0.5, 0.25]
    monkeypatch.setenv("FWT_LR", "0.1,0.2,0.3")
    assert rates() == [0.1, 0.2, 0.3]
    assert rates("--lr", "1") == [1.0]
    assert rates("--set", "train.lr=[2, 3]", "--lr", "1") == [2.0, 3.0]
    assert rates("--set", "train.lr=2", "--lr", "1,4") == [2.0]
    monkeypatch.setenv("FWT_SEED", "8")
    assert seeds("--seeds", "1,2", "--lr", "1") == [1, 2]


REFUSED: list[tuple[list[str], tuple[object, ...]]] = [
    (["--seeds", "whole numbers and ranges", "'x'", "0-15"], ("--seeds", "x")),
    (["--seeds", "'5-2'"], ("--seeds", "0,5-2")),
    (["--seeds", "got ''"], ("--seeds", "1,,2")),
    (["--seeds", "'1.5'"], ("--seeds", "1.5")),
    (["at most 1000", "1000000001"], ("--seeds", "0-1000000000")),
    (["at most 1000", "train.seed x train.lr"], ("--seeds", "0-600", "--lr", "1,2")),
    (["each combination once", "seed=1"], ("--seeds", "0-2,1")),
    (["each combination once", "lr=0.001"], ("--lr", "1e-3,0.001")),
    (["--seeds", "--seed", "got both"], ("--seeds", "0-2", "--seed", "1")),
    (["--lr", "numbers separated by commas", "'1e-3,'", "0.001,0.002"], ("--lr", "1e-3,")),
    (["--rate", "'fast'"], ("--rate", "fast")),
    (["--lr", "'1,5e-3'", "write 1.5e-3", "for two 1.0,5e-3"], ("--lr", "1,5e-3")),
    (["--lr", "'1e-3,2,5E-3'", "write 2.5E-3"], ("--lr", "1e-3,2,5E-3")),
    (["--decay", "'0,9'", "write 0.9"], ("--decay", "0,9")),
    (["train.lr", "got train.lr=-1.0"], ("--lr", "1e-3,-1")),
    (["decay", "expected at most 1", "decay=1.5"], ("--decay", "0.5,1.5")),
    (["unknown key 'decay'"], ("--decay", "0.5,0.9", "--model", "lstm")),
    (["train.seed", "expected a whole number"], ("--set", 'train.seed=[1, "x"]')),
    (["train.seed", "expected a whole number"], ("--set", "train.seed=[]")),
    (["train.clip", "expected a number"], ("--set", "train.clip=[1, 2]")),
]


@pytest.mark.parametrize(("words", "wrong"), REFUSED, ids=lambda part: str(part)[:40])
def test_lists_that_cannot_be_are_refused(words: list[str], wrong: tuple[object, ...]) -> None:
    refused(2, words, "train", *TASK, *wrong, "--dry-run")


def test_a_list_is_no_setting_of_a_run_that_goes_on(tmp_path: Path) -> None:
    good("train", *SEEDS, "--stop-after", 1, "--out", tmp_path / "r")
    words = ["has another spec", "train.seed=0", "train.seed=[0, 1]"]
    refused(2, words, "train", "--resume", tmp_path / "r", "--seeds", "0,1")


def test_every_flag_that_takes_a_list_has_a_place_for_it() -> None:
    from fwt.keys import KEYS

    assert {KEYS[name] for name in lists.PARSERS} == set(lists.AXES)
