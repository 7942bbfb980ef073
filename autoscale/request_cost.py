"""What a request will cost, as far as can be told before it runs."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

PREFILL_WORK = 0.2  # of a prompt token, in output tokens: prompts are read many at a time
_NEW = 0.05  # weight of one more request in what is learned
_CHARS_PER_TOKEN = 4.0
_OUTPUT_TOKENS = 512.0  # before anything is known: a request that may say all may not do so
_BOUNDS = (0.5, 16.0)  # characters per token that are believed


@dataclass(frozen=True, slots=True)
class RequestCost:
    """`num_sequences` of `output_tokens` each, on `prompt_tokens` together."""

    prompt_tokens: float
    output_tokens: float
    num_sequences: int = 1

    @property
    def kv_tokens(self) -> float:
        """Tokens in the KV cache when it ends."""
        return self.prompt_tokens + self.num_sequences * self.output_tokens

    @property
    def work(self) -> float:
        """In output tokens."""
        return PREFILL_WORK * self.prompt_tokens + self.num_sequences * self.output_tokens


class CostModel:
    """Predicts lengths from those of ended requests: characters per token, and how much of
    what it may say a request of a class says."""

    def __init__(self) -> None:
        self._chars_per_token = _CHARS_PER_TOKEN
        self._output_tokens: dict[str, float] = {}

    def prompt_tokens(self, num_chars: int) -> float:
        return num_chars / self._chars_per_token

    def output_tokens(self, class_name: str, max_tokens: int) -> float:
        """The mean of its class, and never more than `max_tokens`."""
        return min(float(max_tokens), self._output_tokens.get(class_name, _OUTPUT_TOKENS))

    def record_prompt(self, num_chars: int, num_tokens: int) -> None:
        if num_chars <= 0 or num_tokens <= 0:
            return
        seen = min(max(num_chars / num_tokens, _BOUNDS[0]), _BOUNDS[1])
        self._chars_per_token += _NEW * (seen - self._chars_per_token)

    def learned(self) -> dict[str, Any]:
        """What others that predict the same requests may `adopt`."""
        return {
            "chars_per_token": self._chars_per_token,
            "output_tokens": dict(self._output_tokens),
        }

    def adopt(self, learned: Mapping[str, Any]) -> None:
        """Of classes that the other knows nothing of, what was known stays."""
        self._chars_per_token = learned["chars_per_token"]
        self._output_tokens |= learned["output_tokens"]

    def record_output(self, class_name: str, num_tokens: float) -> None:
        """Of one sequence that ended by itself."""
        so_far = self._output_tokens.get(class_name)
        self._output_tokens[class_name] = (
            num_tokens if so_far is None else so_far + _NEW * (num_tokens - so_far)
        )
