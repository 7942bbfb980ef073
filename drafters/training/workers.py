"""The processes that train one drafter together, each on its share of every batch.

Every worker knows the whole batch, so the weight to divide by needs no message; what they
exchange are gradients and sums of losses. Any number of workers take the same steps, up to
the rounding of sums.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

NUMBERS_PER_MESSAGE = 1 << 26  # copied to be sent at once: a quarter of a GiB of float32


class Workers(Protocol):
    """This process among all of them."""

    rank: int
    count: int

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        """Replace tensors by their sums over the workers, in place."""

    def wait(self) -> None:
        """Until all are here."""


class OneWorker:
    """A process that trains alone."""

    rank, count = 0, 1

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        return None

    def wait(self) -> None:
        return None


class TorchWorkers:
    """The processes of `torch.distributed`'s default group, which has to be set up."""

    def __init__(self) -> None:
        self.rank = torch.distributed.get_rank()
        self.count = torch.distributed.get_world_size()

    def add_up(self, tensors: Sequence[Tensor]) -> None:
        for some in messages(tensors):
            flat = torch.cat([tensor.flatten() for tensor in some])
            torch.distributed.all_reduce(flat)
            parts = torch.split(flat, [tensor.numel() for tensor in some])
            for tensor, part in zip(some, parts, strict=True):
                tensor.copy_(part.view_as(tensor))

    def wait(self) -> None:
        torch.distributed.barrier()


def messages(tensors: Sequence[Tensor], limit: int = NUMBERS_PER_MESSAGE) -> list[list[Tensor]]:
    """Tensors in their order, so many together as have at most `limit` numbers, one at least."""
    together: list[list[Tensor]] = []
    size = limit
    for tensor in tensors:
        size += tensor.numel()
        if size > limit:
            together.append([])
            size = tensor.numel()
        together[-1].append(tensor)
    return together
