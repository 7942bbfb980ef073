from types import SimpleNamespace

import torch

from deployments.engine.patches import expand_batch_to_tokens, mend_allowed_tokens, mend_cpu_lora


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


def test_tokens_without_an_adapter_get_nothing_of_the_others():
    def shrink(inputs, lora_weights, output_tensor, lora_indices, scaling=1.0):
        chosen = lora_weights[lora_indices]  # as vLLM's kernel does: -1 is the last adapter
        output_tensor[:] = scaling * torch.einsum("bi,bri->br", inputs, chosen)

    kernels = SimpleNamespace(bgmv_shrink=shrink)
    mend_cpu_lora(kernels)
    mend_cpu_lora(kernels)
    output = torch.empty(3, 2)
    indices = torch.tensor([0, -1, 0])
    kernels.bgmv_shrink(torch.ones(3, 4), torch.ones(1, 2, 4), output, indices, 0.5)
    assert output.tolist() == [[2.0, 2.0], [0.0, 0.0], [2.0, 2.0]]


class Batch:
    """As much of vLLM's `InputBatch` as keeps masks, with what it gets wrong."""

    def __init__(self):
        self.has_allowed_token_ids = {"bound"}
        self.allowed_token_ids_mask_cpu_tensor = torch.tensor([[True, False], [True, True]])

    def add_request(self, request):
        return request.row

    def swap_states(self, one, other):
        mask = self.allowed_token_ids_mask_cpu_tensor
        mask[one], mask[other] = mask[other], mask[one]


def test_a_request_is_not_held_to_the_tokens_of_who_sat_there_before():
    mend_allowed_tokens(Batch)
    mend_allowed_tokens(Batch)
    batch = Batch()
    batch.swap_states(0, 1)
    assert batch.allowed_token_ids_mask_cpu_tensor.tolist() == [[True, True], [True, False]]
    assert batch.add_request(SimpleNamespace(req_id="bound", row=0)) == 0
    assert batch.add_request(SimpleNamespace(req_id="free", row=1)) == 1
    assert batch.allowed_token_ids_mask_cpu_tensor.tolist() == [[True, True], [False, False]]
