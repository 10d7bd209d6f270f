"""`fwt report`: its numbers, what it escapes and refuses, and the page in a real browser."""

from __future__ import annotations

import html
import json
import re
import shlex
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt import backends, tasks
from fwt.execute.batch import work
from fwt.fwcore.storage.runs import find_checkpoint
from fwt.fwcore.training.group import Hooks
from fwt.sweep.result import Tried
from tests.browser import DESKTOP, PHONE, Seen, visit
from tests.cli_tools import TINY, TINY_BASE, clean_environment, good, refused
from tests.conftest import need

BOTH = ("--backends", "numpy,torch")
TRAINED = ("--backend", "torch", "--quiet", "--eval-every", 2)
GLIMPSES = ("--task", "mnist-glimpse", "--dataset", "mnist-subset", "--size", 4, "--steps", 2)
SWEEP = f"""
name = "tiny"
task = "retrieval"
backend = "torch"
{TINY_BASE}steps = 6
eval_every = 2
[axes]
model = ["lstm", "irnn"]
lr = [1e-3, 1e-2]
seed = "0-1"
"""
HOSTILE = "<script>document.title='owned'</script><img src=http://x.invalid/a.png>$\\frac{"


@pytest.fixture(autouse=True)
def _clean(monkeypatch):
    clean_environment(monkeypatch)


def lone(found: Any, *_: object) -> dict[str, list[Tried]]:
    """What a sweep does on a cluster, in this process."""
    tried: dict[str, list[Tried]] = {}
    for group in found.plan.groups:
        for setting in group.settings:
            jobs = found.jobs_of(group, setting)
            outcomes = tuple(work([job], Hooks())[0] for job in jobs)
            tried.setdefault(group.label, []).append(Tried(setting, outcomes))
    return tried


@pytest.fixture(scope="module", name="root")
def _root(tmp_path_factory) -> Path:
    """Runs of both tasks, and a sweep; and a page of each and of several."""
    need("torch")
    root = tmp_path_factory.mktemp("report")
    patch = pytest.MonkeyPatch()
    clean_environment(patch)
    patch.setattr("fwt.sweep.run.Sweep._try_all", lone)
    wide = ("--size", 20)  # one of the published table
    good("train", *TINY, *wide, *TRAINED, "--out", root / "strings")
    good("train", *TINY, *wide, *TRAINED, "--seed", 1, "--out", root / "seed1")
    good("train", *TINY, *wide, *TRAINED, "--model", "lstm", "--out", root / "lstm")
    good("train", *GLIMPSES, *TRAINED, "--out", root / "glimpses")
    (root / "tiny.toml").write_text(SWEEP)
    good("sweep", root / "tiny.toml", "--runs-dir", root / "runs", "--quiet")
    for name, more in {
        "strings": [root / "strings", "--hardest", 2],
        "glimpses": [root / "glimpses", "--hardest", 1],
        "sweep": [root / "runs" / "sweeps" / "tiny"],
        "several": [*(root / name for name in ("strings", "seed1", "lstm")), "--hardest", 1],
    }.items():
        done = good("report", *more, *BOTH, "-o", root / f"{name}.html", "--json")
        (root / f"{name}.json").write_text(done.out)
    patch.undo()
    return root


PAGES = ("strings", "glimpses", "sweep", "several")


def told(root: Path, name: str) -> Any:
    """What was printed with a page."""
    return json.loads((root / f"{name}.json").read_text())


def stored(run: Path) -> Any:
    return json.loads((run / "DONE").read_text())


# --- the page in a browser ----------------------------------------------------------------

# every text that is seen: its size in pixels and its contrast to what is behind it (WCAG 2.2)
TEXTS = """() => {
  const parts = colour => colour.match(/[\\d.]+/g).map(Number);
  const light = ([r, g, b]) => [r, g, b].map(v => v / 255).map(
    v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4
  ).reduce((sum, v, n) => sum + v * [0.2126, 0.7152, 0.0722][n], 0);
  const behind = element => {
    for (let at = element; at; at = at.parentElement) {
      const found = parts(getComputedStyle(at).backgroundColor);
      if (found.length === 3 || found[3] === 1) return found;
    }
    return [255, 255, 255];
  };
  const found = [];
  for (const element of document.body.querySelectorAll('*')) {
    const text = [...element.childNodes].filter(n => n.nodeType === 3).map(n => n.data).join('');
    if (!text.trim() || !element.getClientRects().length) continue;
    const style = getComputedStyle(element), drawn = element instanceof SVGElement;
    const place = drawn ? element.getScreenCTM() : {a: 1, b: 0};
    const [one, other] = [light(parts(drawn ? style.fill : style.color)), light(behind(element))];
    found.push({
      text: text.trim(), drawn,
      size: parseFloat(style.fontSize) * Math.hypot(place.a, place.b),
      contrast: (Math.max(one, other) + 0.05) / (Math.min(one, other) + 0.05),
    });
  }
  return found;
}"""


def texts(seen: Seen) -> list[dict[str, Any]]:
    """With all that can be opened open."""
    seen.page.evaluate("document.querySelectorAll('details').forEach(each => each.open = true)")
    return list(seen.page.evaluate(TEXTS))


@pytest.mark.parametrize("size", [PHONE, DESKTOP], ids=["phone", "desktop"])
@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_and_fetches_nothing(root, browser, name, size):
    with visit(browser, (root / f"{name}.html").as_uri(), size) as seen:
        for scheme in ("light", "dark"):
            seen.page.emulate_media(color_scheme=scheme)
            found = texts(seen)
            page = seen.page.evaluate("getComputedStyle(document.body).backgroundColor")
            assert (max(map(int, re.findall(r"\d+", page))) < 64) == (scheme == "dark")
            assert len([each for each in found if each["drawn"]]) > 10
            assert [each for each in found if each["size"] < 9] == []
            assert [each for each in found if each["contrast"] < 4.5] == []
        assert (seen.fetched, seen.complaints, seen.overflow()) == ([], [], 0)


@pytest.mark.parametrize("name", PAGES)
def test_pictures_have_words_and_ids_of_their_own(root, browser, name):
    with visit(browser, (root / f"{name}.html").as_uri()) as seen:
        pictures = seen.page.locator("svg")
        named = seen.page.locator("svg[role=img][aria-label]")
        assert pictures.count() == named.count() > 0
        words = [each.get_attribute("aria-label") for each in named.all()]
        assert len(set(words)) == len(words)
        assert all(len(each) > 30 for each in words)
        ids = "[...document.querySelectorAll('[id]')].map(each => each.id)"
        found = seen.page.evaluate(ids)
        assert len(found) == len(set(found))
        used = re.findall(r"url\(#([^)]*)\)|href=\"#([^\"]*)\"", seen.page.content())
        assert {one or other for one, other in used} <= set(found)


def test_wide_tables_scroll_inside_their_own_box(root, browser):
    with visit(browser, (root / "several.html").as_uri(), PHONE) as seen:
        box = "document.querySelector('#table').parentElement"
        assert seen.page.evaluate(f"{box}.scrollWidth > {box}.clientWidth + 50")
        seen.page.evaluate(f"{box}.scrollLeft = 5000")
        assert seen.page.evaluate(f"{box}.scrollLeft") > 50
        assert seen.page.evaluate("window.scrollX") == 0


def cells(seen: Seen, table: str) -> list[dict[str, str]]:
    """The numbers of each row of a table."""
    return list(
        seen.page.eval_on_selector_all(
            f"{table} tbody tr",
            "rows => rows.map(row => Object.fromEntries([...row.querySelectorAll('[data-of]')]"
            ".map(cell => [cell.dataset.of, cell.innerText])))",
        )
    )


def test_every_number_of_the_table_is_that_of_the_stored_run(root, browser):
    expected = []
    for name, published in (("strings", "1.81"), ("seed1", "1.81"), ("lstm", "60.81")):
        weights = find_checkpoint(root / name).params.values()
        done, spec = stored(root / name), json.loads((root / name / "spec.json").read_text())
        expected.append(
            {
                "size": "20",
                "seed": str(spec["train"]["seed"]),
                "test": f"{done['test']['error_pct']:.2f}",
                "published": published,
                "val": f"{done['val']['error_pct']:.2f}",
                "loss": f"{done['val']['loss']:.4f}",
                "best": str(done["best_step"]),
                "steps": "6",
                "parameters": f"{sum(array.size for array in weights):,}",
                "seconds": f"{done['train_s']:.1f}",
            }
        )
    with visit(browser, (root / "several.html").as_uri()) as seen:
        assert cells(seen, "#table") == expected
    assert len({row["test"] + row["loss"] for row in expected}) == 3


def test_the_ranking_is_that_of_the_sweep(root, browser):
    summary = json.loads((root / "runs" / "sweeps" / "tiny" / "summary.json").read_text())
    trials = [trial for group in summary["groups"] for trial in group["trials"]]
    assert len(trials) == 4
    with visit(browser, (root / "sweep.html").as_uri()) as seen:
        found = cells(seen, ".ranking")
        text = seen.page.inner_text("body")
        assert seen.page.locator("svg").count() == 2
    assert found == [
        {
            "val": f"{trial['val_error_pct']:.2f}",
            "sd": f"{trial['val_error_sd']:.2f}",
            "loss": f"{trial['val_loss']:.4f}",
        }
        for trial in trials
    ]
    for group in summary["groups"]:
        assert group["command"] in text


def test_what_a_run_says_is_text_and_nothing_else(root, browser, tmp_path):
    for name in ("one", "two"):
        run = Path(shutil.copytree(root / "lstm", tmp_path / name))
        spec = json.loads((run / "spec.json").read_text())
        spec["recipe"] = HOSTILE
        (run / "spec.json").write_text(json.dumps(spec))
        facts = json.loads((run / "run.json").read_text())
        facts["sessions"][-1] |= {"argv": [HOSTILE], "backend": f"{name} {HOSTILE}"}
        (run / "run.json").write_text(json.dumps(facts))
    page = tmp_path / "<b>hostile" / "page.html"
    good("report", tmp_path / "one", tmp_path / "two", *BOTH, "--hardest", 1, "-o", page)
    assert "<script" not in page.read_text()
    with visit(browser, page.as_uri()) as seen:
        assert (seen.fetched, seen.complaints) == ([], [])
        assert "owned" not in seen.page.title()
        assert seen.page.locator("img").count() == 0
        assert seen.page.inner_text("body").count(HOSTILE) >= 4
        words = seen.page.locator("svg").first.text_content().split()
        assert HOSTILE in " ".join(words)  # a curve is named by it


# --- what is on it ------------------------------------------------------------------------


def test_mistakes_and_hardest_examples_are_those_of_the_network(root):
    run, page = root / "strings", root / "strings.html"
    judged = told(root, "strings")["runs"][0]["judged"]
    found = find_checkpoint(run)
    split = tasks.load(tasks.parse(found.spec.task)).split("val")
    scores = backends.load("numpy").compile(found.spec.model, found.params).forward(split.inputs)
    losses = [
        float(np.log(np.exp(row).sum()) - row[target])
        for row, target in zip(scores, split.targets, strict=True)
    ]
    assert judged["loss"] == pytest.approx(np.mean(losses), rel=1e-9)
    assert judged["loss"] == pytest.approx(stored(run)["val"]["loss"], rel=1e-5)
    assert judged["error_pct"] == stored(run)["val"]["error_pct"]
    counts = np.zeros((10, 10), int)
    for row, target in zip(scores, split.targets, strict=True):
        counts[target, row.argmax()] += 1
    assert judged["confusion"] == counts.tolist()
    assert judged["wrong"] == 64 - np.trace(counts)
    order = sorted(range(64), key=lambda n: -losses[n])
    assert [each["number"] for each in judged["hardest"]] == order[:2]
    for each in judged["hardest"]:
        assert each["loss"] == pytest.approx(losses[each["number"]], rel=1e-9)
        assert each["target"] == str(split.targets[each["number"]])
        assert each["answer"] == str(scores[each["number"]].argmax())
        inspected = good("inspect", run, "--example", each["text"], "--json").json
        assert each["steps"] == inspected["steps"]
        assert f"<code>{each['text']}</code>" in page.read_text()
    picture = page.read_text().partition("Confusion matrix")[2].partition("</svg>")[0]
    shown = [int(text) for text in re.findall(r">(\d+)</text>", picture)]
    assert shown[20:] == counts[counts > 0].tolist()  # after the names of rows and columns


def test_the_split_is_the_one_that_is_asked_for_and_named(root, tmp_path):
    asked = (root / "strings", *BOTH, "--hardest", 0, "-o", tmp_path / "r.html")
    found = good("report", *asked, "--split", "test", "--json").json
    judged = found["runs"][0]["judged"]
    assert (found["split"], judged["examples"], judged["hardest"]) == ("test", 64, [])
    assert judged["error_pct"] == stored(root / "strings")["test"]["error_pct"]
    for path, name in ((tmp_path / "r.html", "test"), (root / "strings.html", "validation")):
        assert re.findall(r"on the (\w+) split, on numpy", path.read_text()) == [name]


def test_parity_is_what_verify_finds(root):
    verified = good("verify", root / "strings", *BOTH, "--split", "val", "--json").json
    (row,) = told(root, "strings")["runs"][0]["parity"]
    assert [row] == verified["pairs"]
    text = (root / "strings.html").read_text()
    assert f"{row['logit_abs']:.2e}" in text
    assert f"{row['logit_rel']:.1e}" in text


def test_one_backend_alone_has_nothing_to_compare(root, tmp_path, monkeypatch):
    monkeypatch.setattr("fwt.backends.installed", lambda name: name == "numpy")
    asked = (root / "strings", "--hardest", 0, "-o", tmp_path / "r.html", "--json")
    found = good("report", *asked).json
    assert found["runs"][0]["parity"] == []
    assert "One backend alone is installed" in (tmp_path / "r.html").read_text()


def test_what_differs_from_the_recipe_is_named(root):
    (run,) = told(root, "strings")["runs"]
    changed = {each["setting"]: (each["recipe"], each["run"]) for each in run["changed"]}
    assert changed == {
        "task.train": (100_000, 256),
        "task.val": (10_000, 64),
        "task.test": (20_000, 64),
        "train.batch_size": (128, 32),
        "train.epochs": (120.0, None),
        "train.lr": (0.0015, 0.001),
        "train.schedule": ("cosine", "constant"),
        "train.steps": (None, 6),
        "report.eval_every": (0, 2),
    }
    assert run["settings"]["model.core.rate"] == 0.02
    text = html.unescape((root / "strings.html").read_text())
    session = json.loads((root / "strings" / "run.json").read_text())["sessions"][0]
    assert shlex.join(["fwt", *session["argv"]]) in text
    for key in ("platform", "python", "torch", "started", "device"):
        assert f'<th scope="row">{key}</th><td class="wide">{session[key]}</td>' in text


def test_glimpses_show_what_is_attended_to(root):
    text = html.unescape((root / "glimpses.html").read_text())
    assert "The last step attends most to coarse" in text
    assert len(re.findall(r">attention -?\d+\.\d\d<", text)) == 4
    assert ">1 fine 0,0<" in text


def test_a_network_without_fast_memory_has_no_attention(root):
    first, _, lstm = told(root, "several")["runs"]
    text = (root / "several.html").read_text()
    assert (first["model"], lstm["model"]) == ("fast-weights", "lstm")
    assert text.count("looked at") == 2
    (example,) = lstm["judged"]["hardest"]
    assert f"<code>{example['text']}</code>" in text.partition('id="run-3"')[2]


def test_the_same_runs_give_the_same_page(root, tmp_path):
    page = tmp_path / "new" / "folder" / "r.html"
    good("report", root / "strings", "--hardest", 2, *BOTH, "-o", page)
    assert page.read_bytes() == (root / "strings.html").read_bytes()
    assert [path.name for path in page.parent.iterdir()] == ["r.html"]


# --- runs that are not done, and what is refused ------------------------------------------


def test_a_run_that_is_not_finished_says_so(stopped, tmp_path):
    shown = good("report", stopped, *BOTH, "--hardest", 0, "-o", tmp_path / "r.html").out
    assert "test error not finished" in shown
    text = (tmp_path / "r.html").read_text()
    assert "Not finished: update 2 of 6." in text
    assert 'data-of="test"><strong><span class="none">none</span>' in text


def test_a_checkpoint_that_ships_is_a_run_that_is_done(root, tmp_path):
    """It has its run's spec.json, run.json and metrics.jsonl, and no DONE."""
    run, shipped = root / "strings", tmp_path / "shipped"
    shutil.copytree(find_checkpoint(run).path, shipped)
    for name in ("spec.json", "run.json", "metrics.jsonl"):
        shutil.copyfile(run / name, shipped / name)
    done = good("report", shipped, "--out", tmp_path / "page.html", *BOTH, "--json").json
    got, wanted = done["runs"][0], told(root, "strings")["runs"][0]
    place = {"run", "checkpoint", "train_s", "judged"}  # seconds are rounded in DONE
    assert got["judged"]["confusion"] == wanted["judged"]["confusion"]
    assert got["train_s"] == pytest.approx(wanted["train_s"], abs=0.05)
    assert {k: got[k] for k in got.keys() - place} == {k: wanted[k] for k in got.keys() - place}


@pytest.fixture(name="new")
def _new(stopped, tmp_path) -> Path:
    """A run that has not begun."""
    run = tmp_path / "new"
    run.mkdir()
    shutil.copy(stopped / "spec.json", run)
    return run


def test_a_run_without_metrics_or_checkpoint_is_a_page_all_the_same(new, tmp_path):
    (found,) = good("report", new, "-o", tmp_path / "r.html", "--json").json["runs"]
    assert (found["state"], found["step"], found["steps"]) == ("not begun", 0, 6)
    assert (found["val"], found["test"], found["judged"]) == (None, None, None)
    text = (tmp_path / "r.html").read_text()
    for words in ("No metrics yet", "No checkpoint yet", "has no <code>run.json</code>"):
        assert words in text


def test_a_sweep_whose_runs_are_gone_keeps_its_ranking(root, tmp_path):
    folder = Path(shutil.copytree(root / "runs" / "sweeps", tmp_path / "sweeps")) / "tiny"
    good("report", folder, "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert text.count("4 of 4 runs have no metrics where the sweep left them") == 2
    assert text.count('class="ranking"') == 2


def test_a_setting_that_failed_comes_last_with_its_reason(root, tmp_path):
    folder = Path(shutil.copytree(root / "runs" / "sweeps", tmp_path / "sweeps")) / "tiny"
    summary = json.loads((folder / "summary.json").read_text())
    trial = summary["groups"][0]["trials"][1]
    trial |= {"val_error_pct": None, "val_loss": None, "val_error_sd": None}
    trial["runs"][0] = {"seed": 0, "run": "x", "failure": "DivergedError: <loss>"}
    (folder / "summary.json").write_text(json.dumps(summary))
    good("report", folder, "-o", tmp_path / "r.html")
    text = (tmp_path / "r.html").read_text()
    assert "DivergedError: &lt;loss&gt;" in text
    assert text.count("failures</th>") == 1
    del summary["groups"][0]["label"]
    (folder / "summary.json").write_text(json.dumps(summary))
    refused(4, ("summary.json", "groups.0.label"), "report", folder, "-o", tmp_path / "s.html")


@pytest.mark.parametrize(
    ("code", "words", "flags"),
    [
        (2, ("--out", "ends in .html"), ("-o", "page.pdf")),
        (2, ("unknown split 'vali'", "did you mean 'val'"), ("--split", "vali")),
        (2, ("--backends: expected two or more",), ("--backends", "numpy")),
        (2, ("unknown name 'torhc'",), ("--backend", "torhc")),
        (4, ("nowhere cannot be read: No such file",), ("nowhere",)),
    ],
)
def test_what_cannot_be_reported_is_one_line_and_no_page(
    root, tmp_path, monkeypatch, code, words, flags
):
    monkeypatch.chdir(tmp_path)
    refused(code, words, "report", root / "strings", *flags)
    assert list(tmp_path.iterdir()) == []


def test_a_page_that_cannot_be_written_is_named(new, tmp_path):
    (tmp_path / "file").write_text("")
    words = (str(tmp_path / "file"), "cannot be made: File exists")
    refused(4, words, "report", new, "-o", tmp_path / "file" / "r.html")


def test_a_missing_package_is_one_line(stopped, tmp_path, monkeypatch):
    monkeypatch.setattr("fwt.cli.drawing.find_spec", lambda name: None)
    words = ("report: matplotlib is not installed", "pip install 'fwt[plots]'")
    refused(3, words, "report", stopped, "-o", tmp_path / "r.html")
