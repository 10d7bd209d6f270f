"""`fwt verify`: one checkpoint on several backends, and how far apart they are."""

from __future__ import annotations

import json
from typing import Any

from fwt.cli import options
from fwt.fwcore.paths import show


def verify(
    checkpoint: options.Checkpoint,
    names: options.Backends = "all",
    split: options.Split = "test",
    data_dir: options.DataDir = None,
    device: options.Device = "auto",
    memory: options.Memory = "auto",
    as_json: options.AsJson = False,
    debug: options.Debug = False,
) -> None:
    """Compare logits, answers and gradients of a checkpoint between backends.

    The backends compute in float32 (float64 if the run did) even where the run used bfloat16 or
    TF32, and NumPy in float64: what differs then is the backends, not the number type.
    Example: fwt verify runs/demo --backends numpy,torch,mlx --json
    """
    import fwt
    from fwt.fwcore.errors import CheckFailed

    result = fwt.verify(
        checkpoint, names, split=split, device=device, memory=memory, data_dir=data_dir
    )
    rows = result["pairs"]
    if as_json:
        print(json.dumps(result))
    else:
        print(f"checkpoint  {show(result['checkpoint'])}")
        print(f"dataset     {result['dataset']}, {split}: {rows[0]['examples']} examples")
        print_rows(rows)
    failed = [" and ".join(row["backends"]) for row in rows if not row["ok"]]
    if failed:
        raise CheckFailed(f"verify: out of tolerance: {', '.join(failed)}")


def print_rows(rows: list[dict[str, Any]]) -> None:
    """A table of pairs and the bounds they are held to."""
    from fwt.fwcore.analysis.compare import GRADIENT_TOLERANCE, LOGIT_TOLERANCE, ROUNDING_FACTOR

    print(f"{'backends':<14} {'logits abs':>11} {'rel':>9} {'same answer':>15} {'gradients':>10}")
    for row in rows:
        slope = row["gradient_rel"]
        shown = "no autodiff" if slope is None else f"{slope:.1e}"
        same = f"{row['argmax_equal']}/{row['examples']}"
        pair = " ".join(row["backends"])
        print(
            f"{pair:<14} {row['logit_abs']:>11.2e} {row['logit_rel']:>9.1e} {same:>15} "
            f"{shown:>10}  {'ok' if row['ok'] else 'OUT OF TOLERANCE'}"
        )
    print(
        f"held to: logits {LOGIT_TOLERANCE:g} of the largest, "
        f"gradients {GRADIENT_TOLERANCE:g} of each parameter's largest"
    )
    if any(row["ill_conditioned"] for row in rows):
        print(
            f"{max(row['ill_conditioned'] for row in rows)} ill-conditioned examples are held to "
            f"{ROUNDING_FACTOR} times what rounding the weights changes, "
            f"{max(row['logit_bound'] for row in rows):.1e} or less"
        )
    if any((row["gradient_bound"] or 0) > GRADIENT_TOLERANCE for row in rows):
        print(
            f"ill-conditioned gradients are held to {ROUNDING_FACTOR} times what rounding the "
            f"weights changes, {max(row['gradient_bound'] or 0 for row in rows):.1e}"
        )
