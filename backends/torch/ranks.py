"""Processes that `torchrun` started, connected by `torch.distributed`."""

from __future__ import annotations

import atexit
import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import timedelta
from importlib import import_module

import numpy as np
import torch
from torch import distributed

from fwcore.errors import BackendError
from fwcore.ops import NumpyArray
from fwcore.ranks import SINGLE, Ranks

SILENCE = timedelta(minutes=5)  # of a rank that is still there, before the job ends
# gloo's and NCCL's errors have no class of their own in every version
SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out")


class TorchRanks:
    """`fwcore.ranks.Ranks`: gloo between CPUs, NCCL between CUDA cards."""

    def __init__(self) -> None:
        # Its functions take the group that is there when they are defined as their default, and
        # would keep it, with its threads, past `destroy_process_group`: so before there is one.
        import_module("torch.distributed.nn.functional")
        links = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _told_on_stderr():
            distributed.init_process_group(links, timeout=SILENCE)
        atexit.register(distributed.destroy_process_group)
        self.number, self.count = distributed.get_rank(), distributed.get_world_size()

    def total(self, values: NumpyArray) -> NumpyArray:
        """See `Ranks.total`; always between CPUs, so that no device has to wait."""
        tensor = torch.tensor(np.asarray(values, dtype=np.float64))
        distributed.all_reduce(tensor)
        found: NumpyArray = tensor.numpy()
        return found

    def broken(self, error: RuntimeError) -> bool:
        """See `Ranks.broken`."""
        return any(sign in str(error).lower() for sign in SIGNS)


@contextmanager
def _told_on_stderr() -> Iterator[None]:
    """PyTorch 2.9's gloo prints its connections on stdout, where only results belong."""
    sys.stdout.flush()
    stdout = os.dup(1)
    os.dup2(2, 1)
    try:
        yield
    finally:
        os.dup2(stdout, 1)
        os.close(stdout)


def launched() -> int:
    """How many processes `torchrun` started; 1 without it."""
    return int(os.environ.get("WORLD_SIZE", "1"))


def local_number() -> int:
    """Which of torchrun's processes on this machine this is; 0 without it."""
    return int(os.environ.get("LOCAL_RANK", "0"))


def ranks() -> Ranks:
    """The processes of this job.

    Raises:
        BackendError: they cannot be connected.
    """
    if launched() == 1:
        return SINGLE
    try:
        return TorchRanks()
    except (RuntimeError, ValueError) as error:
        raise BackendError(
            f"backend torch: expected to reach all {launched()} processes of torchrun, got "
            f"{type(error).__name__}: {error}"
        ) from error
