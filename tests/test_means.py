"""Means over seeds of unequal length and report interval: every place, and how many seeds."""

from __future__ import annotations

import json

import pytest

from fwt.plots.means import mean_of, seeds_of
from tests.cli_tools import TINY, clean_environment, good, refused
from tests.conftest import need

LONG = [(10.0, 80.0), (20.0, 60.0), (30.0, 40.0)]


def test_seeds_that_end_earlier_are_in_the_mean_as_far_as_they_go():
    found = mean_of([LONG, [(10.0, 90.0), (20.0, 50.0)]])
    assert found.x == (10.0, 20.0, 30.0)
    assert found.middle == (85.0, 55.0, 40.0)
    assert (found.low, found.high) == ((80.0, 50.0, 40.0), (90.0, 60.0, 40.0))
    assert found.n == (2, 2, 1)
    assert seeds_of(found.x, found.n) == "2 seeds to 20, 1 to 30"


def test_other_intervals_meet_on_the_lines_between_points():
    found = mean_of([LONG, [(5.0, 90.0), (15.0, 70.0), (25.0, 30.0)]])
    assert found.x == (5.0, 10.0, 15.0, 20.0, 25.0, 30.0)
    assert found.middle == (90.0, 80.0, 70.0, 55.0, 40.0, 40.0)
    assert found.n == (1, 2, 2, 2, 2, 1)
    assert seeds_of(found.x, found.n) == "1 seed to 5, 2 to 25, 1 to 30"


def test_seeds_of_the_same_places_are_what_they_were_and_none_is_nothing():
    found = mean_of([LONG, LONG, []])
    assert found.middle == found.low == found.high == (80.0, 60.0, 40.0)
    assert seeds_of(found.x, found.n) == "2 seeds"
    assert mean_of([[]]).x == mean_of([]).x == ()


@pytest.fixture(name="runs", scope="module")
def _runs(tmp_path_factory):
    """A run to its end, one stopped early with other intervals, and one that told nothing yet."""
    need("torch")
    pytest.importorskip("matplotlib")
    root = tmp_path_factory.mktemp("runs")
    asked = (*TINY, "--backend", "torch", "--quiet")
    with pytest.MonkeyPatch.context() as patch:
        clean_environment(patch)
        good("train", *asked, "--log-every", 2, "--eval-every", 2, "--out", root / "whole")
        more = ("--seed", 1, "--log-every", 1, "--eval-every", 3, "--stop-after", 4)
        good("train", *asked, *more, "--out", root / "part")
        more = ("--seed", 2, "--log-every", 5, "--stop-after", 1)
        good("train", *asked, *more, "--out", root / "new")
    return root


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def errors(run):
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    return {line["step"]: line["error_pct"] for line in lines if line["split"] == "val"}


def test_a_picture_has_all_that_is_there_and_says_what_is_not(runs, tmp_path):
    out = tmp_path / "curves.svg"
    words = ("plot", runs / "whole", runs / "part", runs / "new", "-o", out)
    whole, part = errors(runs / "whole"), errors(runs / "part")
    assert (sorted(whole), sorted(part)) == ([2, 4, 6], [3])
    found = good(*words, "--json").json
    (curve,) = found["curves"]
    assert curve["steps"] == curve["x"] == [2, 3, 4, 6]
    assert curve["n"] == [1, 2, 1, 1]
    between = (whole[2] + whole[4]) / 2
    assert curve["middle"] == pytest.approx([whole[2], (between + part[3]) / 2, whole[4], whole[6]])
    assert curve["last"] == [[6, whole[6]], [3, part[3]]]
    assert found["left_out"] == [str(runs / "new")]
    told = good(*words).out.splitlines()
    assert told[0] == (
        f"fast-weights R=4  seeds 0, 1  last {whole[6]:.4g}, {part[3]:.4g} after 6, 3 updates  "
        "mean of 1 seed to 2, 2 to 3, 1 to 6"
    )
    assert told[1] == f"left out  {runs / 'new'}: no line of error on the split val yet"
    assert "(1 seed to 2, 2 to 3, 1 to 6)" in out.read_text()


def test_one_that_told_nothing_does_not_hide_the_others(runs, tmp_path):
    found = good("plot", runs, "-o", tmp_path / "x.svg", "--json").json
    assert [curve["seeds"] for curve in found["curves"]] == [[1, 0]]
    words = ("no run of 1 has a line of error on the split val yet",)
    refused(2, words, "plot", runs / "new", "-o", tmp_path / "y.svg")


def test_a_lone_point_has_its_number_beside_it(runs, tmp_path):
    out = tmp_path / "dot.svg"
    good("plot", runs / "part", "-o", out)
    assert f"<!-- {errors(runs / 'part')[3]:.4g} -->" in out.read_text()


def test_the_report_says_the_same(runs, tmp_path):
    out = tmp_path / "report.html"
    words = ("--hardest", 0, "--backends", "numpy,torch", "-o", out)
    good("report", runs, *words)
    text = out.read_text()
    whole, part = errors(runs / "whole"), errors(runs / "part")
    assert f"fast-weights R=4: {part[3]:.4g}, {whole[6]:.4g} after 3, 6 updates" in text
    assert "(1 seed to 2, 2 to 3, 1 to 6)" in text
    assert f"Nothing was validated yet in {runs / 'new'}." in text
