"""Which replica has read which beginnings of prompts, as far as its router knows."""

from __future__ import annotations

from collections import OrderedDict
from hashlib import blake2b

CHUNK_CHARS = 128  # about a KV block of 32 tokens
_MOST_CHUNKS = 512  # of a prompt, that are looked at
_DIGEST_BYTES = 8


def chunk_keys(text: str, space: str = "") -> list[bytes]:
    """A key for every whole chunk of `text`, each standing for all of the text up to its end.

    The same text of another `space` is another text: a cache tells their tokens apart.
    """
    keys = []
    chain = _digest(space.encode(errors="surrogatepass"))
    for end in range(CHUNK_CHARS, min(len(text), CHUNK_CHARS * _MOST_CHUNKS) + 1, CHUNK_CHARS):
        chunk = text[end - CHUNK_CHARS : end].encode(errors="surrogatepass")
        chain = _digest(chain + chunk)
        keys.append(chain)
    return keys


def _digest(of: bytes) -> bytes:
    return blake2b(of, digest_size=_DIGEST_BYTES).digest()


class PrefixMemory:
    """The latest chunks that one replica was sent, `most_chunks` of them."""

    def __init__(self, most_chunks: int = 8192) -> None:
        self._most_chunks = most_chunks
        self._known: OrderedDict[bytes, None] = OrderedDict()

    def __len__(self) -> int:
        return len(self._known)

    def remember(self, keys: list[bytes]) -> None:
        """From the end, so that of a forgotten prompt the beginning is forgotten last."""
        for key in reversed(keys):
            self._known[key] = None
            self._known.move_to_end(key)
        while len(self._known) > self._most_chunks:
            self._known.popitem(last=False)

    def known_chars(self, keys: list[bytes]) -> int:
        """Characters at the beginning that it has been sent before."""
        for count, key in enumerate(keys):
            if key not in self._known:
                return count * CHUNK_CHARS
        return len(keys) * CHUNK_CHARS
