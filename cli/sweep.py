"""`fwt sweep`: a grid or a search over settings, chosen on the validation split."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import options
from fwt.cli.train import flag
from fwt.fwcore.paths import show

if TYPE_CHECKING:
    from fwt.sweep.run import Sweep


def sweep(
    file: Annotated[
        Path, typer.Argument(parser=options.path, help="The sweep, TOML.", show_default=False)
    ],
    device: options.Device = "auto",
    memory: options.Memory = "auto",
    data_dir: options.DataDir = None,
    runs_dir: options.RunsDir = Path("runs"),
    storage: Annotated[
        str | None,
        flag("--storage", "URL of the search's database; default: SQLite in its folder.", "Where"),
    ] = None,
    scheduler: options.Scheduler = None,
    workers: options.Workers = None,
    threads: Annotated[
        int, typer.Option(min=1, help="Threads of each process.", rich_help_panel="Cluster")
    ] = 1,
    retries: options.Retries = 3,
    reconnect: options.Reconnect = 60.0,
    dry_run: options.DryRun = False,
    as_json: options.AsJson = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train every setting of a grid or a search, and choose by validation error.

    A sweep that was stopped goes on with the same command; runs that are done are not run again.
    Example: fwt sweep fwt/sweep/examples/retrieval-lstm.toml
    """
    from fwt.execute.executor import Cluster
    from fwt.sweep.run import Request, Sweep, check_installed, check_outcomes

    check_installed()
    planned = Sweep(
        Request(file, device, memory, data_dir, runs_dir, storage),
        Cluster(scheduler, workers, threads, retries, reconnect),
    )
    lines = _plan_lines(planned)
    if dry_run:
        print(json.dumps(planned.plan_data()) if as_json else "\n".join(lines))
        return
    if not quiet:
        print("\n".join(lines), file=sys.stderr, flush=True)
    summary, outcomes = planned.run(quiet)
    print(json.dumps(summary) if as_json else "\n".join(_result_lines(planned, summary)))
    check_outcomes(summary, outcomes)


def _plan_lines(planned: Sweep) -> list[str]:
    """What will run, for people."""
    from fwt.sweep import result

    file, plan, cluster = planned.file, planned.plan, planned.cluster
    data, seeds = planned.plan_data(), max(1, len(plan.seeds))
    base = " ".join(f"{path}={value}" for path, value in plan.base.items()) or "the recipes'"
    lines = [
        f"sweep     {file.name}: {file.task} on {planned.backend}, device {planned.request.device}",
        f"settings  {base}",
    ]
    width = max(len(group.label) for group in plan.groups)
    for group in plan.groups:
        size = "differ" if group.parameters is None else f"{group.parameters:,}"
        tries = planned.budget(group)
        lines.append(
            f"  {group.label:{width}}  parameters {size}, {tries} settings x {seeds} seeds"
        )
    how = "every setting of the grid"
    if file.search is not None:
        one = file.search
        how = f"{one.sampler}, {one.trials} trials in batches of {one.batch}, seed {one.seed}"
    left = "" if file.search else f", {data['done']} of them ended before"
    gpu = "a GPU" if planned.on_gpu else "no GPU known"
    why = "asked for" if file.population != "auto" else gpu
    where = cluster.scheduler or f"{planned.workers} processes here"
    return [
        *lines,
        f"budget    the same for each of {len(plan.groups)} groups: {how}",
        f"runs      {plan.runs}{left}; {where}, {cluster.threads} threads each",
        f"together  {'runs of one shape as one program' if planned.together else 'no'} ({why})",
        f"chosen by {result.OBJECTIVE}",
        f"folder    {planned.folder}",
    ]


def _result_lines(planned: Sweep, summary: dict[str, Any]) -> list[str]:
    """The result for people: each group's settings, the best first, and how to train with it."""
    from fwt.sweep.plan import Setting

    lines = []
    for group in summary["groups"]:
        size = "" if group["parameters"] is None else f", {group['parameters']:,} parameters"
        tries = f"{group['tried']} settings x {summary['seeds']} seeds"
        lines.append(f"{group['label']}{size}: {tries}")
        for trial in group["trials"]:
            label = Setting(trial["settings"], {}, ()).label or "the settings above"
            lines.append(f"  {_score(trial)}  {label}")
        lines.append(f"  train with: {group['command']}" if group["command"] else "  none chosen")
    path = show(planned.folder / "summary.json")
    return [*lines, f"chosen by {summary['objective']}", f"summary   {path}"]


def _score(trial: dict[str, Any]) -> str:
    failed = [run for run in trial["runs"] if run["failure"] is not None]
    if failed:
        kind = failed[0]["failure"].partition(":")[0]
        return f"failed: {len(failed)} of {len(trial['runs'])} runs, {kind}"
    sd = "" if trial["val_error_sd"] is None else f" sd {trial['val_error_sd']:5.2f}%"
    return f"val error {trial['val_error_pct']:6.2f}%{sd}"
