"""`deployments.prefetch_nodes` on a running Ray cluster: tasks on its nodes, and pieces of files
through its object store, which the nodes hand each other directly."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import ray
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from deployments.errors import ConfigError
from deployments.hub_cache import (
    Piece,
    Snapshot,
    append_piece,
    arrived_bytes,
    find_snapshot,
    pieces,
    read_piece,
    take_in,
)
from deployments.prefetch import HubCheckpoint, fetch, is_marked, mark
from deployments.prefetch_nodes import named

_IN_FLIGHT = 4  # pieces in the object store, which may be small
_ANSWER_S = 60.0  # for a node to say what it has; scheduling and a process's start are in it


class RayNodes:
    """The living nodes of a cluster, the head first."""

    def __init__(self) -> None:
        alive = [node for node in ray.nodes() if node["Alive"]]
        alive.sort(key=lambda node: "node:__internal_head__" not in node["Resources"])
        self._ids = named([(n["NodeManagerHostname"], n["NodeID"]) for n in alive])

    @property
    def names(self) -> tuple[str, ...]:
        return tuple(self._ids)

    def has(self, node: str, checkpoint: HubCheckpoint) -> bool:
        found: bool = _answer(self._ask(node, _has, checkpoint), _ANSWER_S)
        return found

    def fetch(self, node: str, checkpoint: HubCheckpoint) -> None:
        online = {"env_vars": {"HF_HUB_OFFLINE": "0"}}  # nodes that serve offline are told so
        _answer(self._ask(node, _fetch, checkpoint, runtime_env=online))

    def copy(self, source: str, node: str, checkpoint: HubCheckpoint) -> int:
        snapshot: Snapshot = _answer(self._ask(source, _snapshot, checkpoint), _ANSWER_S)
        arrived = _answer(self._ask(node, _arrived, snapshot), _ANSWER_S)
        written: Any = None
        in_flight: deque[Any] = deque()
        num_bytes = 0
        for piece in pieces(snapshot.sizes, arrived):
            data = self._ask(source, _read, snapshot, piece)
            written = self._ask(node, _append, snapshot, piece, data, written)
            num_bytes += piece.num_bytes
            in_flight.append(written)
            if len(in_flight) == _IN_FLIGHT:
                _answer(in_flight.popleft())
        for one in in_flight:
            _answer(one)
        _answer(self._ask(node, _take_in, snapshot, checkpoint))
        return num_bytes

    def _ask(self, node: str, work: Callable[..., Any], *args: Any, **options: Any) -> Any:
        here = NodeAffinitySchedulingStrategy(node_id=self._ids[node], soft=False)
        task = ray.remote(num_cpus=0)(work)
        return task.options(scheduling_strategy=here, **options).remote(*args)


@contextmanager
def running_cluster() -> Iterator[RayNodes]:
    """Raises ConfigError where there is none, or it does not let us."""
    try:
        ray.init(address="auto", log_to_driver=False, logging_level="ERROR")
    except Exception as error:  # Ray raises ConnectionError, RuntimeError and its own
        raise ConfigError(f"no Ray cluster answers: {error}") from None
    try:
        yield RayNodes()
    finally:
        ray.shutdown()


def _answer(asked: Any, within_s: float | None = None) -> Any:
    try:
        return ray.get(asked, timeout=within_s)
    except ray.exceptions.RayTaskError as error:
        raise ConfigError(str(error.cause)) from None
    except ray.exceptions.RayError as error:  # the node went, or does not answer
        raise ConfigError(f"{type(error).__name__}: {error}") from None


def _caches() -> tuple[Path, Path]:
    """HF_HOME and HF_HUB_CACHE of the node that this runs on."""
    from huggingface_hub import constants

    return Path(constants.HF_HOME), Path(constants.HF_HUB_CACHE)


def _has(checkpoint: HubCheckpoint) -> bool:
    home, cache = _caches()
    there = find_snapshot(cache, checkpoint.source, checkpoint.revision)
    return there is not None and is_marked(home, checkpoint)


def _fetch(checkpoint: HubCheckpoint) -> None:
    fetch(checkpoint)
    mark(_caches()[0], checkpoint)


def _snapshot(checkpoint: HubCheckpoint) -> Snapshot:
    _, cache = _caches()
    found = find_snapshot(cache, checkpoint.source, checkpoint.revision)
    if found is None:
        raise ConfigError(f"{checkpoint.source} is not in {cache} any more")
    return found


def _arrived(snapshot: Snapshot) -> dict[str, int]:
    return arrived_bytes(_caches()[1], snapshot)


def _read(snapshot: Snapshot, piece: Piece) -> bytes:
    return read_piece(_caches()[1], snapshot, piece)


def _append(snapshot: Snapshot, piece: Piece, data: bytes, after: None) -> None:
    """`after` is the piece before: Ray waits for it."""
    append_piece(_caches()[1], snapshot, piece, data)


def _take_in(snapshot: Snapshot, checkpoint: HubCheckpoint) -> None:
    home, cache = _caches()
    take_in(cache, snapshot)
    mark(home, checkpoint)
