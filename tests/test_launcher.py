"""What launchers leave in the environment: read by one reader, refused in one line, waited for."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fwt.fwcore.errors import BackendError, ConfigError, RankLostError
from fwt.fwcore.training import launcher
from tests.cli_tools import (
    ROOT,
    TINY,
    TINY_BASE,
    clean_environment,
    environment,
    free_ports,
    fwt,
    good,
    refused,
    snapshot,
)
from tests.conftest import need

PAIR = {"WORLD_SIZE": "2", "RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "29500"}
WAITING = """
import signal, sys
from fwt.fwcore.training import launcher
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored in the background of a shell
launcher.QUIET_S, launcher.LIMIT_S = 0.3, float(sys.argv.pop(1))
from fwt.cli.main import main
main()
"""


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    clean_environment(monkeypatch)
    for name in (*launcher.TORCHRUN, *launcher.MLX_LAUNCH):
        monkeypatch.delenv(name, raising=False)


@pytest.fixture
def variables(monkeypatch):
    """Sets variables of the environment."""

    def put(**values: str) -> None:
        for name, value in values.items():
            monkeypatch.setenv(name, value)

    return put


@pytest.fixture
def hosts(tmp_path):
    """A file as mlx.launch writes it for two processes on this machine."""
    path = tmp_path / "hosts.json"
    path.write_text(json.dumps([[f"127.0.0.1:{port}"] for port in free_ports(2)]))
    return path


def test_without_a_launcher_a_process_is_alone(variables):
    variables(MASTER_ADDR="node7", MASTER_PORT="29500")  # set by many a cluster for all programs
    for job in (launcher.torchrun(), launcher.mlx_launch(), launcher.job_of("numpy")):
        assert (job.number, job.count, job.local) == (0, 1, 0)
    assert launcher.follower() is None
    launcher.check_alone("sweep")


def test_what_torchrun_says(variables):
    variables(**PAIR | {"WORLD_SIZE": "4", "RANK": "3", "LOCAL_RANK": "1"})
    job = launcher.job_of("torch")
    assert (job.number, job.count, job.local) == (3, 4, 1)
    assert job.way_out.endswith("unset WORLD_SIZE RANK LOCAL_RANK MASTER_ADDR MASTER_PORT")
    assert launcher.follower() == job


def test_what_mlx_launch_says(variables, hosts):
    variables(MLX_RANK="1", MLX_HOSTFILE=str(hosts))
    job = launcher.job_of("mlx")
    assert (job.number, job.count) == (1, 2)
    assert launcher.follower() == job
    hosts.write_text("\n")  # for one process
    variables(MLX_RANK="0")
    assert launcher.job_of("mlx").count == 1
    variables(MLX_WORLD_SIZE="3", MLX_RANK="2")  # over NCCL
    assert launcher.job_of("mlx").count == 3


def test_one_process_of_any_launcher_trains_on_any_backend(variables):
    variables(WORLD_SIZE="1", RANK="0", LOCAL_RANK="0")
    assert launcher.job_of("mlx").count == 1


REFUSED = {
    "empty": ({"WORLD_SIZE": ""}, "WORLD_SIZE to be a whole number of at least 1, got "),
    "no number": ({"RANK": "first"}, "RANK to be a whole number from 0 to 1, got RANK='first'"),
    "negative": ({"RANK": "-1"}, "RANK to be a whole number from 0 to 1, got RANK='-1'"),
    "a fraction": ({"WORLD_SIZE": "2.0"}, "got WORLD_SIZE='2.0'"),
    "none": ({"WORLD_SIZE": "0"}, "at least 1, got WORLD_SIZE='0'"),
    "too high": ({"RANK": "2"}, "from 0 to 1, got RANK='2'"),
    "local": ({"LOCAL_RANK": "7"}, "LOCAL_RANK to be a whole number from 0 to 1, got "),
    "no address": ({"MASTER_ADDR": ""}, "MASTER_ADDR to be the address of process 0, got"),
    "port": ({"MASTER_PORT": "http"}, "MASTER_PORT to be a whole number from 1 to 65535, got"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_a_variable_of_torchrun_that_cannot_be_is_named(kind, variables):
    wrong, words = REFUSED[kind]
    variables(**PAIR | wrong)
    for read in (launcher.torchrun, launcher.follower, lambda: launcher.check_alone("sweep")):
        with pytest.raises(ConfigError) as caught:
            read()
        assert str(caught.value).startswith("torchrun: expected ")
        assert words in str(caught.value)
        assert "; for a run on one process: unset WORLD_SIZE RANK" in str(caught.value)


@pytest.mark.parametrize(
    ("alone", "missing"),
    [("RANK", "WORLD_SIZE"), ("WORLD_SIZE", "RANK"), ("LOCAL_RANK", "WORLD_SIZE")],
)
def test_one_variable_without_the_other_is_refused(alone, missing, variables):
    variables(**{alone: "1"})
    with pytest.raises(ConfigError, match=f"got no {missing} beside {alone}=1; .*unset {alone}$"):
        launcher.torchrun()


def test_a_job_of_several_needs_an_address(variables):
    variables(WORLD_SIZE="2", RANK="0")
    with pytest.raises(ConfigError, match="got no MASTER_ADDR beside WORLD_SIZE=2, RANK=0;"):
        launcher.torchrun()


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"MLX_RANK": "0"}, "MLX_HOSTFILE to be a file, since MLX_RANK is set, got no"),
        ({"MLX_HOSTFILE": "x.json"}, "MLX_RANK to be a number, since the others are set, got no"),
        ({"MLX_WORLD_SIZE": "2"}, "MLX_RANK to be a number, since the others are set, got no"),
        ({"MLX_WORLD_SIZE": "", "MLX_RANK": "0"}, "got MLX_WORLD_SIZE=''"),
        ({"MLX_WORLD_SIZE": "2", "MLX_RANK": ""}, "got MLX_RANK=''"),
        ({"MLX_WORLD_SIZE": "2", "MLX_RANK": "2"}, "from 0 to 1, got MLX_RANK='2'"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": "/no/file"}, "No such file"),
        ({"MLX_RANK": "0", "MLX_HOSTFILE": str(ROOT / "LICENSE")}, "a JSON file of all processes"),
    ],
)  # fmt: skip
def test_a_variable_of_mlx_launch_that_cannot_be_is_named(given, words, variables):
    variables(**given)
    with pytest.raises(ConfigError) as caught:
        launcher.job_of("torch")
    assert str(caught.value).startswith("mlx.launch: expected MLX_")
    assert words in str(caught.value)
    assert f"; for a run on one process: unset {next(iter(given))}" in str(caught.value)


def test_the_wrong_launcher_is_named(variables):
    variables(**PAIR)
    for backend in ("mlx", "numpy"):
        with pytest.raises(BackendError, match=r"torchrun .* --backend torch.*RANK=0.*unset WORLD"):
            launcher.job_of(backend)


def test_a_run_that_is_done_is_not_silent(variables, tmp_path):
    need("mlx")
    run = tmp_path / "run"
    good("train", *TINY, "--backend", "mlx", "--out", run)
    before = snapshot(run)
    variables(RANK="3")
    refused(2, ["got no WORLD_SIZE beside RANK=3", "unset RANK"], "train", "--resume", run)
    variables(**PAIR | {"RANK": "1"})
    done = fwt("train", "--resume", run)
    assert (done.code, done.out) == (0, "")
    assert done.err.startswith("process 0 of 2 prints the result, this is process 1 (WORLD_SIZE=2,")
    assert snapshot(run) == before


def test_what_several_processes_would_do_each_is_refused(variables, tmp_path):
    variables(**PAIR)
    sweep = tmp_path / "grid.toml"
    sweep.write_text(f'name = "grid"\ntask = "retrieval"\nbackend = "mlx"\n{TINY_BASE}')
    place = ("--runs-dir", tmp_path / "runs")
    words = ("got WORLD_SIZE=2, RANK=0, MASTER_ADDR=", "leave torchrun out", "unset WORLD_SIZE")
    lists = ("train", *TINY, "--seeds", "0-1", "--backend", "mlx", *place)
    refused(2, ["train: 2 runs: several processes", *words], *lists)
    refused(2, ["sweep: several processes", *words], "sweep", sweep, "-q", *place)
    quick = ("reproduce", "retrieval", "--quick", "-q", *place)
    refused(2, ["reproduce: several processes", *words], *quick)
    assert not (tmp_path / "runs").exists()


def begin(folder: Path, limit: float, **extra: str) -> subprocess.Popen[str]:
    """A training process of a job whose other process never comes."""
    backend = "mlx" if "MLX_RANK" in extra else "torch"
    words = ("train", *TINY, "--backend", backend, "--out", folder / "run")
    return subprocess.Popen(
        [sys.executable, "-c", WAITING, str(limit), *map(str, words)],
        cwd=ROOT,
        env=environment(MLX_DISABLE_COMPILE="1", **extra),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_job_that_is_never_complete_ends_on_mlx(tmp_path, hosts):
    need("mlx")
    process = begin(tmp_path, 1, MLX_RANK="0", MLX_HOSTFILE=str(hosts))
    out, err = process.communicate(timeout=60)
    assert (process.returncode, out) == (RankLostError.exit_code, "")
    told = f"MLX_RANK=0, MLX_HOSTFILE={hosts}"
    assert err.splitlines() == [
        f"waiting for 2 processes ({told})",
        "error: train: expected to reach all 2 processes, process 0 did not: no answer for 1 s; "
        f"{told}; start all of them with mlx.launch, or for a run on one process: "
        "unset MLX_RANK MLX_HOSTFILE",
    ]
    assert not (tmp_path / "run").exists()


def test_a_job_that_is_never_complete_ends_on_pytorch(variables, monkeypatch, capfd):
    backend = need("torch")
    pair = PAIR | {"MASTER_PORT": str(free_ports(1)[0])}
    variables(**pair)
    monkeypatch.setattr(launcher, "QUIET_S", 0.1)
    monkeypatch.setattr(launcher, "LIMIT_S", 1.0)
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)]
    with pytest.raises(RankLostError, match=r"no answer for 1 s; WORLD_SIZE=2, RANK=0, MASTER_ADD"):
        backend.ranks()
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGALRM)] == before
    told = ", ".join(f"{name}={value}" for name, value in pair.items())
    assert f"waiting for 2 processes ({told})\n" in capfd.readouterr().err


@pytest.mark.skipif(not hasattr(signal, "SIGALRM"), reason="Windows has other signals")
def test_ctrl_c_ends_the_wait(tmp_path, hosts):
    need("mlx")
    process = begin(tmp_path, 60, MLX_RANK="0", MLX_HOSTFILE=str(hosts))
    assert process.stderr is not None
    assert process.stderr.readline().startswith("waiting for 2 processes (MLX_RANK=0")
    os.kill(process.pid, signal.SIGINT)
    process.communicate(timeout=30)
    assert process.returncode == -signal.SIGINT
