import torch

from deployments.engine.patches import expand_batch_to_tokens


def test_each_requests_value_is_repeated_for_its_tokens():
    x = torch.tensor([0.7, 0.0, 1.3])
    expanded = expand_batch_to_tokens(x, torch.tensor([2, 3, 6]), 6)
    assert torch.equal(expanded, torch.tensor([0.7, 0.7, 0.0, 1.3, 1.3, 1.3]))


def test_greedys_zero_is_replaced():
    x = torch.tensor([0.7, 0.0])
    expanded = expand_batch_to_tokens(x, torch.tensor([1, 3]), 3, replace_from=0, replace_to=1)
    assert torch.equal(expanded, torch.tensor([0.7, 1.0, 1.0]))


def test_a_request_without_drafts_has_no_row():
    expanded = expand_batch_to_tokens(torch.tensor([5, 6]), torch.tensor([0, 2]), 2)
    assert expanded.tolist() == [6, 6]
