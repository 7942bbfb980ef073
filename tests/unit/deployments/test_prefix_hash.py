import numpy as np

from deployments.engine.prefix_hash import extend_prefix_hashes

TOKENS = np.arange(100, dtype=np.int32)


def names(tokens, num_tokens, block_tokens=8):
    hashes = []
    extend_prefix_hashes(hashes, tokens, num_tokens, block_tokens)
    return hashes


def test_only_full_blocks_are_named():
    assert len(names(TOKENS, 31)) == 3
    assert len(names(TOKENS, 32)) == 4


def test_extending_equals_hashing_at_once():
    hashes = []
    for num_tokens in (5, 8, 30, 31, 64):
        extend_prefix_hashes(hashes, TOKENS, num_tokens, 8)
    assert hashes == names(TOKENS, 64)


def test_a_name_covers_the_whole_prefix():
    other = TOKENS.copy()
    other[0] = 99
    assert not set(names(TOKENS, 64)) & set(names(other, 64))
