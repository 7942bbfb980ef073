"""Names for full context blocks: the hash of everything up to a block's end.

The same chaining as vLLM's prefix cache, over the same block size, so a prefix that
vLLM finds again has a name the drafter knows. vLLM's own hash values stay in its
scheduler process and start from a random seed there; computed here, the names are
the same on every replica.
"""

from __future__ import annotations

from hashlib import blake2b

import numpy as np
from numpy.typing import NDArray

_DIGEST_BYTES = 16


def extend_prefix_hashes(
    hashes: list[bytes], token_ids: NDArray[np.int32], num_tokens: int, block_tokens: int
) -> None:
    """Append to `hashes` the name of every full block of the first `num_tokens` tokens.

    Blocks already named are not hashed again.
    """
    for block in range(len(hashes), num_tokens // block_tokens):
        parent = hashes[-1] if hashes else b""
        tokens = token_ids[block * block_tokens : (block + 1) * block_tokens]
        hashes.append(blake2b(parent + tokens.tobytes(), digest_size=_DIGEST_BYTES).digest())
