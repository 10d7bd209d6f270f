"""A value for every option of `fwt train`."""

from __future__ import annotations

from typing import Any

from tests.cli_tools import ROOT

RETRIEVAL = ("--task", "retrieval")
DIGITS = ("--task", "mnist-glimpse", "--dataset", "mnist-subset")
SHIPPED = ROOT / "checkpoints" / "retrieval-fast-weights-r20"
# flag -> (a value that is not the default, the arguments where the flag applies)
SAMPLES: dict[str, tuple[Any, tuple[str, ...]]] = {
    "pairs": (7, RETRIEVAL),
    "policy": ("raster", DIGITS),
    "dataset": ("emnist-digits", ("--task", "mnist-glimpse")),
    "size": (33, RETRIEVAL),
    "decay": (0.75, RETRIEVAL),
    "rate": (0.25, RETRIEVAL),
    "inner_steps": (3, RETRIEVAL),
    "norm": ("slow", RETRIEVAL),
    "epochs": (2.5, RETRIEVAL),
    "steps": (17, RETRIEVAL),
    "batch_size": (48, RETRIEVAL),
    "lr": (0.0625, RETRIEVAL),
    "schedule": ("cosine", RETRIEVAL),
    "clip": (0.5, RETRIEVAL),
    "dropout": (0.125, RETRIEVAL),
    "head_dropout": (0.375, RETRIEVAL),
    "weight_decay": (0.01, RETRIEVAL),
    "seed": (5, RETRIEVAL),
    "seeds": (5, RETRIEVAL),
    "dtype": ("bfloat16", RETRIEVAL),
    "precision": ("tf32", RETRIEVAL),
    "log_every": (11, RETRIEVAL),
    "eval_every": (12, RETRIEVAL),
    "save_every": (13, RETRIEVAL),
    "keep": (4, RETRIEVAL),
    "init_from": (str(SHIPPED), RETRIEVAL),
    "init_layout": ("fwt", (*RETRIEVAL, "--init-from", str(SHIPPED))),
}


def at(spec: dict[str, Any], path: str) -> Any:
    *tables, key = path.split(".")
    for table in tables:
        spec = spec.get(table, {})  # that of first weights is there if they are of a checkpoint
    return spec.get(key)
