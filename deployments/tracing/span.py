"""What the code that serves says of a request; here, where nothing is traced, to nobody."""

from __future__ import annotations

from collections.abc import Mapping, MutableMapping
from types import MappingProxyType, TracebackType
from typing import Any, Literal, Self

from deployments.tracing.traceparent import TraceParent

Attributes = Mapping[str, str | bool | int | float]
Kind = Literal["internal", "server", "client"]
NOTHING: Attributes = MappingProxyType({})
TRACE = "dspark_trace"  # in the ASGI scope of a request that is traced: its span


class Span:
    """A part of a request's time; this one records nothing.

    As a context it ends with it, failed where an exception ends it: by the exception's class,
    never its text, which may quote a prompt.
    """

    @property
    def traceparent(self) -> str:
        """For what happens within it in other processes; empty where nothing is recorded."""
        return ""

    @property
    def trace_id(self) -> str:
        """Names the whole trace; empty where nothing is recorded."""
        return self.traceparent[3:35]

    def child(self, name: str, attributes: Attributes = NOTHING, kind: Kind = "internal") -> Span:
        """A part of it, which begins now."""
        return self

    def note(self, attributes: Attributes) -> None:
        """More about it."""

    def event(self, name: str) -> None:
        """Something happened now."""

    def fail(self, reason: str) -> None:
        """It did not go well; the last reason stays."""

    def end(self) -> None:
        """It ends now."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        where: TracebackType | None,
    ) -> None:
        """Ends it."""


UNTRACED = Span()


def span_of(scope: MutableMapping[str, Any]) -> Span:
    """The span of a request at the ingress, in its ASGI scope."""
    span: Span = scope.get(TRACE, UNTRACED)
    return span


class Tracing:
    """Where spans begin in a process; this one traces nothing."""

    def begin(
        self,
        name: str,
        parent: TraceParent | None,
        attributes: Attributes = NOTHING,
        kind: Kind = "server",
        *,
        ago_s: float = 0.0,
    ) -> Span:
        """A span within `parent`, or the first one of a new trace, that began `ago_s` ago."""
        return UNTRACED

    def continued(
        self,
        name: str,
        traceparent: str | None,
        attributes: Attributes = NOTHING,
        kind: Kind = "server",
        *,
        ago_s: float = 0.0,
    ) -> Span:
        """The same, where another process says that its trace is sampled."""
        parent = TraceParent.parse(traceparent) if traceparent else None
        if parent is None or not parent.is_sampled:
            return UNTRACED
        return self.begin(name, parent, attributes, kind, ago_s=ago_s)
