"""`fwt train`: train a model on a task, or go on with a run."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fwt.cli import completion as complete
from fwt.cli import options
from fwt.fwcore.paths import quote, show
from fwt.keys import KEYS

if TYPE_CHECKING:
    from fwt.jobs import Job

# options whose variables say what a new run is, and nothing to one that goes on
NEW_RUNS = (*KEYS, "task", "model", "control", "config", "out")

LIST = "or a list, 1,2"  # see `fwt.lists`


def flag(name: str, text: str, panel: str, *more: str, **settings: Any) -> Any:
    """An option whose environment variable is FWT_ and its name; `settings` are typer's."""
    variable = "FWT_" + name.removeprefix("--").upper().replace("-", "_")
    return typer.Option(name, *more, envvar=variable, help=text, rich_help_panel=panel, **settings)


def train(
    context: typer.Context,
    task: Annotated[
        str | None,
        flag(
            "--task",
            "retrieval or mnist-glimpse.",
            "What",
            autocompletion=complete.of(complete.tasks),
        ),
    ] = None,
    model: Annotated[
        str | None,
        flag(
            "--model",
            "fast-weights, rnn, irnn, lstm, gru, alstm or convnet.",
            "What",
            "-m",
            autocompletion=complete.of(complete.models),
        ),
    ] = None,
    backend: options.Backend = "auto",
    size: Annotated[int | None, flag("--size", "R, hidden units.", "What", "-R")] = None,
    memory: options.Memory = "auto",
    decay: Annotated[
        str | None, flag("--decay", f"lambda, kept of A a step, in (0, 1]; {LIST}.", "Model")
    ] = None,
    rate: Annotated[
        str | None, flag("--rate", f"eta, strength of a write; {LIST}.", "Model")
    ] = None,
    inner_steps: Annotated[
        int | None, flag("--inner-steps", "S, reads of A in a time step.", "Model")
    ] = None,
    norm: Annotated[
        str | None,
        flag(
            "--norm",
            "sum, none, slow, both (fast-weights); none, layer (rnn, lstm, gru).",
            "Model",
            autocompletion=complete.of(complete.norms),
        ),
    ] = None,
    control: Annotated[
        str | None,
        flag(
            "--control",
            "auto, multi-level or flat fast memory.",
            "Model",
            autocompletion=complete.of(complete.controls),
        ),
    ] = None,
    pairs: Annotated[int | None, flag("--pairs", "K key-value pairs a string.", "Task")] = None,
    policy: Annotated[
        str | None,
        flag(
            "--policy",
            "multi-level, raster or coarse-to-fine.",
            "Task",
            autocompletion=complete.of(complete.policies),
        ),
    ] = None,
    dataset: Annotated[
        str | None,
        flag(
            "--dataset",
            "auto, mnist, mnist-subset, ...; see fwt list.",
            "Task",
            autocompletion=complete.of(complete.datasets),
        ),
    ] = None,
    data_dir: options.DataDir = None,
    init_from: Annotated[
        str | None,
        flag(
            "--init-from",
            "Begin with the weights of a run, checkpoint, .safetensors, .npz or .pt file.",
            "Training",
        ),
    ] = None,
    init_layout: Annotated[
        str | None,
        flag(
            "--init-layout",
            "Layout of such a file: torch, mlx or fwt.",
            "Training",
            autocompletion=complete.of(complete.layouts),
        ),
    ] = None,
    epochs: Annotated[
        float | None,
        flag("--epochs", "Passes over the data, in all (--resume: longer).", "Training"),
    ] = None,
    steps: Annotated[
        int | None, flag("--steps", "Updates in all, instead of epochs.", "Training", "--iters")
    ] = None,
    batch_size: Annotated[
        int | None, flag("--batch-size", "Examples an update.", "Training")
    ] = None,
    lr: Annotated[
        str | None, flag("--lr", f"Learning rate; {LIST}.", "Training", "--learning-rate")
    ] = None,
    schedule: Annotated[
        str | None,
        flag(
            "--schedule",
            "constant or cosine.",
            "Training",
            autocompletion=complete.of(complete.training("schedule")),
        ),
    ] = None,
    clip: Annotated[
        float | None, flag("--clip", "Largest gradient norm; 0: any.", "Training")
    ] = None,
    dropout: Annotated[
        float | None, flag("--dropout", "Dropped of the encoder's outputs.", "Training")
    ] = None,
    head_dropout: Annotated[
        float | None, flag("--head-dropout", "Dropped of the last state.", "Training")
    ] = None,
    weight_decay: Annotated[
        float | None, flag("--weight-decay", "Decoupled weight decay.", "Training")
    ] = None,
    seed: Annotated[int | None, flag("--seed", "Seed of everything random.", "Training")] = None,
    seeds: Annotated[
        str | None, flag("--seeds", "Seeds such as 0-15 or 0,3,7: a run for each.", "Training")
    ] = None,
    device: options.Device = "auto",
    dtype: Annotated[
        str | None,
        flag(
            "--dtype",
            "float32, float64 or bfloat16.",
            "Training",
            autocompletion=complete.of(complete.training("dtype")),
        ),
    ] = None,
    precision: Annotated[
        str | None,
        flag(
            "--precision",
            "highest or tf32 float32 products.",
            "Training",
            autocompletion=complete.of(complete.training("precision")),
        ),
    ] = None,
    config: Annotated[
        Path | None,
        flag("--config", "TOML or JSON laid out like spec.json.", "Run", "-c", parser=options.path),
    ] = None,
    assign: Annotated[
        list[str] | None,
        typer.Option("--set", help="Any field: --set TABLE.KEY=VALUE.", rich_help_panel="Run"),
    ] = None,
    out: Annotated[
        Path | None,
        flag(
            "--out",
            "The run's folder; of lists, the folder of theirs.",
            "Run",
            "-o",
            parser=options.path,
        ),
    ] = None,
    runs_dir: Annotated[
        Path, flag("--runs-dir", "Folder of runs without --out.", "Run", parser=options.path)
    ] = Path("runs"),
    resume: Annotated[
        Path | None,
        typer.Option(
            parser=options.path,
            help="Go on with the run in this folder; --epochs or --steps: to another length, by "
            "whose schedule the rates go from then on.",
            rich_help_panel="Run",
        ),
    ] = None,
    stop_after: Annotated[
        int | None,
        typer.Option(min=1, help="Stop, saved, after this many updates.", rich_help_panel="Run"),
    ] = None,
    log_every: Annotated[
        int | None, flag("--log-every", "Updates between training metrics.", "Run")
    ] = None,
    eval_every: Annotated[
        int | None, flag("--eval-every", "Updates between validations; 0: an epoch.", "Run")
    ] = None,
    save_every: Annotated[
        int | None, flag("--save-every", "Updates between checkpoints; 0: validations.", "Run")
    ] = None,
    keep: Annotated[
        int | None, flag("--keep", "Latest checkpoints kept beside the best.", "Run")
    ] = None,
    as_json: options.AsJson = False,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Print the resolved spec and stop.")
    ] = False,
    quiet: options.Quiet = False,
    debug: options.Debug = False,
) -> None:
    """Train a model on a task, or go on with a run (--resume).

    Settings come from the recipe of task, model and size; over it --config; FWT_* variables;
    flags; --set. Lists train a run for each combination, all at once as one program.
    Example: fwt train --backend mlx --task retrieval
    """
    from fwt.execute import alone, together
    from fwt.fwcore.errors import ConfigError
    from fwt.plan import Place, new_jobs, reopen
    from fwt.settings import read_config
    from fwt.tasks.recipe import merge

    if resume is not None:  # variables that are settings of new runs do not concern it
        new = {name for name in NEW_RUNS if is_variable(context, name)}
        context.params.update(dict.fromkeys(new))
        task, model, control, config, out = (
            context.params[name] for name in ("task", "model", "control", "config", "out")
        )
    flags = settings_of(context, assign or [])
    settings = read_config(config) if config else {}
    place = Place(backend, device, memory, data_dir, out, runs_dir)
    if resume is None:
        jobs = new_jobs(task, model, settings, flags, control, place)
    else:
        if out is not None:
            raise ConfigError(f"--out: a resumed run stays in its folder, got out={out}")
        if (source := flags.get("init", {}).get("path")) is not None:
            raise ConfigError(
                "--init-from: expected a new run, got --resume beside it, whose weights are its "
                f"last checkpoint's, and init-from={source}; leave one of the two out"
            )
        kind = flags.get("task", {}).get("kind") or task
        asked = merge(merge(settings, flags), {} if kind is None else {"task": {"kind": kind}})
        jobs = [reopen(resume, asked, model, control, place)]
    if dry_run:
        specs = [job.spec.json_data() for job in jobs]
        print(json.dumps({"members": specs} if len(jobs) > 1 else specs[0], indent=1))
    elif len(jobs) > 1:
        results = together.run(jobs, stop_after=stop_after, quiet=quiet)
        print_results(jobs, results, as_json)
    else:
        result = alone.run(jobs[0], resume=resume is not None, stop_after=stop_after, quiet=quiet)
        if result is not None:
            print_result(jobs[0], result, as_json)


def is_variable(context: typer.Context, name: str) -> bool:
    """Whether an option's value came from its FWT_* variable."""
    source = context.get_parameter_source(name)
    return source is not None and source.name == "ENVIRONMENT"


def settings_of(context: typer.Context, assignments: list[str]) -> dict[str, Any]:
    """Settings by table: FWT_* variables, above them flags, above them `--set`.

    Raises:
        ConfigError: an assignment is none, or a list of numbers is none.
    """
    from fwt.fwcore.errors import ConfigError
    from fwt.lists import PARSERS
    from fwt.settings import layer, parse_assignment
    from fwt.tasks.recipe import merge

    variables: list[tuple[str, Any]] = []
    flags: list[tuple[str, Any]] = []
    for name, path in KEYS.items():
        value = context.params[name]
        if value is None:
            continue
        if name in PARSERS:
            value = PARSERS[name](f"--{name}", value)
        given = variables if is_variable(context, name) else flags
        if path in dict(given):
            raise ConfigError(f"--{name}: expected it or --seed, got both; leave one out")
        given.append((path, value))
    assigned = layer(map(parse_assignment, assignments), "--set")
    return merge(merge(layer(variables, "FWT_*"), layer(flags, "flags")), assigned)


def print_result(job: Job, result: dict[str, Any], as_json: bool) -> None:
    """The result of a run on stdout: for people, or one JSON object."""
    if as_json:
        print(json.dumps(result))
        return
    if not result["done"]:
        print(f"stopped   step {result['step']} of {result['steps']}")
        print(f"go on     fwt train --resume {quote(result['run'])}")
        return
    known = job.published_error
    beside = "" if known is None else f"  (published: {known:.2f}%)"
    test = result["test"]
    print(f"dataset   {result['dataset']}")
    print(f"test      error {test['error_pct']:.2f}% of {test['examples']}{beside}")
    print(f"took      {result['steps']} updates, {result['train_s']:.0f} s")
    print(f"run       {show(result['run'])}")
    print(f"best      {show(result['best_checkpoint'])}")
    print(f"look      fwt eval {quote(result['run'])} --backend numpy")


def print_results(jobs: Sequence[Job], results: dict[str, Any], as_json: bool) -> None:
    """The results of several runs on stdout: for people, a line for each, or one JSON object.

    Raises:
        DivergedError: some diverged.
    """
    from fwt.fwcore.errors import DivergedError

    if as_json:
        print(json.dumps(results))
    else:
        _print_lines(jobs, results)
    lost = [each for each in results["members"] if "diverged" in each]
    if lost:
        raise DivergedError(
            f"{len(lost)} of {len(jobs)} runs diverged, {lost[0]['label']} in {lost[0]['run']}: "
            f"{lost[0]['diverged']}"
        )


def _print_lines(jobs: Sequence[Job], results: dict[str, Any]) -> None:
    members, width = results["members"], max(len(job.label) for job in jobs)
    print(f"dataset   {members[0]['dataset']}")
    for each in members:
        if each["done"]:
            text = f"error {each['test']['error_pct']:6.2f}%"
        else:
            text = f"stopped at step {each['step']} of {each['steps']}"
            text = "diverged" if "diverged" in each else text
        print(f"{each['label']:{width}}  {text}  {show(each['run'])}")
    rows = [*results["settings"], {**results, "label": "all"}]
    some_share = 1 < len(results["settings"]) < len(jobs)
    for row in rows if some_share else rows[-1:]:
        if row["n"]:
            sd = "" if row["sd"] is None else f"  sd {row['sd']:.2f}%"
            print(f"{row['label']:{width}}  mean error {row['mean']:.2f}%{sd}  n = {row['n']}")
    known = jobs[0].published_error
    if known is not None:
        print(f"published {known:.2f}%")
