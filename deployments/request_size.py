"""How large an OpenAI request is, read off its body before anything is tokenised."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple


class RequestSize(NamedTuple):
    """Prompt characters, or token ids where the client sent those; `max_tokens` of each of
    `num_sequences`, None where the client leaves it open."""

    num_chars: int
    num_token_ids: int
    num_sequences: int
    max_tokens: int | None

    def prompt_tokens(self, of_chars: Callable[[int], float]) -> float:
        return of_chars(self.num_chars) + self.num_token_ids

    def output_tokens(self, most: int) -> int:
        return most if self.max_tokens is None else min(self.max_tokens, most)


def request_size(request: Any) -> RequestSize:
    """Of a chat, completion, embedding or score request; what it has not counts nothing."""
    chars, token_ids, num_prompts = _prompt_size(request)
    generates = hasattr(request, "max_tokens")
    asked = getattr(request, "max_completion_tokens", None) or getattr(request, "max_tokens", None)
    max_tokens = asked if generates else 0
    copies = getattr(request, "n", None) or 1
    return RequestSize(chars, token_ids, num_prompts * copies, max_tokens)


def has_one_prompt(request: Any) -> bool:
    return _prompt_size(request)[2] == 1


def request_text(request: Any) -> str:
    """What two requests with the same beginning have in common, as text: chat templates put
    messages one after the other."""
    messages = getattr(request, "messages", None)
    if messages is not None:
        return "\n".join(f"{_role(message)}:{_message_text(message)}" for message in messages)
    prompt = _prompt(request)
    return prompt if isinstance(prompt, str) else ""


def cache_space(request: Any) -> str:
    """What else a prefix cache tells prompts apart by: the LoRA adapter, and the client's salt."""
    _, _, adapter = (getattr(request, "model", None) or "").partition(":")
    return f"{adapter}:{getattr(request, 'cache_salt', None) or ''}"


def _prompt_size(request: Any) -> tuple[int, int, int]:
    """Characters, token ids, prompts."""
    messages = getattr(request, "messages", None)
    if messages is not None:
        return sum(len(_message_text(message)) for message in messages), 0, 1
    return _text_size(_prompt(request))


def _prompt(request: Any) -> Any:
    prompt = getattr(request, "prompt", None)
    return getattr(request, "input", None) if prompt is None else prompt


def _text_size(prompt: Any) -> tuple[int, int, int]:
    if isinstance(prompt, str):
        return len(prompt), 0, 1
    if not isinstance(prompt, (list, tuple)) or not prompt:
        return 0, 0, 1
    if isinstance(prompt[0], int):
        return 0, len(prompt), 1
    sizes = [_text_size(one) for one in prompt]
    return sum(s[0] for s in sizes), sum(s[1] for s in sizes), len(sizes)


def _role(message: Any) -> str:
    return str(message.get("role")) if isinstance(message, dict) else ""


def _message_text(message: Any) -> str:
    content = message.get("content") if isinstance(message, dict) else None
    if isinstance(content, str):
        return content
    if not isinstance(content, (list, tuple)):
        return ""
    texts = (part.get("text") for part in content if isinstance(part, dict))
    return "".join(text for text in texts if isinstance(text, str))
