"""Which floating-point type a device multiplies matrices in at full speed."""

from __future__ import annotations

import torch

AUTO = "auto"


def multiplies_bfloat16(device: torch.device | str) -> bool:
    """Whether bfloat16 is no slower there than float32.

    A GPU that serves has it. A processor without instructions of its own for it (AVX512_BF16,
    AMX-BF16, Arm's BF16) converts back and forth, and takes 4 to 10 times as long as in float32
    (32 and 256 rows; AVX2, and AVX-512 alone).
    """
    if torch.device(device).type != "cpu":
        return True
    has = torch.cpu.get_capabilities()
    return any(present for name, present in has.items() if name.endswith("bf16"))


def as_dtype(name: str, device: torch.device | str) -> torch.dtype:
    """The type called `name`; `auto` is bfloat16 where `device` multiplies that, else float32."""
    if name == AUTO:
        return torch.bfloat16 if multiplies_bfloat16(device) else torch.float32
    found = getattr(torch, name)
    assert isinstance(found, torch.dtype), f"{name} is no dtype"
    return found
