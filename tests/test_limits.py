"""Memory and cores of a process within the control groups of its container."""

from __future__ import annotations

import os
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from fwt import backends
from fwt.execute.executor import Cluster
from fwt.fwcore import limits
from fwt.sweep.run import Request, Sweep
from tests.cli_tools import TINY, clean_environment, refused

GIB = 2**30
NO_LIMIT = "9223372036854771712"  # of version 1


@pytest.fixture(name="groups")
def _groups(tmp_path, monkeypatch):
    """Writes the files of control groups, and which of them this process is in."""
    monkeypatch.setattr(limits, "GROUPS", tmp_path / "cgroup")
    monkeypatch.setattr(limits, "MOUNT", tmp_path / "mount")
    memory = SimpleNamespace(total=64 * GIB, available=60 * GIB)
    monkeypatch.setattr(psutil, "virtual_memory", lambda: memory)
    monkeypatch.setattr(psutil, "cpu_count", lambda logical: 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(32)), raising=False)

    def write(own: str, **files: str) -> None:
        (tmp_path / "cgroup").write_text(own)
        for name, text in files.items():
            path = Path(tmp_path / "mount", *name.split("__"))
            path.parent.mkdir(parents=True, exist_ok=True)
            path.with_name(path.name.replace("_dot_", ".")).write_text(f"{text}\n")

    return write


def found() -> tuple[float, float, int]:
    return limits.memory_bytes() / GIB, limits.free_bytes() / GIB, limits.cores()


def test_no_groups_are_no_limit(groups, monkeypatch, tmp_path):
    assert found() == (64, 60, 16)
    groups("0::/\n")
    assert found() == (64, 60, 16)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {3, 5})
    assert limits.cores() == 2


def test_version_2_and_the_groups_above(groups):
    groups(
        "0::/pod/own\n",
        pod__memory_dot_max=str(8 * GIB),
        pod__memory_dot_current=str(5 * GIB),
        pod__cpu_dot_max="350000 100000",
        pod__own__memory_dot_max="max",
        pod__own__memory_dot_current=str(GIB),
        pod__own__cpu_dot_max="max 100000",
    )
    assert found() == (8, 3, 3)
    groups("0::/pod/own\n", pod__own__memory_dot_max=str(2 * GIB))
    assert found() == (2, 1, 3)


def test_version_2_seen_from_inside_of_a_container(groups):
    groups("0::/\n", memory_dot_max=str(4 * GIB), cpu_dot_max="50000 100000")
    assert found() == (4, 4, 1)
    groups("0::/../host/place\n")  # a path of the host, which is not mounted here
    assert found() == (4, 4, 1)


def test_version_1(groups):
    groups(
        "5:cpu,cpuacct:/job\n4:memory:/job/step\n1:name=systemd:/x\n0::/\n",
        memory__memory_dot_limit_in_bytes=NO_LIMIT,
        memory__job__step__memory_dot_limit_in_bytes=str(6 * GIB),
        memory__job__step__memory_dot_usage_in_bytes=str(2 * GIB),
        **{
            "cpu,cpuacct__job__cpu_dot_cfs_quota_us": "200000",
            "cpu,cpuacct__job__cpu_dot_cfs_period_us": "100000",
            "cpu,cpuacct__cpu_dot_cfs_quota_us": "-1",
            "cpu,cpuacct__cpu_dot_cfs_period_us": "100000",
        },
    )
    assert found() == (6, 4, 2)


def test_empty_files_are_no_limit(groups):
    groups("0::/\n", memory_dot_max="", cpu_dot_max="")
    assert found() == (64, 60, 16)


# --- who asks -----------------------------------------------------------------------------


@pytest.mark.parametrize("name", backends.BACKENDS)
def test_the_cpu_of_every_backend_has_that_memory(name, groups):
    groups("0::/\n", memory_dot_max=str(3 * GIB))
    assert backends.load(name).memory_bytes("cpu") == 3 * GIB


def test_a_run_that_the_container_cannot_hold_is_refused(groups, tmp_path, monkeypatch):
    clean_environment(monkeypatch)
    groups("0::/\n", memory_dot_max=str(2**16))
    words = ["memory: the run needs about", "has 0.0 GiB"]
    refused(2, words, "train", *TINY, "--backend", "torch", "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_a_sweep_starts_no_more_processes_than_the_container_has_cores(groups, tmp_path):
    groups("0::/\n", cpu_dot_max="300000 100000")
    file = tmp_path / "sweep.toml"
    file.write_text('name = "s"\ntask = "retrieval"\nbackend = "torch"\n[base]\nsteps = 1\n')
    request = Request(file, "cpu", "auto", None, tmp_path, None)
    assert Sweep(request, Cluster(None, None, 1, 0, 1.0)).workers == 3
    assert Sweep(request, Cluster(None, None, 2, 0, 1.0)).workers == 1
