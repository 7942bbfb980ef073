"""How many conversations an evaluation can hold at a time: their K/V has to fit into memory.

Every row of the target's cache has room for the longest conversation there is, so rows are
counted at that length. What it does not know: how much room answers really take, and what else
comes to use the memory; a fifth of it is left for that and for the passes themselves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import psutil
import torch

from drafters.evaluation.chat import ChatTemplate
from drafters.evaluation.kv_cache import num_slots_for
from drafters.evaluation.loop import MAX_PREFILL_TOKENS
from drafters.evaluation.plan import EvaluationPlan
from drafters.interface import DraftModel

BLOCK_TOKENS = 16  # of the drafter's context
_USABLE = 0.8
_GIB = 1 << 30


def seated(
    plan: EvaluationPlan, bytes_per_seat: int, free_bytes: int, say: Callable[[str], None]
) -> EvaluationPlan:
    """The plan with as many seats as fit, halved until they do; fewer are said.

    Halved, as results depend on the number, which a resumed evaluation finds again in a memory
    that is not to the byte as free as it was. Raises ValueError where not one fits.
    """
    num_seats = plan.num_seats
    while num_seats > 1 and num_seats * bytes_per_seat > _USABLE * free_bytes:
        num_seats //= 2
    if num_seats * bytes_per_seat > _USABLE * free_bytes:
        raise ValueError(
            f"the longest conversation takes {bytes_per_seat / _GIB:.1f} GiB of K/V and "
            f"{_USABLE * free_bytes / _GIB:.1f} GiB can be had; lower --max-tokens, --window or, "
            "with --chains, make more of them"
        )
    if num_seats < plan.num_seats:
        say(
            f"{plan.num_seats} conversations at a time would take "
            f"{plan.num_seats * bytes_per_seat / _GIB:.1f} GiB of K/V, {bytes_per_seat / _GIB:.1f} "
            f"the longest; {_USABLE * free_bytes / _GIB:.1f} GiB can be had: {num_seats} are held "
            f"(--seats {num_seats})"
        )
    return replace(plan, num_seats=num_seats)


def seat_bytes(
    plan: EvaluationPlan, chat: ChatTemplate, drafter: DraftModel, kv_bytes_per_token: int
) -> int:
    """K/V of the target and context of the drafter for one of the plan's conversations."""
    num_slots = num_slots_for(longest(plan, chat, drafter.config.block_size))
    context = num_context_blocks(plan, num_seats=1) * BLOCK_TOKENS
    return num_slots * kv_bytes_per_token + context * drafter.serving().layout.bytes_per_token


def longest(plan: EvaluationPlan, chat: ChatTemplate, block_size: int) -> int:
    """Positions that the longest conversation can come to in the target's cache."""
    found = 0
    for conversation in (one for some in plan.benchmarks.values() for one in some):
        turns = conversation.turns
        unanswered = [""] * (len(turns) - 1)
        for thinking in {mode.thinking for mode in plan.modes}:
            prompt = len(chat.encode(turns, unanswered, thinking))
            answers = len(turns) * (plan.max_output_tokens + block_size)
            # A later turn is read in rows that are as long as the longest read with it.
            padding = MAX_PREFILL_TOKENS // 2 if unanswered else 0
            found = max(found, min(prompt + answers + block_size, plan.max_tokens) + padding)
    return found


def num_context_blocks(plan: EvaluationPlan, num_seats: int) -> int:
    """Of the drafter's context: a window, and what it begins and ends in, for each seat."""
    return num_seats * (plan.window // BLOCK_TOKENS + 2)


def free_memory_bytes(device: torch.device) -> int:
    """What torch can still have there."""
    if device.type == "cuda":
        kept = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return torch.cuda.mem_get_info(device)[0] + kept
    return int(psutil.virtual_memory().available)
