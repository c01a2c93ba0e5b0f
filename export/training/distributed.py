"""Distributed training: the worker processes that `torchrun` starts, or a single process."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edge_siamese.errors import SettingsError

Network = TypeVar("Network", bound=nn.Module)


@dataclass(frozen=True)
class Workers:
    """The process group of a run, as seen from this process."""

    rank: int
    count: int
    device: torch.device

    @property
    def is_leader(self) -> bool:
        """Whether this worker validates, saves and reports."""
        return self.rank == 0

    def wrap(self, module: nn.Module) -> nn.Module:
        """Average the gradients of a module over all workers."""
        if self.count == 1:
            return module
        return DistributedDataParallel(
            module, device_ids=[self.device] if self.device.type == "cuda" else None
        )

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any worker."""
        if self.count == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.int32, device=self.device)
        dist.all_reduce(flags)
        return bool(flags.item())

    def synchronize_batch_norm(self, module: Network) -> Network:
        """Compute batch statistics over the images of all workers, in place; possible between GPUs only.

        On CPUs each worker normalizes by its own images, and the leader's running statistics are kept.
        """
        if self.count > 1 and self.device.type == "cuda":
            nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return module

    def check_agreement(self, step: int, out: Path) -> None:
        """Raise `SettingsError` unless all workers resume from the same step of the run in `out`."""
        if self.count == 1:
            return
        steps = torch.tensor([step, -step], dtype=torch.int64, device=self.device)
        dist.all_reduce(steps, op=dist.ReduceOp.MAX)
        if int(steps[0]) != -int(steps[1]):
            raise SettingsError(
                f"the workers found different checkpoints in {out}: all workers must share this directory"
            )

    def barrier(self) -> None:
        """Wait for all workers."""
        if self.count > 1:
            dist.barrier()


def is_leader() -> bool:
    """Whether this process is the only worker or the first one; valid outside `join_workers`."""
    return int(os.environ.get("RANK", "0")) == 0


def require_single_process(command: str) -> None:
    """Raise `SettingsError` if `torchrun` started this process: only `train` is distributed."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            f"{command} runs in one process; start `-m export train` with torchrun, then run {command} on its result"
        )


@contextmanager
def join_workers() -> Iterator[Workers]:
    """Join the process group if `torchrun` started this process.

    Uses a GPU if there is one. Gradients are exchanged with NCCL between GPUs and with Gloo between CPUs.
    """
    count = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if count == 1:
        yield Workers(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(rank, count, device)
    finally:
        dist.destroy_process_group()


def check_batch_size(batch: int, workers: int, unit: int) -> None:
    """Raise `SettingsError` unless a batch can be divided among the workers, `unit` images staying together."""
    if batch % (workers * unit):
        raise SettingsError(f"a batch of {batch} images cannot be divided among {workers} workers")
