"""One process or many: the workers of a training run, as `torchrun` starts them."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from edge_siamese.errors import SettingsError


@dataclass(frozen=True)
class Workers:
    """This process among the workers of a run."""

    rank: int
    world: int
    device: torch.device

    @property
    def leads(self) -> bool:
        """Whether this worker validates, saves and reports."""
        return self.rank == 0

    def parallel(self, module: nn.Module) -> nn.Module:
        """The module, averaging its gradients over all workers if there is more than one."""
        if self.world == 1:
            return module
        return DistributedDataParallel(
            module, device_ids=[self.device] if self.device.type == "cuda" else None
        )

    def any(self, flag: bool) -> bool:
        """Whether the flag is set in any worker."""
        if self.world == 1:
            return flag
        flags = torch.tensor([flag], dtype=torch.int32, device=self.device)
        dist.all_reduce(flags)
        return bool(flags.item())

    def wait(self) -> None:
        """Until all workers are here."""
        if self.world > 1:
            dist.barrier()


@contextmanager
def join_workers() -> Iterator[Workers]:
    """Join the process group if `torchrun` started this process; otherwise be the only worker.

    A GPU is used when there is one: gradients then travel by NCCL, and by Gloo between CPUs.
    """
    world = int(os.environ.get("WORLD_SIZE", "1"))
    rank = int(os.environ.get("RANK", "0"))
    if torch.cuda.is_available():
        device = torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
        torch.cuda.set_device(device)
    else:
        device = torch.device("cpu")
    if world == 1:
        yield Workers(0, 1, device)
        return
    dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    try:
        yield Workers(rank, world, device)
    finally:
        dist.destroy_process_group()


def check_divides(batch: int, world: int, pairs: bool) -> None:
    """Raise SettingsError unless a batch splits evenly over the workers."""
    unit = world * (2 if pairs else 1)
    if batch % unit:
        raise SettingsError(f"a batch of {batch} images does not divide over {world} workers")
