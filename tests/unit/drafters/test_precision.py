"""The type a drafter computes in where none is named."""

from __future__ import annotations

import pytest
import torch

from drafters.precision import as_dtype
from drafters.training.settings import TrainingSettings

TARGET = "models/demo-target"
WIDE_ONLY = {"avx2": True, "avx512_f": True, "avx512_bf16": False, "amx_bf16": False}


def _processor(monkeypatch, **capabilities: bool) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: WIDE_ONLY | capabilities)


@pytest.mark.parametrize("capability", ["avx512_bf16", "amx_bf16", "bf16", "sve_bf16"])
def test_processors_that_multiply_bfloat16_get_it(monkeypatch, capability):
    _processor(monkeypatch, **{capability: True})
    assert as_dtype("auto", "cpu") is torch.bfloat16


def test_wide_vectors_alone_are_not_enough(monkeypatch):
    _processor(monkeypatch)
    assert as_dtype("auto", "cpu") is torch.float32
    assert as_dtype("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert as_dtype("float16", "cpu") is torch.float16


@pytest.mark.parametrize("fast", [True, False])
@pytest.mark.parametrize("precision", ["auto", "bf16", "float32"])
def test_training_in_auto_does_as_the_processor_likes(monkeypatch, precision, fast):
    _processor(monkeypatch, avx512_bf16=fast)
    settings = TrainingSettings(steps=1, target_layers=(1,), precision=precision, target=TARGET)
    autocast = settings.plan(TARGET, "data", 1000).autocast
    assert autocast == {"auto": fast, "bf16": True, "float32": False}[precision]
