"""Tool calls and reasoning in streams that commit several tokens at once.

vLLM's streaming parsers are written for a token at a time. Of several together, some lose
what stands behind `</think>`, the end of one call or the beginning of the next. So a parser
here is always fed one token at a time, with that token's own text, and what it says is put
together again.
"""

from __future__ import annotations

from typing import Any

from tokenizers.decoders import DecodeStream


class TokenByToken:
    """Mixin before a vLLM `Parser`: any way of cutting a stream gives the same message."""

    _stream: DecodeStream | None = None

    def parse_delta(
        self,
        delta_text: str,
        delta_token_ids: list[int],
        request: Any,
        prompt_token_ids: list[int] | None = None,
        *,
        finished: bool,
    ) -> Any:
        texts = self._texts(delta_text, delta_token_ids, request)
        last = len(texts) - 1
        said = None
        for i, text in enumerate(texts):
            tokens = delta_token_ids[i : i + 1] if last else delta_token_ids
            delta = super().parse_delta(  # type: ignore[misc]
                text, tokens, request, prompt_token_ids, finished=finished and i == last
            )
            said = joined(said, delta)
        return said

    def _texts(self, delta_text: str, token_ids: list[int], request: Any) -> list[str]:
        """The text of each token; the whole where it is not their sum.

        It is not where a stop string is held back or cut off.
        """
        tokenizer = self.model_tokenizer  # type: ignore[attr-defined]
        backend = getattr(tokenizer, "backend_tokenizer", None)
        if backend is None:
            return [delta_text]
        if self._stream is None:
            self._stream = DecodeStream(skip_special_tokens=request.skip_special_tokens)
        texts = [self._stream.step(backend, token) or "" for token in token_ids]
        return texts if len(texts) > 1 and "".join(texts) == delta_text else [delta_text]


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
