"""Taking what may identify someone out of token ids.

Patterns find addresses, numbers and secrets, no names: what remains is still other
people's text and is to be treated as such.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import Any

PLACEHOLDER = "X"
_PATTERNS = re.compile(
    r"""
      [\w.+-]+ @ [\w-]+ (?: \. [\w-]+ )+             # e-mail
    | \b (?: https? | ftp | ssh ) :// \S+            # URL
    | \b (?: \d{1,3} \. ){3} \d{1,3} \b              # IPv4
    | \b (?: [0-9a-f]{1,4} : ){4,7} [0-9a-f]{1,4}    # IPv6
    | \b [A-Z]{2} \d{2} (?: [ ]? [A-Z0-9]{4} ){2,7} (?: [ ]? [A-Z0-9]{1,3} \b )?  # IBAN
    | \+? \d (?: [\s().-]? \d ){6,}                  # telephone, card and account numbers
    | \b (?= [\w-]*\d ) (?= [\w-]*[a-zA-Z] ) [\w-]{20,}  # keys and tokens
    """,
    re.VERBOSE,
)
# How byte-level and sentencepiece vocabularies write spaces and line ends.
_SPACES = str.maketrans({"Ġ": " ", "▁": " ", "Ċ": "\n", "ĉ": "\t"})


class Redactor:
    """Replaces tokens that belong to a pattern, one by one, so that positions stay."""

    def __init__(self, tokenizer: Any) -> None:
        self._tokenizer = tokenizer
        self._placeholder = int(tokenizer.encode(PLACEHOLDER, add_special_tokens=False)[-1])

    def __call__(
        self, prompt: Sequence[int], output: Sequence[int]
    ) -> tuple[tuple[int, ...], tuple[int, ...]]:
        """Prompt and output without what was found.

        In the prompt it is replaced; the output ends before it, as a drafter is not to
        learn the replacement.
        """
        tokens = [*prompt, *output]
        pieces = [piece or "" for piece in self._tokenizer.convert_ids_to_tokens(tokens)]
        found = found_tokens(pieces)
        clean = tuple(
            self._placeholder if hit else token
            for token, hit in zip(prompt, found[: len(prompt)], strict=True)
        )
        hits = found[len(prompt) :]
        end = hits.index(True) if True in hits else len(output)
        return clean, tuple(output[:end])


def found_tokens(pieces: Sequence[str]) -> list[bool]:
    """Which tokens, given as their vocabularies write them, belong to a pattern."""
    texts = [piece.translate(_SPACES) for piece in pieces]
    spans = [match.span() for match in _PATTERNS.finditer("".join(texts))]
    found, start, next_span = [], 0, 0
    for text in texts:
        end = start + len(text)
        while next_span < len(spans) and spans[next_span][1] <= start:
            next_span += 1
        found.append(next_span < len(spans) and spans[next_span][0] < end)
        start = end
    return found
