"""The API keys there are: those of the settings, and those of a file that is read again when it
changes. Keys are kept and compared as digests."""

from __future__ import annotations

import hashlib
import hmac
import logging
import math
import time
from collections.abc import Callable, Iterable
from pathlib import Path

import yaml
from pydantic import TypeAdapter, ValidationError

from deployments.class_specs import KeySpec
from deployments.errors import ConfigError

LOOK_EVERY_S = 1.0
_KEYS = TypeAdapter(tuple[KeySpec, ...])
logger = logging.getLogger(__name__)


class KeyRing:
    """`classes` are those that keys may name. A file that turns bad leaves the keys as they
    were; one that was never good leaves none, and nobody is let in."""

    def __init__(
        self,
        keys: Iterable[KeySpec] = (),
        path: str | None = None,
        classes: Iterable[str] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.is_needed = bool(keys := tuple(keys)) or path is not None
        self._path = Path(path) if path is not None else None
        self._classes = frozenset(classes)
        self._clock = clock
        self._of_settings = keys
        self._of_file: tuple[KeySpec, ...] = ()
        self._seen: tuple[int, int] | None = None  # of the file: when changed, and how large
        self._complaint = ""  # the last one
        self._look_at_s = -math.inf

    def find(self, secret: str) -> KeySpec | None:
        """The key with this secret. As slow for every secret: all digests are compared, each
        in constant time."""
        self._look()
        digest = hashlib.sha256(secret.encode()).hexdigest()
        found = None
        for key in (*self._of_settings, *self._of_file):
            if hmac.compare_digest(key.sha256, digest):
                found = key
        return found

    def read(self) -> tuple[KeySpec, ...]:
        """The keys of the file. Raises ConfigError for one that is not a list of keys."""
        if self._path is None:
            return ()
        try:
            keys = _KEYS.validate_python(yaml.safe_load(self._path.read_text()) or ())
        except OSError as error:
            raise ConfigError(f"keys_file: cannot read {self._path}: {error.strerror}") from None
        except yaml.YAMLError:  # its message would show the line
            raise ConfigError(f"keys_file: {self._path} is not YAML") from None
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(map(str, first["loc"])) or "the file"
            raise ConfigError(f"keys_file: {self._path}: {where}: {first['msg']}") from None
        check_keys((*self._of_settings, *keys), self._classes)
        return keys

    def _look(self) -> None:
        if self._path is None or self._clock() < self._look_at_s:
            return
        self._look_at_s = self._clock() + LOOK_EVERY_S
        try:
            stat = self._path.stat()
            seen = (stat.st_mtime_ns, stat.st_size)
            if seen == self._seen:
                return
            self._of_file = self.read()
            self._seen, self._complaint = seen, ""  # only now: what was not read is tried again
            logger.info("%d API keys read from %s", len(self._of_file), self._path)
        except (ConfigError, OSError) as error:
            if str(error) != self._complaint:
                logger.error("API keys stay as they were: %s", error)
            self._complaint = str(error)


def check_keys(keys: Iterable[KeySpec], classes: Iterable[str]) -> None:
    """Raises ConfigError for a key that is there twice, or names a class that is not."""
    known, digests = set(classes), set()
    for key in keys:
        if key.sha256 in digests:
            raise ConfigError(f"a key of tenant {key.tenant} is there twice")
        digests.add(key.sha256)
        for name in key.classes:
            if name not in known:
                raise ConfigError(
                    f"the key of tenant {key.tenant} names a class {name!r}; "
                    f"there are {sorted(known)}"
                )
