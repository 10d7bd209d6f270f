"""Code for processes that send themselves a signal in the middle of their work."""

from __future__ import annotations

from tests.cli_tools import TINY

START = "import os, signal, sys\nfrom fwt.cli.main import run\n"
END = "\nsys.exit(run(sys.argv[1:]))\n"
# the number of calls of a function after which a signal comes, inside the last of them
HIT = """
from {module} import {owner} as owner
real, calls = owner.{name}, []
def hit(*arguments, **named):
    result = real(*arguments, **named)
    calls.append(arguments)
    if len(calls) == {count}:
        os.kill(os.getpid(), signal.{signal})
    return result
owner.{name} = hit
"""
UPDATE = "fwt.fwcore.training.batches:BatchOrder:rows"  # called within an update
SAVE = "fwt.fwcore.storage:checkpoint:write_tensors"  # called twice a save: weights, then moments
WRITE = "fwt.fwcore.storage:durable:write_text"  # spec, run.json, state, pointers, metrics, ...
# everything that a batch is made of, and a batch that two and four processes share evenly
RUN = (
    *TINY, "--steps", "12", "--log-every", "3", "--eval-every", "6", "--save-every", "3",
    "--dropout", "0.2", "--head-dropout", "0.2", "--weight-decay", "0.1", "--clip", "0.3",
)  # fmt: skip
# what one of the processes does when it has made so many updates
DRIVER = """
import os, signal, sys
from fwt.cli.main import run
from fwt.fwcore.training.lockstep import Spread
number = next(os.environ[name] for name in ("RANK", "MLX_RANK") if name in os.environ)
real, calls = Spread.train_step, []
def step(*arguments):
    calls.append(arguments)
    if number == {number!r} and len(calls) == {count}:
        os.kill(os.getpid(), signal.{signal})
    return real(*arguments)
Spread.train_step = step
sys.exit(run(sys.argv[1:]))
"""


def hit(where: str, count: int, name: str) -> str:
    module, owner, function = where.split(":")
    code = HIT.format(module=module, owner=owner, name=function, count=count, signal=name)
    return START + code + END
