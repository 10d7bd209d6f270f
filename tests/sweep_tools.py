"""What tests of sweeps share: files of sweeps, and the jobs that they come to."""

from __future__ import annotations

from pathlib import Path

from fwt.execute.executor import Cluster
from fwt.jobs import Job
from fwt.sweep.run import Request, Sweep
from tests.cli_tools import TINY_BASE

SWEEP = f"""
task = "retrieval"
backend = "torch"
{TINY_BASE}
model = "irnn"
log_every = 10
eval_every = 20
"""


def sweep_file(folder: Path, name: str, text: str) -> Path:
    """A sweep file of that name."""
    path = folder / f"{name}.toml"
    path.write_text(f'name = "{name}"\n{text}')
    return path


def short_jobs(folder: Path, seeds: int) -> list[Job]:
    """Runs of four updates that differ in the seed alone, below `folder/runs`."""
    text = f"{SWEEP}steps = 4\n[axes]\nseed = '0-{seeds - 1}'\n"
    file = sweep_file(folder, "short", text)
    request = Request(file, "cpu", "auto", None, folder / "runs", None)
    found = Sweep(request, Cluster(None, 1, 1, 0, 1.0))
    (group,) = found.plan.groups
    return list(found.jobs_of(group, group.settings[0]))
