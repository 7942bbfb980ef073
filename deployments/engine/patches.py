"""What is replaced in vLLM 0.29: defects on CPU, the rejection sampler, dropped parameters."""

from __future__ import annotations

from functools import wraps
from typing import Any

import torch

from drafters.verification import rejection_sample


def expand_batch_to_tokens(
    x: torch.Tensor,
    cu_num_tokens: torch.Tensor,
    num_tokens: int,
    replace_from: int = 0,
    replace_to: int = 0,
) -> torch.Tensor:
    """Repeat each request's value for each of its tokens: `[R]` to `[num_tokens]`.

    vLLM's CPU kernel writes into an int64 temporary and never copies it back, so the
    temperature, top-k and top-p of draft positions are whatever memory held.
    """
    counts = torch.diff(cu_num_tokens, prepend=cu_num_tokens.new_zeros(1))
    expanded = x.repeat_interleave(counts.long(), output_size=num_tokens)
    if replace_from == replace_to:
        return expanded
    return torch.where(expanded == replace_from, torch.full_like(expanded, replace_to), expanded)


def mend_cpu_rejection_sampler(rejection_sampler: Any) -> None:
    """Put the mended `expand_batch_to_tokens` into vLLM's `rejection_sampler` module."""
    rejection_sampler.expand_batch_to_tokens = expand_batch_to_tokens


def mend_cpu_lora(*modules: Any) -> None:
    """Let tokens of requests without an adapter keep the base model's output beside others'.

    They have index -1, with which vLLM's CPU kernels take the last adapter there is. `modules`
    are those that call `bgmv_shrink` by that name. Doing it twice changes nothing.
    """
    for module in modules:
        original = module.bgmv_shrink
        if not hasattr(original, "of_every_row"):
            module.bgmv_shrink = _without_adapterless_rows(original)


def _without_adapterless_rows(original: Any) -> Any:
    @wraps(original)
    def bgmv_shrink(
        inputs: torch.Tensor,
        lora_weights: torch.Tensor,
        output_tensor: torch.Tensor,
        lora_indices: torch.Tensor,
        scaling: float = 1.0,
    ) -> None:
        original(inputs, lora_weights, output_tensor, lora_indices, scaling)
        output_tensor[lora_indices < 0] = 0  # what is added to the base model's output

    bgmv_shrink.of_every_row = original  # type: ignore[attr-defined]
    return bgmv_shrink


def mend_allowed_tokens(input_batch_class: Any) -> None:
    """Let a request without `allowed_token_ids` have none in vLLM's `InputBatch`.

    A row that moves leaves its mask behind, and swapping two rows gives both the same one:
    whoever came to sit there was held to another request's tokens. Doing it twice changes
    nothing.
    """
    add_request, swap_states = input_batch_class.add_request, input_batch_class.swap_states
    if hasattr(swap_states, "with_one_mask"):
        return

    @wraps(add_request)
    def adding(self: Any, request: Any) -> int:
        index: int = add_request(self, request)
        mask = self.allowed_token_ids_mask_cpu_tensor
        if mask is not None and request.req_id not in self.has_allowed_token_ids:
            mask[index] = False
        return index

    @wraps(swap_states)
    def swapping(self: Any, i1: int, i2: int) -> None:
        mask = self.allowed_token_ids_mask_cpu_tensor
        swapped = None if mask is None else mask[[i2, i1]]  # a copy
        swap_states(self, i1, i2)
        if mask is not None:
            mask[[i1, i2]] = swapped

    swapping.with_one_mask = swap_states  # type: ignore[attr-defined]
    input_batch_class.add_request, input_batch_class.swap_states = adding, swapping


def install_logits_processors(runner: Any, vllm_config: Any, device: torch.device) -> None:
    """Give `runner` all of vLLM's own logits processors; under speculation it has one.

    They act on a request's last token alone, hence are right for requests without drafts.
    """
    from vllm.utils.platform_utils import is_pin_memory_available
    from vllm.v1.sample.logits_processor import BUILTIN_LOGITS_PROCESSORS, LogitsProcessors

    pins = is_pin_memory_available()
    runner.input_batch.logitsprocs = LogitsProcessors(
        processor(vllm_config, device, pins) for processor in BUILTIN_LOGITS_PROCESSORS
    )


def use_sparse_sampler(rejection_sampler: Any) -> None:
    """Let our `rejection_sample` verify batches with sampled requests.

    `draft_probs` is then a `SparseDistribution` [N, k] or None. Greedy batches stay with
    vLLM's own. Doing it twice changes nothing.
    """
    original = rejection_sampler.rejection_sample
    if hasattr(original, "dense"):
        return

    def dispatch(
        draft_token_ids: torch.Tensor,
        num_draft_tokens: list[int],
        max_spec_len: int,
        cu_num_draft_tokens: torch.Tensor,
        draft_probs: Any,
        target_logits: torch.Tensor,
        bonus_token_ids: torch.Tensor,
        sampling_metadata: Any,
        **options: Any,
    ) -> torch.Tensor:
        if sampling_metadata.all_greedy:
            result: torch.Tensor = original(
                draft_token_ids,
                num_draft_tokens,
                max_spec_len,
                cu_num_draft_tokens,
                None,
                target_logits,
                bonus_token_ids,
                sampling_metadata,
                **options,
            )
            return result
        greedy = sampling_metadata.temperature == rejection_sampler.GREEDY_TEMPERATURE
        return rejection_sample(
            draft_token_ids,
            num_draft_tokens,
            draft_probs,
            target_logits,
            bonus_token_ids.squeeze(-1),
            greedy,
            max_drafts=max_spec_len,
        )

    dispatch.dense = original  # type: ignore[attr-defined]  # the plain twin, for tests
    rejection_sampler.rejection_sample = dispatch
