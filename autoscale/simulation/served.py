"""Requests of a simulation, and those that decode together as columns of arrays."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from autoscale.exploration import request_seed
from autoscale.simulation.traces import Arrival


@dataclass(slots=True)
class Served:
    """What became of a request; None where it has not come to that."""

    arrival: Arrival
    first_token_s: float | None = None
    finished_s: float | None = None
    was_shed: bool = False
    produced: int = 0  # output tokens so far, kept when its replica is lost

    @property
    def ttft_s(self) -> float | None:
        started = self.first_token_s
        return None if started is None else started - self.arrival.arrival_s

    @property
    def tpot_s(self) -> float | None:
        if self.finished_s is None or self.first_token_s is None:
            return None
        return (self.finished_s - self.first_token_s) / max(self.arrival.output_tokens - 1, 1)


class DecodingRows:
    """The decoding requests, one row each, up to `capacity`.

    Columns are int64 [R] but for `seed`, uint64 [R]: views, for as long as no row comes or goes.
    `first_place` is where the drafts of a row's text begin (see `Texts`), `position` the output
    token that it comes to, and `last` the one it ends with.
    """

    __slots__ = (
        "_columns",
        "_seeds",
        "class_index",
        "context_tokens",
        "first_place",
        "ids",
        "last",
        "position",
        "seed",
        "served",
    )

    def __init__(self, capacity: int) -> None:
        self.ids: list[str] = []
        self.served: list[Served] = []
        self.context_tokens = 0  # of all rows together
        self._columns = np.zeros((4, capacity), dtype=np.int64)
        self._seeds = np.zeros(capacity, dtype=np.uint64)
        self._show()

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, id_: str, served: Served, first_place: int, class_index: int) -> None:
        arrival = served.arrival
        position = served.produced
        row = len(self.ids)
        self._columns[:, row] = (first_place, class_index, arrival.output_tokens - 1, position)
        self._seeds[row] = request_seed(id_)
        self.ids.append(id_)
        self.served.append(served)
        self.context_tokens += arrival.prompt_tokens + position
        self._show()

    def advance(
        self, drafted: NDArray[np.int64] | slice, accepted: NDArray[np.int64], num_accepted: int
    ) -> None:
        """Every row by a token, and the rows `drafted` by those of their drafts accepted,
        `num_accepted` together."""
        self.position += 1
        self.position[drafted] += accepted
        self.context_tokens += len(self.ids) + num_accepted

    def remove(self, rows: Sequence[int]) -> None:
        """Take out these rows, given in rising order."""
        for row in reversed(rows):
            self.context_tokens -= self.served[row].arrival.prompt_tokens + int(self.position[row])
            del self.ids[row], self.served[row]
            last = len(self.ids)
            self._columns[:, row:last] = self._columns[:, row + 1 : last + 1]
            self._seeds[row:last] = self._seeds[row + 1 : last + 1]
        self._show()

    def _show(self) -> None:
        columns = self._columns[:, : len(self.ids)]
        self.first_place, self.class_index, self.last, self.position = columns
        self.seed = self._seeds[: len(self.ids)]
