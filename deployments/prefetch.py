"""Fetch a Serve file's checkpoints before anything serves, so that serving needs no network.

Each checkpoint that has arrived whole leaves an empty file below `HF_HOME/dspark`. Nodes that
share the cache, or get a copy of it, see by these files that they may start, offline: the
hub's own library cannot tell a whole snapshot from half of one without asking the hub.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from deployments.checkpoints import adapter_directory, checkpoint_directory, local_directory
from deployments.errors import ConfigError
from deployments.hub_cache import check_weights
from deployments.schema import AppSpec

_POLL_S = 5.0


@dataclass(frozen=True, slots=True)
class HubCheckpoint:
    """A checkpoint on the hub. `field` is the setting that names it; an adapter has no
    `revision` of its own and is fetched as it is now."""

    source: str
    revision: str | None
    field: str
    is_adapter: bool = False

    @property
    def marker(self) -> str:
        return f"{self.source.replace('/', '--')}@{self.revision or 'now'}"


def hub_checkpoints(settings: AppSpec) -> tuple[HubCheckpoint, ...]:
    """What has to be fetched, each once, in the file's order.

    Raises ConfigError for a model without a revision: two nodes could fetch two of them.
    """
    found: dict[str, HubCheckpoint] = {}
    for checkpoint in _named(settings):
        if local_directory(checkpoint.source) is not None:
            continue
        if checkpoint.revision is None and not checkpoint.is_adapter:
            raise ConfigError(
                f"{checkpoint.field}: {checkpoint.source} has no revision; give the commit, so "
                "that every node serves the same weights"
            )
        found.setdefault(checkpoint.marker, checkpoint)
    return tuple(found.values())


def _named(settings: AppSpec) -> Iterator[HubCheckpoint]:
    for model in settings.launched:
        where = f"model {model.id}"
        yield HubCheckpoint(model.target.source, model.target.revision, f"{where}: target.source")
        drafter = model.drafter
        if drafter is not None and drafter.source is not None and model.placement != "off":
            yield HubCheckpoint(drafter.source, drafter.revision, f"{where}: drafter.source")
        for name, source in model.target.loras.items():
            yield HubCheckpoint(source, None, f"{where}: target.loras.{name}", is_adapter=True)


def fetch(checkpoint: HubCheckpoint) -> Path:
    """The directory it was fetched to, or is in already, whole. Raises ConfigError."""
    if checkpoint.is_adapter:
        directory = adapter_directory(checkpoint.source, checkpoint.field)
    else:
        directory = checkpoint_directory(checkpoint.source, checkpoint.field, checkpoint.revision)
    check_weights(directory, checkpoint.field)
    return directory


def prefetch(
    settings: AppSpec,
    cache: Path,
    say: Callable[[str], None],
    fetch: Callable[[HubCheckpoint], Path] = fetch,
) -> None:
    """Fetch what `settings` name into `cache` (HF_HOME). Goes on where it was interrupted."""
    for checkpoint in hub_checkpoints(settings):
        say(f"{checkpoint.source} at {checkpoint.revision or 'its newest revision'}")
        say(f"  is in {fetch(checkpoint)}")
        mark(cache, checkpoint)


def wait_until_fetched(
    settings: AppSpec,
    cache: Path,
    say: Callable[[str], None],
    sleep: Callable[[float], None] = time.sleep,
) -> None:
    """Return once another process or node has fetched everything into `cache`."""
    checkpoints = hub_checkpoints(settings)
    said: list[str] = []
    while missing := [c.source for c in checkpoints if not is_marked(cache, c)]:
        if missing != said:
            say(f"waiting for {', '.join(missing)} in {cache}")
            said = missing
        sleep(_POLL_S)
    say(f"all checkpoints are in {cache}")


def mark(cache: Path, checkpoint: HubCheckpoint) -> None:
    """Say that all of it is in `cache` (HF_HOME)."""
    marker = _marker(cache, checkpoint)
    marker.parent.mkdir(parents=True, exist_ok=True)
    marker.touch()


def is_marked(cache: Path, checkpoint: HubCheckpoint) -> bool:
    return _marker(cache, checkpoint).is_file()


def _marker(cache: Path, checkpoint: HubCheckpoint) -> Path:
    return cache / "dspark" / checkpoint.marker
