"""What a sweep file asks for: groups, settings, runs, commands; and what it is refused for."""

from __future__ import annotations

import shlex
from itertools import product
from pathlib import Path
from typing import Any, cast

import pytest

from fwt.execute.batch import group_by_shape
from fwt.execute.cluster import Dask
from fwt.execute.executor import Cluster
from fwt.fwcore.spec import RunSpec
from fwt.jobs import Job
from fwt.keys import KEYS
from fwt.sweep.plan import NAMES, SearchSpec
from fwt.sweep.study import Search, Trial, connect
from tests.cli_tools import ROOT, clean_environment, good, refused
from tests.option_samples import SAMPLES, at

HEAD = 'name = "one"\ntask = "retrieval"\nbackend = "torch"\n'
SEARCH = "[search]\ntrials = 3\n[search.space]\n"


@pytest.fixture(autouse=True)
def _clean(monkeypatch, tmp_path):
    clean_environment(monkeypatch)
    monkeypatch.setenv("FWT_RUNS_DIR", str(tmp_path / "runs"))


def write(folder: Path, text: str) -> Path:
    path = folder / "sweep.toml"
    path.write_text(text)
    return path


def planned(folder: Path, text: str) -> dict[str, Any]:
    """What `--dry-run` finds in a sweep file; nothing is written."""
    found = good("sweep", write(folder, HEAD + text), "--dry-run", "--json").json
    assert [path.name for path in folder.iterdir()] == ["sweep.toml"]
    return found


def test_a_grid_is_the_product_of_its_axes(tmp_path):
    text = """
    [base]
    epochs = 2
    "train.beta1" = 0.8
    train = { clip = 0.5 }
    [axes]
    model = ["lstm", "irnn"]
    R = [4, 6]
    lr = [1e-3, 2e-3]
    "train.beta2" = [0.9]
    seed = "0-1,5"
    """
    found = planned(tmp_path, text)
    names = [f"{model} R={size}" for model, size in product(("lstm", "irnn"), (4, 6))]
    assert [group["label"] for group in found["groups"]] == names
    settings = [{"lr": lr, "train.beta2": 0.9} for lr in (1e-3, 2e-3)]
    assert all(group["settings"] == settings for group in found["groups"])
    assert (found["runs"], found["done"]) == (24, 0)
    seen = [
        (
            spec["model"]["core"]["kind"],
            spec["model"]["core"]["size"],
            spec["train"]["lr"],
            spec["train"]["seed"],
        )
        for spec in found["specs"]
    ]
    assert seen == list(product(("lstm", "rnn"), (4, 6), (1e-3, 2e-3), (0, 1, 5)))
    for spec in found["specs"]:
        train = spec["train"]
        assert (train["epochs"], train["clip"], train["beta1"], train["beta2"]) == (
            2,
            0.5,
            0.8,
            0.9,
        )
    # LSTM of 4: embedding 37 x 100, four gates of 4 x (100 + 4 + 1), ReLU and readout: counted
    lone = good("train", "--task", "retrieval", "--model", "lstm", "--size", 4, "--dry-run").json
    assert lone["model"] == found["specs"][0]["model"]


def test_the_number_of_parameters_is_that_of_the_weights(tmp_path):
    from fwt.initial import first_weights

    found = planned(tmp_path, '[axes]\nmodel = ["lstm", "gru"]\nsize = [4]\n')
    for group, spec in zip(found["groups"], found["specs"], strict=True):
        weights = first_weights(RunSpec.parse(spec, "spec")).weights
        assert group["parameters"] == sum(array.size for array in weights.values())


@pytest.mark.parametrize("name", sorted({*KEYS} - {"seeds", "dataset", "policy", "init_layout"}))
def test_every_flag_of_train_is_a_name_of_base(name, tmp_path):
    path, (value, _) = KEYS[name], SAMPLES[name]
    text = f'"{value}"' if isinstance(value, str) else value
    (spec,) = planned(tmp_path, f"[base]\n{name} = {text}\n")["specs"]
    assert at(spec, path) == value
    assert NAMES[name] == path


def test_settings_that_differ_in_the_task_are_not_compared(tmp_path):
    found = planned(tmp_path, "[axes]\npairs = [2, 4]\nlr = [1e-3, 2e-3]\n")
    labels = ["fast-weights R=20 pairs=2", "fast-weights R=20 pairs=4"]
    assert [group["label"] for group in found["groups"]] == labels
    assert [len(group["settings"]) for group in found["groups"]] == [2, 2]


def test_a_search_has_one_budget_for_each_group(tmp_path):
    text = '[axes]\nmodel = ["lstm", "irnn"]\nsize = [4, 6]\nseed = "0-2"\n'
    path = write(tmp_path, HEAD + text + SEARCH + "lr = { low = 1e-4, high = 1e-2, log = true }\n")
    shown = good("sweep", path, "--dry-run").out
    assert shown.count("3 settings x 3 seeds") == 4
    assert "budget    the same for each of 4 groups: tpe, 3 trials in batches of 4, seed 0" in shown
    assert "runs      36;" in shown


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("[axis]\nlr = [1]\n", ["unknown key 'axis'", "'axes'"]),
        ("[axes]\nlrr = [1]\n", ["axes: unknown name 'lrr'", "did you mean 'lr'"]),
        ('[base]\n"train.beat2" = 0.9\n', ["'train.beat2'", "did you mean 'beta2'"]),
        ('[axes]\nmodel = ["lstn"]\n', ["'lstn'", "did you mean 'lstm'"]),
        ("[axes]\nlr = [1e-3, 1e-3]\n", ["each once", "lr=[0.001, 0.001]"]),
        ('[axes]\nlr = [1]\n"train.lr" = [2]\n', ["'lr' and 'train.lr' are the same"]),
        ('[base]\nlr = 1\n"train.lr" = 2\n', ["train.lr twice"]),
        ("[axes]\neval_every = [1]\n", ["'eval_every'", "[base]"]),
        ("[axes]\nseed = [0.5]\n", ["whole numbers", "seed=[0.5]"]),
        ('[axes]\nseed = "3-1"\n', ["'3-1'", "0-15"]),
        ('[axes]\nmodel = ["lstm"]\nrate = [0.1]\n', ["unknown key 'rate'"]),
        ('[axes]\nmodel = ["rnn", "rnn "]\n', ["'rnn '"]),
        ('[axes]\nseed = "0-900"\nlr = [1,2,3,4,5,6,7,8,9,10,11,12]\n', ["10000", "10812"]),
        (f"[axes]\nlr = [1]\n{SEARCH}clip = [1.0]\n", ["'lr'", "[search.space]"]),
        (f"{SEARCH}size = [4]\n", ["'size'", "[axes]"]),
        (f"{SEARCH}lr = {{ lo = 1, high = 2 }}\n", ["'lo'", "did you mean 'low'"]),
        (f"{SEARCH}lr = {{ low = 3, high = 2 }}\n", ["low <= high", "low=3.0"]),
        (f"{SEARCH}lr = {{ low = 0, high = 2, log = true }}\n", ["low > 0"]),
        (f"{SEARCH}lr = 3\n", ["lr=3"]),
        (f"{SEARCH}dropout = {{ low = 0, high = 1 }}\n", ["train.dropout", "number below 1"]),
        (f'{SEARCH}schedule = ["cosine", "cosin"]\n', ["'cosin'", "did you mean 'cosine'"]),
        (f"{SEARCH}batch_size = {{ low = 1.5, high = 3, integer = true }}\n", ["whole bounds"]),
        ('population = "some"\n', ["population='some'"]),
    ],
)
def test_what_cannot_be_is_refused_with_what_was_meant(text, words, tmp_path):
    refused(2, words, "sweep", write(tmp_path, HEAD + text), "--dry-run")


def test_a_file_that_is_none_is_refused(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    refused(4, ["gone.toml", "cannot be read"], "sweep", tmp_path / "gone.toml")
    refused(2, ["not TOML"], "sweep", write(tmp_path, "name = "))
    refused(2, ["name", "'../up'"], "sweep", write(tmp_path, HEAD.replace('"one"', '"../up"')))
    words = ["storage", "database"]
    path = write(tmp_path, HEAD + SEARCH + "lr = [1]\n")
    refused(2, words, "sweep", path, "--storage", "nothing", "--quiet")
    monkeypatch.setattr("fwt.execute.cluster.CONNECT", "1s")
    nobody = "tcp://127.0.0.1:1"
    words = ["--scheduler", nobody]
    refused(3, words, "sweep", write(tmp_path, HEAD), "--quiet", "--scheduler", nobody)


@pytest.mark.parametrize(
    "path", sorted((ROOT / "fwt" / "sweep" / "examples").glob("*.toml")), ids=str
)
def test_the_examples_are_sweeps(path):
    shown = good("sweep", path, "--dry-run").out
    assert "budget" in shown


def test_runs_that_differ_in_lists_alone_are_trained_together(tmp_path):
    axes = '[axes]\nsize = [4, 6]\nseed = "0-1"\nlr = [1e-3, 2e-3]\nrate = [0.1, 0.5]\n'
    for dtype, sizes in (("float32", [8, 8]), ("bfloat16", [4, 4, 4, 4])):
        specs = planned(tmp_path, f'[base]\ndtype = "{dtype}"\n{axes}')["specs"]
        jobs = [
            Job(RunSpec.parse(spec, "spec"), "torch", "cpu", "auto", Path(str(n)), None)
            for n, spec in enumerate(specs)
        ]
        assert [len(batch) for batch in group_by_shape(jobs)] == sizes


def test_the_command_gives_the_setting_that_was_chosen(tmp_path, monkeypatch):
    from fwt.sweep.run import Request, Sweep

    text = """control = "flat"
    [base]
    epochs = 3
    "task.pairs" = 3
    trained = "none"
    [axes]
    model = ["lstm", "fast-weights"]
    size = [6]
    steps = [7]
    schedule = ["constant", "cosine"]
    "train.beta2" = [0.9]
    """.replace('    trained = "none"\n', "")
    request = Request(write(tmp_path, HEAD + text), "cpu", "auto", None, tmp_path, None)
    found = Sweep(request, Cluster(None, 1, 1, 0, 60.0))
    for group in found.plan.groups:
        for setting in group.settings:
            words = shlex.split(found.command(group, setting))
            assert words[:2] == ["fwt", "train"]
            spec = good(*words[1:], "--dry-run").json
            assert spec == setting.specs[0].json_data()


# --- what is drawn ------------------------------------------------------------------------


SPACE = {"lr": {"low": 1e-4, "high": 1, "log": True}, "schedule": ["constant", "cosine"]}


def searched(file: Path, sampler: str) -> list[Trial]:
    """What 16 trials in batches of 8 draw if the best lr is 0.01."""
    spec = SearchSpec(sampler=sampler, trials=16, batch=8, seed=1, space=SPACE)
    drawn: list[Trial] = []
    for _ in range(2):  # each batch as another process would draw it
        search = Search(connect(f"sqlite:///{file}"), "one", spec, {})
        batch = search.ask()
        for trial in reversed(batch):  # the order of the answers does not matter
            search.tell(trial, abs(trial.values["lr"] - 0.01))
        drawn += batch
    assert search.ask() == []
    assert [trial.values for trial in search.known()] == [trial.values for trial in drawn]
    assert all(trial.told for trial in search.known())
    return drawn


def test_what_is_drawn_depends_on_the_file_and_the_answers_alone(tmp_path):
    first, again = (searched(tmp_path / name, "tpe") for name in ("a.db", "b.db"))
    assert first == again
    assert len({trial.values["lr"] for trial in first}) == 16
    assert {trial.values["schedule"] for trial in first} == {"constant", "cosine"}
    random = searched(tmp_path / "c.db", "random")
    assert random[:8] == first[:8]
    assert not {trial.values["lr"] for trial in random[8:]} & {t.values["lr"] for t in first[8:]}
    spec = SearchSpec(trials=1, seed=2, space=SPACE)
    assert Search(connect(f"sqlite:///{tmp_path / 'd.db'}"), "one", spec, {}).ask() != first[:1]


def test_a_batch_that_was_drawn_in_part_is_drawn_to_its_end(tmp_path):
    spec = SearchSpec(trials=6, batch=4, space={"lr": {"low": 0, "high": 1}})
    whole, part = (
        Search(connect(f"sqlite:///{tmp_path / name}"), "one", spec, {})
        for name in ("a.db", "b.db")
    )
    want = whole.ask()
    part._ask(0)
    assert part.partial()
    assert part.known() + part.ask() == want
    assert not part.partial()
    assert [trial.number for trial in part.known()] == [0, 1, 2, 3]


# --- who gets a batch ---------------------------------------------------------------------


class Workers:
    """A client that only knows how many threads its workers have."""

    def __init__(self, *threads: int) -> None:
        self.threads = threads

    def nthreads(self) -> dict[int, int]:
        return dict(enumerate(self.threads))


@pytest.mark.parametrize(
    ("threads", "first", "later"),
    [((1, 1), [0, 1], [2]), ((), [0], []), ((1, 2, 1), [0, 1, 2, 3], [4])],
)
def test_a_worker_has_one_batch_and_the_rest_waits_for_whoever_is_free(threads, first, later):
    engine: Any = Dask(Cluster(None, 2, 1, 0, 1.0), 2, cast(Any, None), cast(Any, None))
    engine._client = Workers(*threads)
    engine._begin = lambda client, jobs: engine._running.update({jobs[0]: jobs})
    engine._waiting.extend([number] for number in range(5))
    engine._fill()
    assert list(engine._running) == first
    engine._fill()
    assert list(engine._running) == first
    del engine._running[0]
    engine._fill()
    assert list(engine._running) == [*first[1:], *(later or [1])]
