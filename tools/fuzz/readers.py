"""Everything of `fwt` that reads a file: a valid sample, how it is damaged, how it is read.

What is read without an error must be right: a reader raises `Broken` for what should have been
refused.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from pathlib import Path
from typing import Any

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
from tools.fuzz import damage, formats, samples
from tools.fuzz.dice import Dice
from tools.fuzz.guard import Broken
from tools.fuzz.tree import Tree, rearranged

Spoil = Callable[[Dice, Tree], Tree]


@dataclass(frozen=True)
class Reader:
    """One way into the product.

    Attributes:
        name: on the command line.
        sample: makes the valid files.
        spoil: damages them; the tree given is not changed.
        read: reads the folder, and raises `Broken` if what it got cannot be right.
        share: how many of a hundred cases it gets, roughly.
        writes: whether it may write in the folder.
    """

    name: str
    sample: Callable[[], Tree]
    spoil: Spoil
    read: Callable[[Path], Any]
    share: float
    writes: bool = field(default=False)

    def case(self, seed: int, number: int) -> Tree:
        """The files of a case, a pure function of the reader, the seed and the number."""
        return self.spoil(Dice(seed, self.name, number), self.sample())


def one(make: Callable[[Dice, bytes], bytes]) -> Spoil:
    """Damage to one of the files, taken at random."""

    def spoil(dice: Dice, tree: Tree) -> Tree:
        name = dice.pick(sorted(tree))
        entry = tree[name]
        return {**tree, name: make(dice, entry) if isinstance(entry, bytes) else entry}

    return spoil


def folder_of(dice: Dice, tree: Tree) -> Tree:
    """Damage to a run or checkpoint, once in three times with its hashes made to fit again."""
    damaged = _folder_of(dice, tree)
    return formats.resealed(damaged) if dice.one_in(3) else damaged


def _folder_of(dice: Dice, tree: Tree) -> Tree:
    """Damage by the kind of each file, or to which files there are."""
    if dice.one_in(4):
        return rearranged(dice, tree)
    name = dice.pick([path for path in sorted(tree) if isinstance(tree[path], bytes)])
    content = tree[name]
    if not isinstance(content, bytes):
        return tree
    if name.endswith(".safetensors"):
        return {**tree, name: formats.tensors(dice, content)}
    if name.endswith(".jsonl"):
        return {**tree, name: damage.lines(dice, content, damage.json_text)}
    if name.endswith(".json") or name == "DONE":
        return {**tree, name: damage.json_text(dice, content)}
    return {**tree, name: formats.pointer(dice, content)}


# --- what must hold of what was read -------------------------------------------------------


def meaning(found: Checkpoint) -> dict[str, Any]:
    """All of a checkpoint that can be compared."""
    arrays = {**found.params, **(found.moments or {})}
    return {
        "spec": json.dumps(found.spec.json_data(), sort_keys=True),
        "progress": found.progress.model_dump_json(),
        **{name: (array.dtype.str, array.shape, array.tobytes()) for name, array in arrays.items()},
    }


def sound(found: Checkpoint) -> Checkpoint:
    """Refuse a checkpoint whose weights are not those of its spec, or not finite."""
    faults = params.mismatches(model.parameters(found.spec.model), found.params)
    if faults:
        raise Broken(f"accepted: {faults}")
    usable(found.spec)
    return found


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


def _same(found: Checkpoint, wanted: Mapping[str, Any]) -> None:
    got = meaning(sound(found))
    apart = [name for name in wanted if got.get(name) != wanted[name]]
    if apart or got.keys() - wanted.keys():
        raise Broken(f"accepted with other content: {apart}")


@cache
def _written(kind: str) -> Mapping[str, Any]:
    return meaning(samples.made(kind))


# --- checkpoints ---------------------------------------------------------------------------

MODEL = "model.safetensors"


def read_tensors(folder: Path) -> None:
    """A tensor file of any program."""
    checkpoint.read_tensors(folder / MODEL)


def read_model(folder: Path) -> None:
    """A model file alone: with its digest it must be what was written."""
    found = sound(checkpoint.read(folder / MODEL))
    if formats.has_digest((folder / MODEL).read_bytes()):
        wanted = {**_written("fast-weights"), "progress": found.progress.model_dump_json()}
        _same(found, {key: v for key, v in wanted.items() if key[:2] not in ("m.", "v.")})


def _held(folder: Path, found: Checkpoint, kind: str) -> None:
    """A checkpoint whose state has its digest is what was written; another is at least sound."""
    if "state.json" in json.loads((folder / "state.json").read_bytes())["sha256"]:
        _same(found, _written(kind))
    else:
        sound(found)


def read_checkpoint(folder: Path) -> None:
    """A checkpoint folder."""
    _held(folder, checkpoint.read(folder), "fast-weights")


def read_layout(folder: Path) -> None:
    """A folder in a framework's layout."""
    found = foreign.load(folder)
    _held(folder, found, "lstm")
    shutil.rmtree(folder / "out", ignore_errors=True)
    foreign.save(folder / "out", found, "fwt")


def read_run(folder: Path) -> None:
    """Everything that is read of a run by the commands that show or compare runs."""
    found = sound(find_checkpoint(folder))
    if "state.json" in checkpoint.read_state(found.path).sha256:
        got, wanted = meaning(found), _written("fast-weights")
        if any(got[name] != wanted[name] for name in wanted if name != "progress"):
            raise Broken("the run's checkpoint has other content")
    summary.of_folder(folder)
    read_curves(folder)


def resume_run(folder: Path) -> None:
    """What `fwt train --resume` does with the files: it writes too."""
    run = RunFolder.open(folder)
    usable(run.read_spec())
    still = samples.Still(samples.made())
    with run:
        progress = run.restore(still)
        run.read_json("DONE")
        run.sessions()
        run.append_metrics({"step": progress.step + 1, "split": "train", "loss": 1.0})
        further = progress.model_copy(update={"step": 4})
        run.save(still, samples.spec(), further)


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
    found = summary.load(folder / "results.json")
    for record in found:
        usable(record.spec)
    summary.store(folder / "again.json", summary.merged(found, []))
    if summary.load(folder / "again.json") != summary.merged(found, []):
        raise Broken("records do not come back as they were stored")


# --- foreign files -------------------------------------------------------------------------


def read_foreign(name: str, layout: str, folder: Path) -> None:
    """A file of another program, with its spec beside it, through `fwt convert`."""
    from fwt.opening import pt_reader

    path, said = folder / name, folder / "spec.json"
    found = foreign.load(path, said, layout, pt_reader(path))
    shutil.rmtree(folder / "out", ignore_errors=True)
    foreign.save(folder / "out", sound(found), "fwt")


# --- settings ------------------------------------------------------------------------------

_load = cache(tasks.load)


def read_settings(name: str, folder: Path) -> None:
    """A file for `--config`, down to the run it stands for."""
    config = read_config(folder / name)
    usable(resolve("retrieval", None, config, {}, None, None, _load).spec)


def read_sweep(folder: Path) -> None:
    """A sweep file, down to its runs."""
    found = plans.read(folder / "sweep.toml")
    if found.task != "retrieval":
        return  # other tasks look for data

    made = plans.Plan(found)
    for group in made.groups:
        for setting in group.settings:
            for spec in setting.specs:
                usable(spec)


# --- data ----------------------------------------------------------------------------------

OPEN, KNOWN = "emnist-digits", "kmnist"  # without checksums, with them


def read_images(folder: Path) -> None:
    """A dataset of which no checksum is known."""
    found = datasets.images(OPEN, folder)
    for images, labels in (
        (found.train_images, found.train_labels),
        (found.test_images, found.test_labels),
    ):
        if images.shape != (len(labels), 28, 28) or images.dtype != np.uint8:
            raise Broken(f"images of {images.shape} {images.dtype}, {len(labels)} labels")
        if labels.size and not 0 <= labels.min() <= labels.max() < len(found.source.classes):
            raise Broken(f"labels {labels}")


@cache
def _pinned() -> Source:
    """The small dataset as one whose checksums are known."""
    contents = [formats.unpacked(entry) for entry in samples.dataset(KNOWN).values()]
    counts = (samples.IMAGES, samples.IMAGES, samples.TESTS, samples.TESTS)
    known = SOURCES[KNOWN]
    files = tuple(
        replace(file, count=count, md5=formats.md5(content), gz_md5=None)
        for file, count, content in zip(known.files, counts, contents, strict=True)
    )
    return replace(known, files=files)


def read_known_images(folder: Path) -> None:
    """A dataset whose checksums are known: it is the true one, or it is refused."""
    source, wanted = _pinned(), samples.dataset(KNOWN)
    before, SOURCES[KNOWN] = SOURCES[KNOWN], source
    try:
        found = datasets.images(KNOWN, folder)
    finally:
        SOURCES[KNOWN] = before
    arrays = (found.train_images, found.train_labels, found.test_images, found.test_labels)
    for array, entry in zip(arrays, wanted.values(), strict=True):
        if not formats.unpacked(entry).endswith(array.astype(np.uint8).tobytes()):
            raise Broken("other images than those of the checksums")


def read_picture(name: str, folder: Path) -> None:
    """An image of one's own."""
    reader = tasks.reader(tasks.parse({"kind": "mnist-glimpse", "dataset": "mnist"}))
    found = reader.parse(str(folder / name))
    if found.shape != (24, 49) or found.dtype != np.float32 or not np.isfinite(found).all():
        raise Broken(f"glimpses of {found.shape} {found.dtype}")
    if not 0 <= found.min() <= found.max() <= 1:
        raise Broken(f"pixels of {found.min()}..{found.max()}")


def read_examples(folder: Path) -> None:
    """A file of strings for `fwt predict`."""
    from fwt.cli.predict import _given

    reader = RetrievalReader()
    for line in _given(None, folder / "examples.txt") or []:
        symbols = reader.parse(line)
        if symbols.min() < 0 or symbols.max() >= 37:
            raise Broken(f"symbols {symbols}")


def read_command(folder: Path) -> None:
    """The whole command, which must end with a code of its list; see `formats.command`."""
    formats.command(folder)


def _run_files(*names: str) -> Tree:
    return {name: entry for name, entry in samples.run().items() if name in names}


READERS = {
    reader.name: reader
    for reader in (
        Reader("tensors", lambda: {MODEL: samples.layout("fwt", "fast-weights")[MODEL]},
               one(formats.tensors), read_tensors, 12),
        Reader("model", lambda: {MODEL: samples.layout("fwt", "fast-weights")[MODEL]},
               one(formats.tensors), read_model, 12),
        Reader("checkpoint", lambda: samples.layout("fwt", "fast-weights"), folder_of,
               read_checkpoint, 10),
        Reader("layout-torch", lambda: samples.layout("torch"), folder_of, read_layout, 5, True),
        Reader("layout-mlx", lambda: samples.layout("mlx"), folder_of, read_layout, 5, True),
        Reader("npz", lambda: {"weights.npz": samples.npz(),
                               "spec.json": samples.said("lstm")},
               formats.npz_or_spec, partial(read_foreign, "weights.npz", "mlx"), 6, True),
        Reader("pt", lambda: {"weights.pt": samples.state_dict(),
                              "spec.json": samples.said("lstm")},
               formats.pt_or_spec, partial(read_foreign, "weights.pt", "torch"), 3, True),
        Reader("run", samples.run, folder_of, read_run, 5),
        Reader("resume", samples.run, folder_of, resume_run, 3, True),
        Reader("spec", lambda: _run_files("spec.json"), one(damage.json_text), read_spec, 9),
        Reader("metrics", lambda: _run_files("spec.json", "metrics.jsonl", "run.json"),
               folder_of, read_curves, 4),
        Reader("records", lambda: {"results.json": samples.records()}, one(damage.json_text),
               read_records, 4, True),
        Reader("config-toml", lambda: {"config.toml": samples.CONFIG}, one(formats.toml),
               partial(read_settings, "config.toml"), 6),
        Reader("config-json", lambda: {"config.json": samples.run()["spec.json"]},
               one(damage.json_text), partial(read_settings, "config.json"), 4),
        Reader("sweep", lambda: {"sweep.toml": samples.SWEEP}, formats.either_sweep, read_sweep, 3),
        Reader("images", lambda: samples.dataset(OPEN), formats.images, read_images, 5),
        Reader("known-images", lambda: samples.dataset(KNOWN), formats.images,
               read_known_images, 4),
        Reader("npy", lambda: {"digit.npy": samples.npy()}, one(formats.npy),
               partial(read_picture, "digit.npy"), 4),
        Reader("png", lambda: {"digit.png": samples.png()}, one(formats.png),
               partial(read_picture, "digit.png"), 4),
        Reader("examples", lambda: {"examples.txt": b"c9k8j3f1??c\na1b2??a\n"},
               one(formats.examples), read_examples, 3),
        Reader("command", formats.run_and_command, formats.any_run, read_command, 0.3, True),
    )
}  # fmt: skip
