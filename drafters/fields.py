"""Typed reads of a checkpoint's `config.json`, each refusing what it cannot use."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from drafters.errors import CheckpointError


class Fields:
    """A JSON object and the name of its file, for messages."""

    def __init__(self, fields: Mapping[str, Any], source: str) -> None:
        self._fields = fields
        self.source = source

    def refusal(self, field: str, needed: str) -> CheckpointError:
        """The error that names a field, what was found in it and what is needed."""
        found = repr(self._fields[field]) if field in self._fields else "missing"
        return CheckpointError(f"{self.source}: {field} is {found}; needed: {needed}")

    def raw(self, field: str) -> Any:
        """A field's value as it is; None when it is missing."""
        return self._fields.get(field)

    def require(self, field: str, default: Any, *allowed: Any) -> None:
        """Refuse a field that is none of the `allowed` values."""
        if self._fields.get(field, default) not in allowed:
            needed = " or ".join(map(repr, allowed))
            raise self.refusal(field, needed)

    def integer(self, field: str, *, at_least: int, default: int | None = None) -> int:
        """A whole number from `at_least` on; a missing one or null is the default."""
        value = self._fields.get(field)
        value = default if value is None else value
        if not isinstance(value, int) or isinstance(value, bool) or value < at_least:
            raise self.refusal(field, f"an integer of at least {at_least}")
        return value

    def size(self, field: str, *, default: int | None = None) -> int:
        """A whole number from 1 on."""
        return self.integer(field, at_least=1, default=default)

    def positive(self, field: str) -> float:
        """A number above 0."""
        value = self._fields.get(field)
        if not isinstance(value, int | float) or isinstance(value, bool) or value <= 0:
            raise self.refusal(field, "a positive number")
        return float(value)

    def optional_positive(self, field: str) -> float | None:
        """A number above 0; None where it is missing or null."""
        return None if self._fields.get(field) is None else self.positive(field)

    def flag(self, field: str, *, default: bool = False) -> bool:
        """True or false."""
        value = self._fields.get(field, default)
        if not isinstance(value, bool):
            raise self.refusal(field, "true or false")
        return value

    def choice(self, field: str, default: str, allowed: Sequence[str]) -> str:
        """One of some words."""
        value = self._fields.get(field, default)
        if value not in allowed:
            raise self.refusal(field, f"one of {list(allowed)}")
        return str(value)

    def integers(self, field: str) -> tuple[int, ...]:
        """A list of whole numbers."""
        value = self._fields.get(field)
        if not isinstance(value, list) or not all(type(i) is int for i in value):
            raise self.refusal(field, "a list of integers")
        return tuple(value)

    def nested(self, field: str) -> Fields:
        """The object in a field, as fields of their own."""
        value = self._fields.get(field)
        if not isinstance(value, Mapping):
            raise self.refusal(field, "a JSON object")
        return Fields(value, f"{self.source}: {field}")

    def full_attention_only(self) -> None:
        """Refuse layers that see a part of their context only."""
        kinds = self._fields.get("layer_types") or ()
        if any(kind != "full_attention" for kind in kinds):
            raise self.refusal("layer_types", "'full_attention' in every layer")

    def rope_theta(self) -> float:
        """Base of the rotary frequencies; any scaling of them is refused."""
        for field in ("rope_parameters", "rope_scaling"):
            if self._fields.get(field) is None:
                continue
            rope = self.nested(field)
            kind = rope.raw("rope_type") or rope.raw("type") or "default"
            if kind != "default":
                raise self.refusal(field, "rope_type 'default'")
            if rope.raw("rope_theta") is not None:
                return rope.positive("rope_theta")
        return self.positive("rope_theta")
