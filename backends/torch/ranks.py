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

from fwt.fwcore.ops import NumpyArray
from fwt.fwcore.training import launcher
from fwt.fwcore.training.ranks import SINGLE, Ranks

# gloo's and NCCL's errors have no class of their own in every version
SIGNS = ("gloo", "nccl", "connection closed by peer", "connection reset", "timed out")


class TorchRanks:
    """`fwt.fwcore.training.ranks.Ranks`: gloo between CPUs, NCCL between CUDA cards."""

    def __init__(self) -> None:
        # Its functions take the group that is there when they are defined as their default, and
        # would keep it, with its threads, past `destroy_process_group`: so before there is one.
        import_module("torch.distributed.nn.functional")
        links = "cpu:gloo,cuda:nccl" if torch.cuda.is_available() else "gloo"
        with _told_on_stderr():
            limit = timedelta(seconds=launcher.LIMIT_S)
            distributed.init_process_group(links, timeout=limit)
        atexit.register(distributed.destroy_process_group)
        self.number, self.count = distributed.get_rank(), distributed.get_world_size()

    def total(self, values: NumpyArray) -> NumpyArray:
        """Always between CPUs, so that no device has to wait."""
        tensor = torch.tensor(np.asarray(values, dtype=np.float64))
        distributed.all_reduce(tensor)
        found: NumpyArray = tensor.numpy()
        return found

    def is_rank_lost(self, error: RuntimeError) -> bool:
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


def ranks() -> Ranks:
    """The processes of the launcher that started this one, connected."""
    job = launcher.job_of("torch")
    if job.count == 1:
        return SINGLE
    with launcher.connecting(job):
        return TorchRanks()
