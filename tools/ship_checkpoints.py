"""Put trained networks into `checkpoints/`, with a card, a comparison of backends and an index.

python -m tools.ship_checkpoints --runs-dir runs --task retrieval
python -m tools.ship_checkpoints --runs-dir runs --task mnist-glimpse --model fast-weights

takes, of each cell of the published table on PyTorch, the seed with the lowest validation error.
Without --task it only writes cards, comparisons and the index of what is there.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fwt import backends, tasks
from fwt.fwcore.errors import CheckFailed, ConfigError
from fwt.fwcore.storage.checkpoint import (
    Checkpoint,
    read,
    read_object,
    read_progress,
    sha256,
    write,
)
from fwt.fwcore.storage.durable import write_text
from fwt.fwcore.storage.runs import RunFolder, default_path
from fwt.fwcore.training.batches import Split
from fwt.opening import on_backend
from fwt.parity import compare_backends, names_of, number_type
from fwt.reproduce.cells import PUBLISHED, Cell
from fwt.reproduce.run import cells_of
from fwt.reproduce.summary import PLACES, command_of, parameters_of
from fwt.tasks.sources import SUBSET

FOLDER = Path(__file__).parents[1] / "checkpoints"
MOST = 20 * 2**20  # bytes of all together
SLICE = 2000  # examples of the test split that every backend answers
INDEX, PARITY, CARD = "index.json", "parity.json", "README.md"
NAMES = "numpy,torch,mlx"


def shipped(folder: Path) -> list[Path]:
    """The checkpoints in the folder, by name."""
    return sorted(path.parent for path in folder.glob("*/spec.json"))


def slice_of(found: Checkpoint) -> tuple[str, Split]:
    """The dataset's name and the examples that a shipped checkpoint is tried on.

    They need no download: of a set of images, those of the bundled subset.
    """
    options = dict(found.spec.task) | ({"dataset": SUBSET} if "dataset" in found.spec.task else {})
    task = tasks.load(tasks.parse(options))
    split = task.split("test")
    return task.dataset, Split(split.inputs[:SLICE], split.targets[:SLICE])


def wrong_of(name: str, found: Checkpoint, split: Split) -> int:
    """How many answers of a backend are wrong."""
    model = on_backend(name, found, "cpu" if name == "numpy" else "auto", "auto")
    return int(np.sum(model.forward(split.inputs).argmax(1) != split.targets))


def best_run(cell: Cell, runs_dir: Path) -> Path | None:
    """The finished run of a cell with the lowest validation error, then loss."""
    found = []
    for seed in cell.seeds:
        path = default_path(runs_dir, cell.seeded(seed), cell.model, cell.backend)
        done = RunFolder(path).read_json("DONE")
        if done is not None:
            found.append((done["val"]["error_pct"], done["val"]["loss"], path))
    return min(found)[2] if found else None


def ship(cell: Cell, run: Path, folder: Path) -> Path:
    """Copy a run's best checkpoint but its optimiser's moments, its metrics and its environment."""
    best = RunFolder.open(run).best()
    if best is None:
        raise ConfigError(f"{run}: expected a run with a best checkpoint, got none")
    target = folder / f"{cell.task}-{cell.model}-r{cell.size}"
    found = read(best)
    write(target, found.spec, found.params, None, found.progress)
    for name in ("spec.json", "metrics.jsonl"):
        shutil.copyfile(run / name, target / name)
    sessions = [_placeless(each) for each in read_object(run / "run.json")["sessions"]]
    write_text(target / "run.json", json.dumps({"sessions": sessions}, indent=1) + "\n")
    return target


def _placeless(session: Mapping[str, Any]) -> dict[str, Any]:
    """A session without the places of its files, which mean nothing elsewhere."""
    words, kept = iter(session["argv"]), []
    for word in words:
        if word in PLACES:
            next(words, None)
        else:
            kept.append(word)
    return {**session, "argv": kept}


def parity(path: Path) -> dict[str, Any]:
    """What `fwt verify --json` says of the slice, kept while the weights are the same.

    Raises:
        CheckFailed: two backends differ by more than the tolerances.
    """
    weights = sha256(path / "model.safetensors")
    if (path / PARITY).is_file():
        known = read_object(path / PARITY)
        if known["sha256"] == weights and known["slice"] == SLICE:
            return known
    found = read(path)
    dataset, split = slice_of(found)
    rows = compare_backends(found, split, names_of(NAMES), "cpu", "auto")
    if not all(row["ok"] for row in rows):
        raise CheckFailed(f"{path}: backends differ: {rows}")
    versions = {}
    for name in NAMES.split(","):
        versions |= backends.load(name).versions()
    result = {
        "sha256": weights,
        "slice": SLICE,
        "split": "test",
        "dataset": dataset,
        "examples": len(split),
        "wrong": wrong_of("numpy", found, split),
        "dtype": number_type(found),
        "versions": versions,
        "pairs": rows,
    }
    write_text(path / PARITY, json.dumps(result, indent=1) + "\n")
    return result


def facts(path: Path) -> dict[str, Any]:
    """What the card and the index say of a checkpoint, from the files beside it."""
    spec = RunFolder.open(path).read_spec()
    sessions = read_object(path / "run.json")["sessions"]
    lines = [json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()]
    test, last = lines[-1], sessions[-1]
    progress = read_progress(path)
    if test["split"] != "test" or progress.best is None:
        raise ConfigError(f"{path}: expected the metrics of a run that is done")
    task, model, size = str(spec.task["kind"]), last["model"], spec.model.core.size
    return {
        "task": task,
        "model": model,
        "size": size,
        "seed": spec.train.seed,
        "dataset": last["dataset"],
        "digest": spec.run_digest(),
        "parameters": parameters_of(spec),
        "test_error_pct": test["error_pct"],
        "test_examples": test["examples"],
        "val_error_pct": progress.best.error_pct,
        "best_step": progress.best.step,
        "steps": test["step"],
        "train_s": test["elapsed_s"],
        "published_pct": PUBLISHED[task]["P"].get(model, {}).get(size),
        "backend": last["backend"],
        "device": last["device"],
        "commit": last["commit"],
        "command": command_of(sessions[0]["argv"]),
    }


CARD_TEXT = """# {model}, R = {size}, {task}

Test error {test_error_pct:.2f} % of {test_examples:,} examples ({dataset}), of the checkpoint with
the lowest validation error, {val_error_pct:.2f} %. Published (Ba et al. 2016): {published}.

| | |
|---|---|
| parameters | {parameters:,} |
| updates | {best_step:,} of {steps:,} |
| seed | {seed} |
| trained on | {backend}, {device}; {minutes:.1f} minutes |
| commit | {commit} |
| command | `{command}` |

```
fwt eval checkpoints/{name}{data}
```

On the first {examples:,} test examples of {tried} NumPy, PyTorch and MLX give the same answers,
{wrong} of them wrong; logits differ by at most {largest:.0e} of the largest
([parity.json](parity.json)). Where several seeds were run, this is the one with the lowest
validation error; RESULTS.md has all of them, their mean and their spread. The network knows this
task alone: its answer to anything else means nothing. Licence: MIT, as the code.
"""


def card(path: Path, known: Mapping[str, Any], compare: Mapping[str, Any]) -> str:
    """The README of a checkpoint."""
    published = known["published_pct"]
    return CARD_TEXT.format(
        **{**known, "published": "nothing" if published is None else f"{published:.2f} %"},
        name=path.name,
        minutes=known["train_s"] / 60,
        data="" if compare["dataset"] == known["dataset"] else f" --dataset {compare['dataset']}",
        examples=compare["examples"],
        tried=compare["dataset"],
        wrong=compare["wrong"],
        largest=max(row["logit_rel"] for row in compare["pairs"]),
    )


def index(folder: Path) -> dict[str, Any]:
    """Every checkpoint: what it is, what it answers, and the hash of each of its files."""
    found = {}
    for path in shipped(folder):
        compare = parity(path)
        known = facts(path)
        write_text(path / CARD, card(path, known, compare))
        files = sorted(file for file in path.iterdir() if file.is_file())
        kept = ("dataset", "split", "examples", "wrong")
        found[path.name] = {
            **known,
            "slice": {key: compare[key] for key in kept},
            "bytes": sum(file.stat().st_size for file in files),
            "sha256": {file.name: sha256(file) for file in files},
        }
    return found


def page(found: Mapping[str, Mapping[str, Any]]) -> str:
    """The README of the folder."""
    rows = [
        f"| [{name}]({name}/{CARD}) | {each['dataset']} | {each['test_error_pct']:.2f} | "
        f"{each['parameters']:,} | {each['seed']} | {each['bytes'] / 1e6:.2f} MB |"
        for name, each in found.items()
    ]
    table = "\n".join(rows)
    return f"""# Trained networks

Each folder is a checkpoint as `fwt train` writes it, without the optimiser's moments, with the
settings, the metrics and the environment of its run, a comparison of the backends and a card. Every
backend opens it as it is:

```
fwt eval checkpoints/retrieval-fast-weights-r20
fwt verify checkpoints/retrieval-fast-weights-r20
```

| folder | data | test error, % | parameters | seed | size |
|---|---|---|---|---|---|
{table}

[{INDEX}]({INDEX}) has the hash of every file. Written by `python -m tools.ship_checkpoints`.
Licence: MIT, as the code.
"""


def wanted_cells(
    task: str, models: Sequence[str] | None, sizes: Sequence[int] | None
) -> list[Cell]:
    """The cells of the published table, on PyTorch."""
    return [
        cell
        for cell in cells_of(task).group("table")
        if cell.backend == "torch"
        and cell.spec is not None
        and cell.model in (models or (cell.model,))
        and cell.size in (sizes or (cell.size,))
    ]


def main() -> None:
    """Ship what was asked for, then write cards, comparisons and the index.

    Raises:
        CheckFailed: backends differ, or all together is too large.
    """
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--task", choices=list(PUBLISHED))
    parser.add_argument("--model", action="append")
    parser.add_argument("--size", type=int, action="append")
    given = parser.parse_args()
    for cell in wanted_cells(given.task, given.model, given.size) if given.task else []:
        run = best_run(cell, given.runs_dir.resolve())
        print(f"{cell.name}: {run or 'no finished run'}", file=sys.stderr)
        if run is not None:
            ship(cell, run, FOLDER)
    found = index(FOLDER)
    write_text(FOLDER / INDEX, json.dumps(found, indent=1) + "\n")
    write_text(FOLDER / CARD, page(found))
    total = sum(file.stat().st_size for file in FOLDER.rglob("*") if file.is_file())
    print(f"{len(found)} checkpoints, {total / 2**20:.1f} of {MOST / 2**20:.0f} MiB")
    if total > MOST:
        raise CheckFailed(f"{FOLDER}: expected at most {MOST} bytes, got {total}")


if __name__ == "__main__":
    main()
