"""What can be changed of a model while it serves."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from autoscale.policy_settings import check_policy


class Controls(BaseModel):
    """Each is None where the Serve file's setting stands.

    `speculation` False stops drafting. `max_draft_tokens` bounds the draft tokens of a
    request in a step, `verify_budget_tokens` those of all its requests together, shared
    equally. `deadline_ms` is how long a step waits for drafts, `drafter_address` the
    drafter replica that all targets of the model use. `plan` False leaves local rules alone:
    no advice of the fleet, and none of the calibrations and step costs that it learned.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    speculation: bool | None = None
    policy: dict[str, Any] | None = None
    max_draft_tokens: int | None = Field(default=None, ge=0)
    verify_budget_tokens: int | None = Field(default=None, ge=0)
    deadline_ms: float | None = Field(default=None, gt=0, le=60_000)
    drafter_address: str | None = Field(default=None, pattern=r"^tcp://[^\s/]+:\d+$")
    plan: bool | None = None

    @field_validator("policy")
    @classmethod
    def _known_policy(cls, value: dict[str, Any] | None) -> dict[str, Any] | None:
        if value is not None:
            check_policy(value)
        return value

    def changed(self, changes: dict[str, Any]) -> Controls:
        """With `changes` on top; None takes one back. Raises ValueError, a line per mistake."""
        try:
            return Controls.model_validate(self.model_dump() | changes)
        except ValidationError as error:
            wrong = [f"{'.'.join(map(str, e['loc']))}: {e['msg']}" for e in error.errors()]
            raise ValueError("; ".join(wrong)) from None
