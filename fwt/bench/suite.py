"""All of a benchmark: every subject at every shape, checked, then measured side by side."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from fwt.bench import child, roofline, timing
from fwt.bench.check import STREAMED, check, check_stream, checked_shape
from fwt.bench.roofline import Ceilings
from fwt.bench.shapes import TRAIN, Shape, batch_of, spec_of, weights_of
from fwt.bench.subjects import NAIVE, OWN, Framework, Subject, kind_of
from fwt.fwcore import limits
from fwt.fwcore.analysis import estimate
from fwt.fwcore.errors import CheckFailed, FwtError
from fwt.fwcore.ops import NumpyArray

MEASURES = ("train", "forward", "stream", "memory")
OK, NOT_RUN, FAILED = "ok", "not run", "fails the check"

STREAM_STEPS = 20  # single steps a sample: one is near the resolution of a clock
PATIENCE = 20  # a subject whose least rounds take this many times its budget is not run

LARGE_STEPS, LARGE_NUMBERS = 250, 5e8  # T, B T R^2: from here on a step is tried in a child first

Row = dict[str, Any]
Tell = Callable[[str], None]


@dataclass(frozen=True)
class Options:
    """What is measured.

    Attributes:
        subjects: names of `SUBJECTS`.
        measures: names of `MEASURES`.
        rounds: the most rounds of a subject.
        seconds: time budget of a subject at a shape and measure; at least `timing.LEAST` rounds
            are made.
    """

    subjects: tuple[str, ...]
    measures: tuple[str, ...]
    rounds: int
    seconds: float

    @property
    def longest(self) -> float:
        """Seconds that a single step, and the compilation of the first, may take."""
        return PATIENCE * self.seconds / timing.LEAST


@dataclass
class Contender:
    """A subject at a shape on its way to a row: alive, or ruled out and why.

    Attributes:
        status: one of `OK`, `NOT_RUN`, `FAILED`.
        reason: why it is not measured.
        gaps: what the check found.
        facts: which form and kernel run.
        peak: bytes and how they were measured.
        first: seconds of the first call.
    """

    name: str
    status: str = OK
    reason: str = ""
    gaps: Mapping[str, float] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    peak: tuple[int, str] | None = None
    first: dict[str, float] = field(default_factory=dict)
    subject: Subject | None = None

    def rule_out(self, status: str, reason: object) -> None:
        """Take it out of the race."""
        self.status, self.reason, self.subject = status, str(reason), None


def rows_of(
    side: Framework, shape: Shape, options: Options, ceilings: Ceilings, tell: Tell
) -> list[Row]:
    """Train, forward and memory rows of one shape, every subject in every one of them."""
    wanted = [name for name in options.measures if name != "stream"]
    if not wanted:
        return []
    data = batch_of(shape)
    racing = [Contender(name) for name in options.subjects]
    for one in racing:
        tell(f"{side.backend.name} {shape} {one.name}: check")
        _admit(side, one, shape, options)
        if one.status == OK:
            _build(side, one, shape, data)
    rows = []
    for measure in wanted:
        tell(f"{side.backend.name} {shape}: {measure}")
        timings = {} if measure == "memory" else _race(side, racing, measure, options)
        rows += [_row(one, measure, shape, timings, ceilings) for one in racing]
    for one in racing:
        one.subject = None
    side.release()
    return compared(rows)


def stream_rows(
    side: Framework, shape: Shape, options: Options, ceilings: Ceilings, tell: Tell
) -> list[Row]:
    """Latency of one time step of one sequence, for R and S of a shape."""
    shape = shape._replace(batch=1, steps=1)
    racing = [Contender(name) for name in options.subjects]
    calls: dict[str, timing.Call] = {}
    x = side.native(batch_of(shape).inputs[:, 0])
    for one in racing:
        tell(f"{side.backend.name} R={shape.size} S={shape.inner} {one.name}: stream")
        try:
            one.gaps = check_stream(side, one.name, shape)
            spec = spec_of(kind_of(one.name), shape)
            calls[one.name] = _streaming(side, side.streamer(one.name, spec, weights_of(spec)), x)
        except CheckFailed as error:
            one.rule_out(FAILED, error)
        except FwtError as error:
            one.rule_out(NOT_RUN, error)
    timings = _timed(racing, "stream", calls, options, STREAM_STEPS)
    return compared([_row(one, "stream", shape, timings, ceilings) for one in racing])


def _streaming(side: Framework, streamer: Any, x: Any) -> timing.Call:
    def steps() -> None:
        for _ in range(STREAM_STEPS):
            side.wait(streamer.step(x))

    return steps


def _admit(side: Framework, one: Contender, shape: Shape, options: Options) -> None:
    """Rule a subject out that does not fit, takes too long or fails the check."""
    try:
        reason = lacks_room(side, one.name, shape)
        if reason:
            one.rule_out(NOT_RUN, reason)
            return
        if _needs_child(side, shape, options):
            told = child.probe(side, one.name, shape, options.longest)
            if side.peak_how is None:
                one.peak = (told.peak_bytes, told.how)
            if max(told.first, told.seconds) > options.longest:
                one.rule_out(NOT_RUN, too_long(max(told.first, told.seconds), options))
                return
        one.gaps = check(side, one.name, shape)
    except CheckFailed as error:
        one.rule_out(FAILED, error)
    except (FwtError, child.Died) as error:
        one.rule_out(NOT_RUN, error)


def _needs_child(side: Framework, shape: Shape, options: Options) -> bool:
    large = shape.steps >= LARGE_STEPS or shape.batch * shape.steps * shape.size**2 >= LARGE_NUMBERS
    return large or (side.peak_how is None and "memory" in options.measures)


def lacks_room(side: Framework, name: str, shape: Shape) -> str:
    """Why a training step does not fit into memory; "" if it does."""
    spec = spec_of(kind_of(name), shape)
    train = TRAIN.model_copy(update={"batch_size": shape.batch})
    form = "matrix" if name == NAIVE else "auto" if name in OWN else name
    needed = estimate.training_bytes(spec, train, shape.steps, form)
    room = side.backend.memory_bytes(side.device)
    if side.device == "cpu":
        room = min(room, limits.free_bytes())
    if needed <= room:
        return ""
    return f"a step needs about {needed / 2**30:.1f} GiB, {room / 2**30:.1f} GiB are free"


def too_long(seconds: float, options: Options) -> str:
    """The reason for a subject whose step takes longer than it may."""
    return (
        f"a step, or the compilation of the first, takes {seconds:.1f} s; allowed are "
        f"{options.longest:g} s; more --seconds allow more"
    )


def _build(side: Framework, one: Contender, shape: Shape, data: Any) -> None:
    """The subject itself, and its peak memory where the framework counts."""
    spec = spec_of(kind_of(one.name), shape)
    params: dict[str, NumpyArray] = weights_of(spec)
    if side.peak_how is None:
        one.subject = side.subject(one.name, spec, params, data)
    else:
        side.release()
        before = side.allocated()
        side.reset_peak()
        one.subject = side.subject(one.name, spec, params, data)
        for _ in range(timing.WARM):  # a graph is captured after a few eager steps
            begin = timing.timed(_training(side, one.subject))
            one.first.setdefault("train", begin)
        one.peak = (side.peak() - before, side.peak_how)
    one.facts = one.subject.facts


def _training(side: Framework, subject: Subject) -> timing.Call:
    return lambda: side.wait(subject.train())


def _forward(side: Framework, subject: Subject) -> timing.Call:
    return lambda: side.wait(subject.forward())


def _race(
    side: Framework, racing: list[Contender], measure: str, options: Options
) -> dict[str, dict[str, float]]:
    make = {"train": _training, "forward": _forward}[measure]
    calls = {one.name: make(side, one.subject) for one in racing if one.subject is not None}
    return _timed(racing, measure, calls, options, 1)


def _timed(
    racing: list[Contender],
    measure: str,
    calls: dict[str, timing.Call],
    options: Options,
    per_sample: int,
) -> dict[str, dict[str, float]]:
    """Warm all up, then time them in turns; one that turns out too slow is ruled out."""
    counts: dict[str, int] = {}
    short: set[str] = set()
    for one in racing:
        if one.name not in calls:
            continue
        first, typical = timing.warmed(calls[one.name], options.seconds)
        one.first.setdefault(measure, first / per_sample)
        if typical > options.longest:
            one.rule_out(NOT_RUN, too_long(typical, options))
            del calls[one.name]
        else:
            counts[one.name] = timing.rounds_for(typical, options.seconds, options.rounds)
            short |= {one.name} if typical < timing.SHORT_S else set()
    samples = timing.measure(calls, counts, short)
    return {name: timing.summary(times, per_sample) for name, times in samples.items()}


TIMES = ("median_ms", "q25_ms", "q75_ms", "iqr_ms", "n")


def _row(
    one: Contender,
    measure: str,
    shape: Shape,
    timings: Mapping[str, Mapping[str, float]],
    ceilings: Ceilings,
) -> Row:
    """One subject, one measure, one shape; every key is there, None where there is no number."""
    row: Row = {
        "measure": measure,
        **shape._asdict(),
        "subject": one.name,
        "status": one.status,
        "reason": one.reason,
        **one_facts(one),
        "checked_at": _checked_at(measure, shape),
        "apart": dict(one.gaps),
        **dict.fromkeys((*TIMES, "first_ms", "operations", "bytes", "floor_ms", "floor_by")),
        **dict.fromkeys(("of_floor", "peak_bytes", "peak_how", "to_lstm", "naive_to")),
    }
    if one.status != OK:
        return row
    if measure == "memory":
        if one.peak is not None:
            row["peak_bytes"], row["peak_how"] = one.peak
        return row
    work = roofline.WORK[measure](kind_of(one.name), shape)
    floor = roofline.floor_of(work, ceilings)
    row |= timings[one.name]
    row |= {"operations": work.operations, "bytes": work.bytes}
    row |= {"floor_ms": floor.ms, "floor_by": floor.by, "of_floor": floor.ms / row["median_ms"]}
    row["first_ms"] = 1e3 * one.first[measure]
    return row


def one_facts(one: Contender) -> dict[str, Any]:
    """Form, kernel and kind of step, as the subject itself tells."""
    return {key: one.facts.get(key) for key in ("memory", "chunk", "kernel", "step")}


def _checked_at(measure: str, shape: Shape) -> list[int]:
    part = shape._replace(steps=STREAMED) if measure == "stream" else checked_shape(shape)
    return list(part)


def compared(rows: list[Row]) -> list[Row]:
    """The rows of one shape with their ratios to `lstm`, and of `naive` to them."""
    for row in rows:
        value = "peak_bytes" if row["measure"] == "memory" else "median_ms"
        same = {
            other["subject"]: other[value] for other in rows if other["measure"] == row["measure"]
        }
        if row[value]:
            row["to_lstm"] = row[value] / same["lstm"] if same.get("lstm") else None
            row["naive_to"] = same["naive"] / row[value] if same.get("naive") else None
    return rows
