"""A target's chat template: turns as token ids, with thinking on or off where it has that."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

Thinking = Literal["on", "off", "none"]
_SWITCH = "enable_thinking"


class ChatTemplate:
    """A tokenizer that writes conversations as its model was trained on them."""

    def __init__(self, tokenizer: Any) -> None:
        """Raises ValueError for a tokenizer without a chat template."""
        if not tokenizer.chat_template:
            raise ValueError(f"{tokenizer.name_or_path}: its tokenizer has no chat template")
        self._tokenizer = tokenizer

    @classmethod
    def load(cls, directory: str | Path) -> ChatTemplate:
        """Raises ValueError or OSError for a directory without a tokenizer or template."""
        from transformers import AutoTokenizer

        return cls(AutoTokenizer.from_pretrained(str(directory)))

    @property
    def thinking_modes(self) -> tuple[Thinking, ...]:
        """Off and on where the template has the switch, else "none"."""
        return ("off", "on") if _SWITCH in str(self._tokenizer.chat_template) else ("none",)

    def encode(
        self, users: Sequence[str], assistants: Sequence[str], thinking: Thinking
    ) -> list[int]:
        """Token ids up to where the assistant answers the last of the `users`' turns."""
        messages = []
        for i, text in enumerate(users):
            messages.append({"role": "user", "content": text})
            if i < len(assistants):
                messages.append({"role": "assistant", "content": assistants[i]})
        switch = {} if thinking == "none" else {_SWITCH: thinking == "on"}
        encoded = self._tokenizer.apply_chat_template(
            messages, add_generation_prompt=True, return_dict=True, **switch
        )
        return list(encoded["input_ids"])

    def decode(self, tokens: Sequence[int]) -> str:
        """An answer's text, without the tokens that end it."""
        text: str = self._tokenizer.decode(list(tokens), skip_special_tokens=True)
        return text


def end_tokens(model_dir: str | Path) -> frozenset[int]:
    """Token ids that end an answer: the generation config's and the model's."""
    from transformers import AutoConfig, GenerationConfig

    ids: set[int] = set()
    for read in (GenerationConfig.from_pretrained, AutoConfig.from_pretrained):
        try:
            found = read(str(model_dir)).eos_token_id
        except OSError:
            continue
        ids.update([found] if isinstance(found, int) else found or [])
    return frozenset(ids)
