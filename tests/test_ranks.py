"""Several processes that train one run, started by the frameworks' own launchers."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fwt.fwcore.errors import ConfigError
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint
from fwt.fwcore.training.batches import Dropout
from fwt.fwcore.training.lockstep import Spread
from fwt.fwcore.training.ranks import SINGLE, check_together
from tests.cli_tools import (
    ROOT,
    Done,
    environment,
    good,
    python,
    snapshot,
    words_of,
)
from tests.conftest import need
from tests.signal_tools import DRIVER, RUN
from tests.tolerances import assert_close

# one that tells, when it has trained and at its very end, whether gloo's threads are there
TELLING = """
import atexit, sys
from pathlib import Path
def tell(when):
    names = [path.read_text() for path in Path("/proc/self/task").glob("*/comm")]
    sys.stderr.write(f"{when} {any('gloo' in name for name in names)}\\n")
atexit.register(tell, "ended")  # before all that is registered later, so it runs after it
from fwt.cli.main import run
code = run(sys.argv[1:])
tell("trained")
sys.exit(code)
"""


@dataclass(frozen=True)
class Pair:
    """Two processes of a made-up job; each gives what the other one is told to have."""

    number: int
    other: Any
    count: int = 2

    def total(self, values: Any) -> Any:
        return values + np.asarray(self.other)

    def is_rank_lost(self, error: RuntimeError) -> bool:
        return "gone" in str(error)


def launch(backend: str, processes: int, *words: object) -> Done:
    """A Python script (or `-m fwt`) with its arguments in so many processes."""
    folder = Path(sys.executable).parent
    if backend == "torch":
        start = [folder / "torchrun", f"--nproc-per-node={processes}", "--standalone"]
    else:
        start = [folder / "mlx.launch", "-n", processes, "--backend", "ring", "--", sys.executable]
    places = [str(ROOT), os.environ["PYTHONPATH"]]
    found = subprocess.run(
        [*map(str, start), *words_of(words)],
        cwd=ROOT,
        env=environment(OMP_NUM_THREADS="1", PYTHONPATH=os.pathsep.join(places)),
        capture_output=True,
        text=True,
        timeout=120,
    )
    return Done(found.returncode, found.stdout, found.stderr)


def losses(run: Path) -> dict[tuple[int, str], tuple[float, ...]]:
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    keys = ("loss", "error_pct", "grad_norm")
    return {
        (line["step"], line["split"]): tuple(line[key] for key in keys if key in line)
        for line in lines
    }


def assert_same_run(got: Path, wanted: Path) -> None:
    found, expected = losses(got), losses(wanted)
    assert found.keys() == expected.keys()
    for key, values in expected.items():
        for want, got in zip(values, found[key], strict=True):
            assert_close(str(key), [want], [got], "training losses", "float32", "ranks")


@pytest.fixture(scope="module", params=["torch", "mlx"], name="alone")
def _alone(request, tmp_path_factory):
    """A backend's name, and the run that one process makes of it."""
    need(request.param)
    run = tmp_path_factory.mktemp("alone") / "run"
    good("train", *RUN, "--backend", request.param, "--out", run)
    return request.param, run


@pytest.fixture(scope="module", name="together")
def _together(alone, tmp_path_factory):
    """The run that two processes make, and how they ended: those of PyTorch tell of threads."""
    backend, _ = alone
    folder = tmp_path_factory.mktemp("together")
    start: list[object] = ["-m", "fwt"]
    if backend == "torch":
        (folder / "telling.py").write_text(TELLING)
        start = [folder / "telling.py"]
    words = ("train", *RUN, "--backend", backend, "--out", folder / "run", "--json", "-q")
    done = launch(backend, 2, *start, *words)
    assert done.code == 0, done.err
    return folder / "run", done


def test_two_processes_make_the_run_of_one(alone, together):
    (_, wanted), (run, done) = alone, together
    assert done.json["done"] is True  # printed by one of them alone
    assert_same_run(run, wanted)
    assert snapshot(run).keys() == snapshot(wanted).keys()
    assert json.loads((run / "run.json").read_text())["sessions"][0]["processes"] == 2


@pytest.mark.skipif(
    not Path("/proc/self/task").is_dir(), reason="threads are listed on Linux alone"
)
@pytest.mark.parametrize("alone", ["torch"], indirect=True)
def test_no_thread_of_gloo_outlives_its_group(together):
    # one that does can want the interpreter while it is taken down, and the process aborts
    _, done = together
    assert done.err.count("trained True") == 2
    assert done.err.count("ended False") == 2


def test_a_process_that_dies_ends_the_job_and_the_run_goes_on(alone, tmp_path):
    backend, wanted = alone
    script, run = tmp_path / "driver.py", tmp_path / "run"
    script.write_text(DRIVER.format(number="1", count=8, signal="SIGKILL"))
    done = launch(backend, 2, script, "train", *RUN, "--backend", backend, "--out", run, "-q")
    assert "error: train: expected to hear of all 2 processes, process 0 did not" in done.err
    assert (run / "last").read_text() == "step-00000006\n"
    session = json.loads((run / "run.json").read_text())["sessions"][0]
    assert session["exit"].startswith("RankLostError (exit 6)")
    good("train", "--resume", run, "--backend", backend)  # on one process
    assert_same_run(run, wanted)


@pytest.mark.parametrize("alone", ["mlx"], indirect=True)  # what is held is in no backend
def test_a_signal_to_one_process_stops_all_at_one_update(alone, tmp_path):
    backend, wanted = alone
    script, run = tmp_path / "driver.py", tmp_path / "run"
    script.write_text(DRIVER.format(number="1", count=8, signal="SIGTERM"))
    done = launch(backend, 2, script, "train", *RUN, "--backend", backend, "--out", run, "-q")
    stopped = "train: stopped by signal 15 at step 8 of 12; saved"
    assert done.err.count(f"{stopped} {run / 'checkpoints/step-00000008'};") == 2
    assert checkpoint.read(run / "checkpoints/step-00000008").progress.step == 8
    resumed = launch(backend, 2, "-m", "fwt", "train", "--resume", run, "--backend", backend, "-q")
    assert resumed.code == 0, resumed.err
    assert_same_run(run, wanted)


def test_what_gloo_says_of_its_connections_is_no_result(monkeypatch, capfd):
    need("torch")
    from fwt.backends.torch import ranks

    told = {"init_process_group": lambda *_, **__: os.write(1, b"[Gloo] connected\n")}
    told |= {"get_rank": lambda: 0, "get_world_size": lambda: 2}
    for name, fake in told.items():
        monkeypatch.setattr(ranks.distributed, name, fake)
    monkeypatch.setattr(ranks.atexit, "register", lambda _: None)
    ranks.TorchRanks()
    os.write(1, b"result\n")
    assert capfd.readouterr() == ("result\n", "[Gloo] connected\n")


def spec(**train: Any) -> RunSpec:
    model = {"encoder": {"kind": "embedding", "symbols": 37}, "head": {"classes": 10}}
    fields = {"model": model | {"core": {"kind": "rnn", "size": 4}}, "train": {"steps": 1} | train}
    return RunSpec.parse({"task": {"kind": "retrieval"}, **fields}, "ranks")


def test_a_batch_that_cannot_be_shared_evenly_is_refused():
    odd = spec(batch_size=33)
    pair = Pair(0, [0.0, int(odd.digest(), 16)])
    with pytest.raises(ConfigError, match=r"multiple of the 2 processes.*batch_size=33"):
        check_together(pair, odd)


def test_processes_with_other_settings_are_refused():
    with pytest.raises(ConfigError, match="got others on process 1"):
        check_together(Pair(0, [0.0, 1.0]), spec())
    check_together(SINGLE, spec(batch_size=33))


class Recorder:
    """A model that remembers what it was given."""

    def __init__(self) -> None:
        self.given: list[Any] = []

    def train_step(self, *given: Any) -> Any:
        self.given.append(given)
        return np.zeros(3)

    def fetch(self, stats: Any) -> Any:
        return np.array([[2.0, 5.0, 4.0]] * len(stats))

    def evaluate(self, inputs: Any, targets: Any) -> tuple[float, int]:
        self.given.append((inputs.tolist(), targets.tolist()))
        return float(inputs.sum()), len(targets)


@pytest.mark.parametrize(("number", "part"), [(0, slice(0, 2)), (1, slice(2, 4))])
def test_each_process_takes_its_part_of_a_batch(number, part):
    model, rows, mask = Recorder(), np.arange(4) + 10, np.arange(8.0).reshape(4, 2)
    spread = Spread(model, Pair(number, 0.0))
    spread.train_step(rows[None], np.array([0.5]), Dropout(mask[None], None))
    got_rows, lr, masks = model.given[0]
    assert got_rows.tolist() == rows[part].tolist()
    assert lr == 0.5
    assert masks.inputs.tolist() == mask[part].tolist()
    assert masks.hidden is None


def test_statistics_are_those_of_the_whole_batch():
    other = [[1.5, 7.0, 2.0]]  # halved by its own process: mean loss 3, norm 4
    found = Spread(Recorder(), Pair(0, other)).fetch([None])
    assert found.tolist() == [[[2.5, 12.0, 4.0]]]


def test_every_example_is_evaluated_once():
    seen = []
    for number in (0, 1):
        model = Recorder()
        found = Spread(model, Pair(number, [[100.0, 7.0]])).evaluate(np.arange(5.0), np.arange(5))
        seen += model.given[0][1]
        assert found.tolist() == [[100 + sum(model.given[0][0]), 7 + len(model.given[0][1])]]
    assert seen == [0, 1, 2, 3, 4]


def test_an_error_of_the_model_is_no_lost_process():
    class Broken(Recorder):
        def train_step(self, *given: Any) -> Any:
            raise RuntimeError("out of memory")

    with pytest.raises(RuntimeError, match="out of memory"):
        Spread(Broken(), Pair(0, 0.0)).train_step(np.zeros((1, 4)), np.zeros(1), None)


def test_python_m_cli_is_fwt():
    found = subprocess.run(
        [sys.executable, "-m", "fwt", "--version"], cwd=ROOT, capture_output=True, text=True
    )
    assert found.stdout.startswith("fwt ")


def test_the_launchers_sigterm_does_not_cut_off_what_is_said():
    """It comes when a process is lost, while this one is on its way to say so."""
    code = (
        "import os, signal\nfrom fwt.cli.failure import guarded\n"
        "from fwt.signals import StopFlag\n"
        "from fwt.fwcore.errors import RankLostError\n"
        "def lose():\n    try:\n        with StopFlag():\n            raise RankLostError('gone')\n"
        "    finally:\n        os.kill(os.getpid(), signal.SIGTERM)\n"
        "raise SystemExit(guarded(lose))"
    )
    done = python(code)
    assert (done.code, done.errors) == (6, ["error: gone"])
