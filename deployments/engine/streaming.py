"""Tool calls and reasoning in streams that commit several tokens at once.

vLLM's streaming parsers are written for a token at a time. Of several together, some lose
what stands behind `</think>`, the end of one call or the beginning of the next. So a parser
here is always fed one token at a time, with that token's own text, and what it says is put
together again.
"""

from __future__ import annotations

import logging
from typing import Any

from tokenizers.decoders import DecodeStream

logger = logging.getLogger(__name__)


class TokenByToken:
    """Mixin before a vLLM `Parser`: any way of cutting a stream gives the same message."""

    _stream: DecodeStream | None = None
    _said = 0  # characters of all tokens so far
    _released = 0  # of them, those that have come as a delta's text
    _has_warned = False

    def parse_delta(
        self,
        delta_text: str,
        delta_token_ids: list[int],
        request: Any,
        prompt_token_ids: list[int] | None = None,
        *,
        finished: bool,
    ) -> Any:
        texts = self._texts(delta_text, delta_token_ids, request, finished=finished)
        last = len(texts) - 1
        said = None
        for i, text in enumerate(texts):
            tokens = delta_token_ids[i : i + 1] if last else delta_token_ids
            delta = super().parse_delta(  # type: ignore[misc]
                text, tokens, request, prompt_token_ids, finished=finished and i == last
            )
            said = joined(said, delta)
        return said

    def _texts(
        self, delta_text: str, token_ids: list[int], request: Any, *, finished: bool
    ) -> list[str]:
        """What comes with each token; the whole delta at once, with a warning, where that is not
        its sum.

        Beside stop strings the last characters are held back, as one may begin there: a
        token's text then comes with later ones. The token that ends an answer has no text.
        """
        tokenizer = self.model_tokenizer  # type: ignore[attr-defined]
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            if len(token_ids) > 1:
                self._warn(request, "its tokenizer has no fast backend to tell their texts apart")
            return [delta_text]
        if not token_ids:
            return [delta_text]
        if self._stream is None:
            self._stream = DecodeStream(skip_special_tokens=request.skip_special_tokens)
        own = [self._stream.step(backend, token) or "" for token in token_ids]
        held = _held_back(request)
        if finished and not held and "".join(own[:-1]) == delta_text:
            own[-1] = ""
        if not held and "".join(own) != delta_text:
            self._warn(request, "their texts do not add up to a chunk's")
            own = [delta_text]
        texts, left = [], delta_text
        for text in own[:-1]:
            self._said += len(text)
            released = max(0, self._said - held - self._released)
            texts.append(left[:released])
            left = left[released:]
            self._released += len(texts[-1])
        self._said += len(own[-1])
        self._released += len(left)
        return [*texts, left]

    def _warn(self, request: Any, why: str) -> None:
        """Once per stream, however many of its chunks are so."""
        if not self._has_warned:
            self._has_warned = True
            logger.warning(
                "%s: tokens are parsed several at once, as %s",
                getattr(request, "request_id", "a request"),
                why,
            )


def _held_back(request: Any) -> int:
    """How many characters vLLM's detokeniser keeps to itself, in case a stop string begins."""
    stop = request.stop or []
    strings = [stop] if isinstance(stop, str) else stop
    if not strings or request.include_stop_str_in_output:
        return 0
    return max(map(len, strings)) - 1


def joined(first: Any, second: Any) -> Any:
    """Two `DeltaMessage`s as one, either may be None."""
    if first is None or second is None:
        return second if first is None else first
    for name in ("content", "reasoning"):
        said = [text for text in (getattr(first, name), getattr(second, name)) if text is not None]
        setattr(first, name, "".join(said) if said else None)
    for call in second.tool_calls:
        same = next((known for known in first.tool_calls if known.index == call.index), None)
        if same is None:
            first.tool_calls = [*first.tool_calls, call]
        else:
            _extend(same, call)
    return first


def _extend(call: Any, more: Any) -> None:
    """Add what a later delta says of the same tool call."""
    call.id = call.id or more.id
    if call.function is None or more.function is None:
        call.function = call.function or more.function
        return
    call.function.name = call.function.name or more.function.name
    if more.function.arguments is not None:
        call.function.arguments = (call.function.arguments or "") + more.function.arguments


def feed_parsers_token_by_token(manager: Any) -> None:
    """Let vLLM's `ParserManager` give parsers that `TokenByToken` stands before."""
    original = manager.get_parser
    if hasattr(original, "per_step"):
        return

    def get_parser(*args: Any, **kwargs: Any) -> Any:
        parser = original(*args, **kwargs)
        return None if parser is None else type(parser.__name__, (TokenByToken, parser), {})

    get_parser.per_step = original  # type: ignore[attr-defined]
    manager.get_parser = get_parser
