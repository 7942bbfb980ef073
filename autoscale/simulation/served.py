"""Requests of a simulation, and those that decode together as columns of arrays."""

from __future__ import annotations

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
    """The decoding requests, one row each."""

    __slots__ = ("class_index", "context", "ids", "output", "position", "seed", "served", "text")

    def __init__(self) -> None:
        self.ids: list[str] = []
        self.served: list[Served] = []
        self.text, self.position, self.output, self.context, self.class_index = (
            np.zeros(0, dtype=np.int64) for _ in range(5)
        )
        self.seed = np.zeros(0, dtype=np.uint64)

    def __len__(self) -> int:
        return len(self.ids)

    def add(self, id_: str, served: Served, text: int, class_index: int) -> None:
        self.ids.append(id_)
        self.served.append(served)
        arrival = served.arrival
        position = served.produced
        values = (text, position, arrival.output_tokens, arrival.prompt_tokens + position)
        columns = (self.text, self.position, self.output, self.context, self.class_index)
        self.text, self.position, self.output, self.context, self.class_index = (
            np.append(column, value)
            for column, value in zip(columns, (*values, class_index), strict=True)
        )
        self.seed = np.append(self.seed, np.uint64(request_seed(id_)))

    def keep(self, rows: NDArray[np.bool_]) -> None:
        kept = np.flatnonzero(rows).tolist()
        self.ids = [self.ids[i] for i in kept]
        self.served = [self.served[i] for i in kept]
        columns = (self.text, self.position, self.output, self.context, self.class_index)
        self.text, self.position, self.output, self.context, self.class_index = (
            column[rows] for column in columns
        )
        self.seed = self.seed[rows]
