"""Everything of `fwt` that reads a file: its valid files, and how they are read.

What is read without an error must be right: a reader raises `Broken` for what should have been
refused.
"""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from fwt import tasks
from fwt.fwcore import model, params
from fwt.fwcore.spec import RunSpec
from fwt.fwcore.storage import checkpoint, foreign
from fwt.fwcore.storage.checkpoint import Checkpoint
from fwt.fwcore.storage.runs import RunFolder, find_checkpoint
from fwt.reproduce import summary
from fwt.settings import name_of, read_config, resolve
from fwt.sweep import plan as plans
from fwt.tasks import datasets
from fwt.tasks.retrieval import RetrievalReader
from fwt.tasks.sources import SOURCES, Source
from tests.cli_tools import typed
from tests.fuzz import samples
from tests.fuzz.formats import PICTURE, has_digest, npy_of, png_of, unpack
from tests.fuzz.guard import Broken
from tests.fuzz.tree import Tree


class Reader(NamedTuple):
    """One way into the product.

    Attributes:
        sample: makes the valid files.
        read: reads the folder, and raises `Broken` if what it got cannot be right.
        writes: whether it may write in the folder.
    """

    sample: Callable[[], Tree]
    read: Callable[[Path], Any]
    writes: bool = False


# --- what must hold of what was read -------------------------------------------------------


def meaning(point: Checkpoint) -> dict[str, Any]:
    """All of a checkpoint that can be compared."""
    arrays = {**point.params, **(point.moments or {})}
    return {
        "spec": json.dumps(point.spec.json_data(), sort_keys=True),
        "progress": point.progress.model_dump_json(),
        **{name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()},
    }


def sound(point: Checkpoint) -> Checkpoint:
    """Refuse a checkpoint whose weights are not those of its spec, or not finite."""
    faults = params.mismatches(model.parameters(point.spec.model), point.params)
    if faults:
        raise Broken(f"accepted: {faults}")
    usable(point.spec)
    return point


def usable(spec: RunSpec) -> RunSpec:
    """What every command does with a spec before it works."""
    tasks.parse(spec.task, "spec")
    spec.run_digest()
    name_of(spec.model.core.json_data())
    params.count(model.parameters(spec.model))
    spec.train.total_steps(1000)
    if RunSpec.parse(spec.json_data(), "again") != spec:
        raise Broken("a spec that was accepted does not come back from its own JSON data")
    return spec


def check_same(point: Checkpoint, wanted: Mapping[str, Any]) -> None:
    got = meaning(sound(point))
    apart = [name for name in wanted if got.get(name) != wanted[name]]
    if apart or got.keys() - wanted.keys():
        raise Broken(f"accepted with other content: {apart}")


@cache
def original(kind: str) -> Mapping[str, Any]:
    return meaning(samples.checkpoint_of(kind))


# --- checkpoints ---------------------------------------------------------------------------

MODEL = "model.safetensors"


def read_tensors(folder: Path) -> None:
    """A tensor file of any program."""
    checkpoint.read_tensors(folder / MODEL)


def read_model(folder: Path) -> None:
    """A model file alone: with its digest it must be what was written."""
    point = sound(checkpoint.read(folder / MODEL))
    if has_digest((folder / MODEL).read_bytes()):
        wanted = {**original("fast-weights"), "progress": point.progress.model_dump_json()}
        check_same(point, {key: v for key, v in wanted.items() if key[:2] not in ("m.", "v.")})


def check_point(folder: Path, point: Checkpoint, kind: str) -> None:
    """A checkpoint whose state has its digest is what was written; another is at least sound."""
    if "state.json" in json.loads((folder / "state.json").read_bytes())["sha256"]:
        check_same(point, original(kind))
    else:
        sound(point)


def read_checkpoint(folder: Path) -> None:
    """A checkpoint folder."""
    check_point(folder, checkpoint.read(folder), "fast-weights")


def read_layout(folder: Path) -> None:
    """A folder in a framework's layout."""
    point = foreign.load(folder)
    check_point(folder, point, "lstm")
    shutil.rmtree(folder / "out", ignore_errors=True)
    foreign.save(folder / "out", point, "fwt")


def read_run(folder: Path) -> None:
    """Everything that is read of a run by the commands that show or compare runs."""
    point = sound(find_checkpoint(folder))
    if "state.json" in checkpoint.read_state(point.path).sha256:
        got, wanted = meaning(point), original("fast-weights")
        if any(got[name] != wanted[name] for name in wanted if name != "progress"):
            raise Broken("the run's checkpoint has other content")
    summary.of_folder(folder)
    read_curves(folder)


def resume_run(folder: Path) -> None:
    """What `fwt train --resume` does with the files: it writes too."""
    run, learner = RunFolder.open(folder), samples.model_of()
    usable(run.read_spec())
    with run:
        progress = run.restore(learner)
        run.read_json("DONE")
        run.sessions()
        run.append_metrics({"step": progress.step + 1, "split": "train", "loss": 1.0})
        run.save(learner, samples.spec(), progress.model_copy(update={"step": 4}))


def read_curves(folder: Path) -> None:
    """What `fwt plot` reads of a run."""
    from fwt.plots.curves import Run, curves, metrics

    run = RunFolder.open(folder)
    spec = usable(run.read_spec())
    sessions = run.sessions() or [{}]
    backend = str(sessions[-1].get("backend", ""))
    for y in ("error", "loss"):
        for curve in curves([Run(folder, "x", backend, spec, metrics(run))], "updates", y, "val"):
            if not all(map(np.isfinite, (*curve.x, *curve.middle))):
                raise Broken(f"a curve that is not of finite numbers: {curve}")


def read_spec(folder: Path) -> None:
    """A run's spec."""
    usable(RunFolder.open(folder).read_spec())


def read_records(folder: Path) -> None:
    """Stored results, which must come back as they are stored again."""
    records = summary.load(folder / "results.json")
    for record in records:
        usable(record.spec)
    summary.store(folder / "again.json", summary.merged(records, []))
    if summary.load(folder / "again.json") != summary.merged(records, []):
        raise Broken("records do not come back as they were stored")


# --- foreign files -------------------------------------------------------------------------


def read_foreign(name: str, layout: str, folder: Path) -> None:
    """A file of another program, with its spec beside it, through `fwt convert`."""
    from fwt.opening import pt_reader

    path = folder / name
    point = foreign.load(path, folder / "spec.json", layout, pt_reader(path))
    shutil.rmtree(folder / "out", ignore_errors=True)
    foreign.save(folder / "out", sound(point), "fwt")


# --- settings ------------------------------------------------------------------------------

_load = cache(tasks.load)


def read_settings(name: str, folder: Path) -> None:
    """A file for `--config`, down to the run it stands for."""
    config = read_config(folder / name)
    usable(resolve("retrieval", None, config, {}, None, None, _load).spec)


def read_sweeps(folder: Path) -> None:
    """Sweep files, down to their runs."""
    for name in ("grid.toml", "search.toml"):
        sweep = plans.read(folder / name)
        if sweep.task == "retrieval":  # other tasks look for data
            for group in plans.Plan(sweep).groups:
                for setting in group.settings:
                    for spec in setting.specs:
                        usable(spec)


# --- data ----------------------------------------------------------------------------------

OPEN, KNOWN = "emnist-digits", "kmnist"  # without checksums, with them


def read_images(folder: Path) -> None:
    """A dataset of which no checksum is known."""
    data = datasets.images(OPEN, folder)
    for images, labels in (
        (data.train_images, data.train_labels),
        (data.test_images, data.test_labels),
    ):
        if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
            raise Broken(f"images of {images.shape} {images.dtype}, {len(labels)} labels")
        if labels.size and not 0 <= labels.min() <= labels.max() < len(data.source.classes):
            raise Broken(f"labels {labels}")


def checksum(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


@cache
def source_with_checksums() -> Source:
    """The small dataset as one whose checksums are known."""
    contents = [unpack(entry) for entry in samples.dataset(KNOWN).values()]
    counts = (samples.IMAGES, samples.IMAGES, samples.TESTS, samples.TESTS)
    known = SOURCES[KNOWN]
    files = tuple(
        replace(file, count=count, gz_md5=None, md5=checksum(content))
        for file, count, content in zip(known.files, counts, contents, strict=True)
    )
    return replace(known, files=files)


def read_known_images(folder: Path) -> None:
    """A dataset whose checksums are known: it is the true one, or it is refused."""
    source, wanted = source_with_checksums(), samples.dataset(KNOWN)
    before, SOURCES[KNOWN] = SOURCES[KNOWN], source
    try:
        data = datasets.images(KNOWN, folder)
    finally:
        SOURCES[KNOWN] = before
    arrays = (data.train_images, data.train_labels, data.test_images, data.test_labels)
    for array, entry in zip(arrays, wanted.values(), strict=True):
        if not unpack(entry).endswith(array.astype(np.uint8).tobytes()):
            raise Broken("other images than those of the checksums")


def read_picture(name: str, folder: Path) -> None:
    """An image of one's own."""
    reader = tasks.reader(tasks.parse({"kind": "mnist-glimpse", "dataset": "mnist"}))
    views = reader.parse(str(folder / name))
    if views.shape != (24, 49) or views.dtype != np.float32 or not np.isfinite(views).all():
        raise Broken(f"glimpses of {views.shape} {views.dtype}")
    if not 0 <= views.min() <= views.max() <= 1:
        raise Broken(f"pixels of {views.min()}..{views.max()}")


def read_examples(folder: Path) -> None:
    """A file of strings for `fwt predict`."""
    from fwt.cli.predict import _given

    reader = RetrievalReader()
    for line in _given(None, folder / "examples.txt") or []:
        symbols = reader.parse(line)
        if symbols.min() < 0 or symbols.max() >= 37:
            raise Broken(f"symbols {symbols}")


def read_command(folder: Path) -> None:
    """Commands on the folder in this process; each must end with a code of the list."""
    shutil.rmtree(folder / "out", ignore_errors=True)
    for number in (folder / "command").read_bytes():
        done = typed(*(word.format(folder) for word in COMMANDS[number]))
        if done.code not in CODES:
            raise Broken(f"exit code {done.code}")
        if done.code and not done.err.startswith(("error: ", "warning: ")):
            raise Broken(f"exit code {done.code} and stderr {done.err!r}")
        if done.code == 0 and ("nan" in done.out or "inf" in done.out.split()):
            raise Broken(f"numbers that are none: {done.out[:300]!r}")


def files_of_run(*names: str) -> Tree:
    """Some files of the run."""
    return {name: entry for name, entry in samples.run().items() if name in names}


def model_file() -> Tree:
    """A file of weights alone."""
    return {MODEL: samples.layout("fwt", "fast-weights")[MODEL]}


CODES = (0, 1, 2, 3, 4, 5)  # what `fwt --help` lists, but interruption
COMMANDS = (
    ("predict", "{}", "c9k8??c"), ("inspect", "{}", "--example", "c9k8??c", "--json"),
    ("plot", "{}", "--out", "{}/out.svg"), ("convert", "{}", "{}/out", "--to", "torch"),
    ("eval", "{}", "--backend", "numpy"),
)  # fmt: skip
EXAMPLES = b"c9k8j3f1??c\na1b2??a\n"
READERS = {
    "tensors": Reader(model_file, read_tensors),
    "model": Reader(model_file, read_model),
    "checkpoint": Reader(lambda: samples.layout("fwt", "fast-weights"), read_checkpoint),
    "layout-torch": Reader(lambda: samples.layout("torch"), read_layout, True),
    "layout-mlx": Reader(lambda: samples.layout("mlx"), read_layout, True),
    "npz": Reader(lambda: {"weights.npz": samples.npz(), "spec.json": samples.spec_file("lstm")},
                  partial(read_foreign, "weights.npz", "mlx"), True),
    "pt": Reader(lambda: {"weights.pt": samples.pt(), "spec.json": samples.spec_file("lstm")},
                 partial(read_foreign, "weights.pt", "torch"), True),
    "run": Reader(samples.run, read_run),
    "resume": Reader(samples.run, resume_run, True),
    "spec": Reader(lambda: files_of_run("spec.json"), read_spec),
    "metrics": Reader(lambda: files_of_run("spec.json", "metrics.jsonl", "run.json"), read_curves),
    "records": Reader(lambda: {"results.json": samples.records()}, read_records, True),
    "config-toml": Reader(lambda: {"config.toml": samples.CONFIG},
                          partial(read_settings, "config.toml")),
    "config-json": Reader(lambda: {"config.json": samples.spec_file("fast-weights")},
                          partial(read_settings, "config.json")),
    "sweep": Reader(lambda: {"grid.toml": samples.SWEEP, "search.toml": samples.SEARCH},
                    read_sweeps),
    "images": Reader(lambda: samples.dataset(OPEN), read_images),
    "known-images": Reader(lambda: samples.dataset(KNOWN), read_known_images),
    "npy": Reader(lambda: {"digit.npy": npy_of(PICTURE)},
                  partial(read_picture, "digit.npy")),
    "png": Reader(lambda: {"digit.png": png_of(PICTURE)},
                  partial(read_picture, "digit.png")),
    "examples": Reader(lambda: {"examples.txt": EXAMPLES}, read_examples),
    "command": Reader(lambda: {**samples.run(), "command": bytes(range(len(COMMANDS)))},
                      read_command, True),
}  # fmt: skip
