"""The settings of a model whose engine somebody else launched."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal
from urllib.parse import urlsplit

from pydantic import Field, field_validator, model_validator

from deployments.specs import Settings

ATTACHED = "attached"  # the placement that replicas report

# What of a launched model's entry an attached one cannot have, and where it is decided instead.
_THEIRS = {
    "target": "the engine is launched already; what it runs with is its own command's",
    "drafter": "the engine drafts for itself or not at all, as its own command says",
    "policy": "our scheduler is not in the engine's worker and sizes nothing there",
    "placement": "there is nothing to place",
    "native": "it is set on the engine's own command",
}


class AttachSpec(Settings):
    """Engines that serve one model, each behind a replica of ours: `url` is one or several.

    `model` is the model's name there, our own id unless given; `api_key_env` names an
    environment variable with the key that they ask for, set where the replicas run.
    `max_num_seqs` is what one engine runs at once, `max_model_len` its tokens of prompt and
    output together, asked of the engine unless given. An engine that does not listen yet is
    waited for, `wait_s`; one from which nothing comes for `stall_limit_s`, not even a one-token
    probe, is left out until it answers again. `num_cpus` are logical, of each replica.
    """

    url: tuple[str, ...] = Field(min_length=1)
    model: str | None = Field(default=None, min_length=1)
    api_key_env: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")
    max_num_seqs: int = Field(default=32, ge=1)
    max_model_len: int | None = Field(default=None, ge=8)
    max_queued_requests: int = Field(default=256, ge=0)
    drain_s: float = Field(default=60.0, ge=0)
    wait_s: float = Field(default=30.0, ge=0)
    stall_limit_s: float = Field(default=60.0, ge=2)
    num_cpus: float = Field(default=0.1, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _an_address_will_do(cls, value: object) -> object:
        return {"url": value} if isinstance(value, (str, list)) else value

    @field_validator("url", mode="before")
    @classmethod
    def _one_is_a_list_of_one(cls, value: object) -> object:
        return (value,) if isinstance(value, str) else value

    @field_validator("url")
    @classmethod
    def _addresses(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        addresses = tuple(_address(url) for url in value)
        if len(set(addresses)) != len(addresses):
            raise ValueError(f"the same engine twice: {', '.join(value)}")
        return addresses


class AttachedModelSpec(Settings):
    """One served model whose engine is not ours: its id in the API, and where it is."""

    id: str = Field(min_length=1, pattern=r"^[^:\s]+$")
    attach: AttachSpec

    @property
    def placement(self) -> Literal["attached"]:
        return "attached"

    @property
    def their_name(self) -> str:
        return self.attach.model or self.id

    @model_validator(mode="before")
    @classmethod
    def _nothing_of_a_launched_one(cls, value: object) -> object:
        if isinstance(value, Mapping):
            for name in _THEIRS.keys() & value.keys():
                raise ValueError(
                    f"{name} is not for an attached engine: {_THEIRS[name]}; remove {name}, or "
                    "remove attach to have the engine launched here"
                )
        return value


def is_attached(entry: object) -> bool:
    """Whether an entry of `models`, as written, means an attached engine."""
    return isinstance(entry, Mapping) and "attach" in entry


def _address(url: str) -> str:
    """Without a trailing `/v1`, which we add. Raises ValueError."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError(f"{url!r} is no address of an engine; give http://HOST:PORT")
    if parts.username is not None or parts.password is not None:
        raise ValueError("an address holds no user or password; use api_key_env")
    if parts.query or parts.fragment:
        raise ValueError(f"{url!r} has a query; give the address alone, http://HOST:PORT")
    return url.rstrip("/").removesuffix("/v1").rstrip("/")
