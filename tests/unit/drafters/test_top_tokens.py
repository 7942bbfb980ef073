"""The likeliest tokens, found in groups, are those that a full search finds."""

from __future__ import annotations

import pytest
import torch

from drafters.top_tokens import top_tokens


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("vocabulary", [100, 8192, 32_016, 65_537])
@pytest.mark.parametrize("rows", [1, 5, 8])
def test_as_a_full_search(rows, vocabulary, dtype):
    generator = torch.Generator().manual_seed(rows + vocabulary)
    logits = torch.randn(rows, vocabulary, generator=generator).to(dtype)
    values, tokens = top_tokens(logits, 32)
    assert torch.equal(values, logits.topk(32, dim=-1).values)
    assert torch.equal(logits.gather(-1, tokens), values)
    assert all(len(set(row)) == 32 for row in tokens.tolist())


def test_those_of_one_group_are_all_found():
    logits = torch.zeros(8, 8192)
    expected = torch.arange(32) * 128 + 5  # all columns of one group
    logits[:, expected] = torch.arange(32, 0, -1).float()
    assert torch.equal(top_tokens(logits, 32)[1], expected.expand(8, -1))


def test_what_is_ruled_out_comes_last():
    logits = torch.full((8, 8192), -torch.inf)
    logits[:, 7] = 1.0
    values, tokens = top_tokens(logits, 32)
    assert tokens[:, 0].tolist() == [7] * 8
    assert tokens.min() >= 0
    assert tokens.max() < 8192
    assert (values[:, 1:] == -torch.inf).all()


def test_all_of_a_vocabulary():
    logits = torch.randn(8, 8192)
    values, tokens = top_tokens(logits, 8192)
    assert torch.equal(values, logits.sort(-1, descending=True).values)
    assert torch.equal(tokens.sort(-1).values, torch.arange(8192).expand(8, -1))
