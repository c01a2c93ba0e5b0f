"""One process or many: the workers of a training run, as `torchrun` starts them."""

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

    def with_shared_statistics(self, module: Network) -> Network:
        """The module, its batch norms looking at the images of all workers where that is possible: between GPUs.

        Between CPUs each worker normalizes by its own images, and the running statistics are the leader's.
        """
        if self.world == 1 or self.device.type != "cuda":
            return module
        nn.SyncBatchNorm.convert_sync_batchnorm(module)  # type: ignore[no-untyped-call]
        return module

    def check_agreement(self, step: int, out: Path) -> None:
        """Raise SettingsError unless all workers go on from the same step of the run in `out`."""
        if self.world == 1:
            return
        steps = torch.tensor([step, -step], dtype=torch.int64, device=self.device)
        dist.all_reduce(steps, op=dist.ReduceOp.MAX)
        if int(steps[0]) != -int(steps[1]):
            raise SettingsError(
                f"the workers found different checkpoints in {out}: it has to be a folder that all of them share"
            )

    def wait(self) -> None:
        """Until all workers are here."""
        if self.world > 1:
            dist.barrier()


def is_leader() -> bool:
    """Whether this process is the first worker, or the only one."""
    return int(os.environ.get("RANK", "0")) == 0


def refuse_several_workers(command: str) -> None:
    """Raise SettingsError if `torchrun` started this process: only training knows how to share its work."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        raise SettingsError(
            f"{command} runs in one process; torchrun starts `-m export train`, and {command} goes on from its run"
        )


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
