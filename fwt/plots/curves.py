"""Learning curves of runs: a line for each setting, the mean over its seeds, and their range."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fwt.fwcore.errors import ConfigError, FileError
from fwt.fwcore.frozen import leaves
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import files
from fwt.fwcore.storage.runs import Line, RunFolder
from fwt.plots.canvas import sheet
from fwt.plots.means import mean_of, seeds_of
from fwt.plots.settings import defaults
from fwt.plots.styles import STYLES

if TYPE_CHECKING:
    from matplotlib.figure import Figure

X = {"updates": "updates", "examples": "training examples seen", "seconds": "seconds"}
Y = {"error": "error, %", "loss": "loss, nats", "grad-norm": "gradient norm"}
KEYS = {"error": "error_pct", "loss": "loss", "grad-norm": "grad_norm"}


@dataclass(frozen=True)
class Run:
    """A run and its lines of metrics.

    Attributes:
        path: its folder.
        name: of the model.
        backend: that trained it.
        spec: its settings.
        lines: of `metrics.jsonl`, in order.
    """

    path: Path
    name: str
    backend: str
    spec: RunSpec
    lines: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True)
class Curve:
    """The runs of one setting.

    Attributes:
        label: what sets it apart.
        seeds: of its runs.
        steps: updates, those at which any of the runs has a line.
        x: places there, means over the seeds.
        middle, low, high: mean, least and largest over the seeds; see `fwt.plots.means.mean_of`.
        n: how many seeds these are of.
        last: of each run its last update and number.
    """

    label: str
    seeds: tuple[int, ...]
    steps: tuple[float, ...]
    x: tuple[float, ...]
    middle: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    n: tuple[int, ...]
    last: tuple[tuple[float, float], ...]

    @property
    def ends(self) -> str:
        """The last number of each run in words: `0.62`, or `36.6, 86 after 200, 60 updates`."""
        numbers = ", ".join(f"{value:.4g}" for _, value in self.last)
        steps = [f"{step:,.0f}" for step, _ in self.last]
        return numbers if len(set(steps)) == 1 else f"{numbers} after {', '.join(steps)} updates"


def metrics(folder: RunFolder) -> tuple[Mapping[str, Any], ...]:
    """The lines of a run's metrics; one that is still being written at the end is left out.

    A run that has told nothing yet has none.

    Raises:
        FileError: the file cannot be read, a line before the last is damaged, or steps fall.
    """
    path = folder.path / "metrics.jsonl"
    if not path.exists():
        return ()
    try:
        texts = files.text(path, files.MOST_LINES).splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise FileError(f"{path}: cannot be read: {error}") from error
    found: list[dict[str, Any]] = []
    latest: dict[str, int] = {}  # split -> the step of its line before
    for number, text in enumerate(texts, 1):
        try:
            line = Line.parse(files.from_json(text), "metrics")
        except (ValueError, ConfigError) as error:
            if number < len(texts):
                raise FileError(f"{path}: line {number} is damaged: {error}") from error
            break
        least = latest.get(line.split, 0)
        if line.step < least:
            raise FileError(
                f"{path}: line {number} is damaged: expected a step of at least {least}, as on "
                f"the line of {line.split} before it, got step={line.step}"
            )
        latest[line.split] = line.step
        found.append(line.model_dump(exclude_unset=True))
    return tuple(found)


def curves(runs: Sequence[Run], x: str, y: str, split: str) -> list[Curve]:
    """A curve for each setting that was run, in the order of the runs.

    Runs that have no such line are in none; `without` names them.

    Args:
        runs: the runs; those that differ in the seed alone are one curve.
        x: a key of `X`.
        y: a key of `Y`.
        split: whose lines are taken, `train` or `val`.
    """
    groups: dict[tuple[str, str], list[Run]] = {}
    for run in runs:
        if any(_points(run, x, KEYS[y], split)):
            groups.setdefault((run.backend, run.spec.run_digest()), []).append(run)
    labels = _labels([group[0] for group in groups.values()])
    return [
        _curve(group, label, x, y, split)
        for group, label in zip(groups.values(), labels, strict=True)
    ]


def without(runs: Sequence[Run], y: str, split: str) -> list[Run]:
    """The runs that have no line of `y` on a split yet; see `curves`."""
    return [run for run in runs if not any(_points(run, "updates", KEYS[y], split))]


def _curve(group: Sequence[Run], label: str, x: str, y: str, split: str) -> Curve:
    each = [list(_points(run, x, KEYS[y], split)) for run in group]
    found = mean_of([[(step, value) for step, _, value in points] for points in each])
    places = mean_of([[(step, place) for step, place, _ in points] for points in each])
    return Curve(
        label,
        tuple(run.spec.train.seed for run in group),
        found.x,
        places.middle,
        found.middle,
        found.low,
        found.high,
        found.n,
        tuple((points[-1][0], points[-1][2]) for points in each),
    )


def _points(run: Run, x: str, key: str, split: str) -> Iterator[tuple[float, float, float]]:
    """Update, place on the axis, and number of each line."""
    for line in run.lines:
        if line["split"] == split and key in line:
            step = line["step"]
            examples = step * run.spec.train.batch_size
            place = {"updates": step, "examples": examples, "seconds": line["elapsed_s"]}[x]
            yield float(step), float(place), float(line[key])


def _labels(runs: Sequence[Run]) -> list[str]:
    """Model and size of each, and what else sets it apart."""
    return [
        ", ".join([f"{run.name} R={run.spec.model.core.size}", *words])
        for run, words in zip(runs, apart(runs), strict=True)
    ]


def apart(runs: Sequence[Run]) -> list[list[str]]:
    """Of each run the settings in which runs of its model and size differ, as `lr=0.01`.

    The seed is none of them.
    """
    flat = [_settings(run) for run in runs]
    found = []
    for own in flat:
        like = [other for other in flat if other["model"] == own["model"]]
        found.append(
            [
                f"{key.rpartition('.')[2]}={own[key]}"
                for key in own
                if key != "model" and any(other.get(key) != own[key] for other in like)
            ]
        )
    return found


def _settings(run: Run) -> dict[str, Any]:
    """What may set a run apart, by dotted key."""
    data = run.spec.json_data()
    label = f"{run.name} R={run.spec.model.core.size}"
    learned = dict(leaves({key: data[key] for key in ("task", "model", "train")}))
    del learned["train.seed"]
    return {"model": label, "backend": run.backend, **learned}


@defaults()
def draw(found: Sequence[Curve], x: str, y: str, split: str, logarithmic: bool) -> Figure:
    """The curves; the range over several seeds is shaded, a lone point has its number beside it."""
    from matplotlib.ticker import LogLocator, MaxNLocator

    figure, axes = sheet(1, 1, (6.4, 4.0))
    axis = axes[0, 0]
    for number, curve in enumerate(found):
        colour, _, marker = STYLES[number % len(STYLES)]
        seeds = f" ({seeds_of(curve.steps, curve.n)})" if len(curve.seeds) > 1 else ""
        axis.plot(
            curve.x,
            curve.middle,
            color=colour,
            marker=marker,
            markersize=4,
            markevery=max(1, len(curve.x) // 10),
            linestyle=("-", "--", "-.", ":")[number // len(STYLES) % 4],
            label=curve.label + seeds,
        )
        if len(curve.seeds) > 1:
            axis.fill_between(curve.x, curve.low, curve.high, color=colour, alpha=0.15, linewidth=0)
        if len(curve.x) == 1:
            axis.annotate(
                f"{curve.middle[0]:.4g}",
                (curve.x[0], curve.middle[0]),
                xytext=(6, 4),
                textcoords="offset points",
            )
    if all(len(curve.x) == 1 for curve in found):
        axis.set_xlim(left=0)
    if logarithmic:
        axis.set_yscale("log")
        axis.yaxis.set_minor_locator(LogLocator(subs=(2, 5)))
        axis.yaxis.set_major_formatter("{x:g}")
        axis.yaxis.set_minor_formatter("{x:g}")
    else:
        axis.set_ylim(bottom=0)
    axis.xaxis.set_major_locator(MaxNLocator("auto", integer=True))
    axis.xaxis.set_major_formatter("{x:,.0f}")
    axis.set_xlabel(X[x])
    axis.set_ylabel(f"{'training' if split == 'train' else 'validation'} {Y[y]}")
    axis.grid(color="0.9")
    for text in axis.legend(fontsize=7).get_texts():
        text.set_parse_math(False)  # settings are text, whatever they hold
    return figure
