"""The type a drafter computes in where none is named."""

from __future__ import annotations

import pytest
import torch

from drafters.precision import as_dtype
from drafters.training.settings import TrainingSettings

TARGET = "models/demo-target"
CAPABILITY = "torch.backends.cpu.get_cpu_capability"


@pytest.mark.parametrize(
    ("capability", "expected"),
    [
        ("AVX512", torch.bfloat16),
        ("SVE256", torch.bfloat16),
        ("AVX2", torch.float32),
        ("DEFAULT", torch.float32),
    ],
)
def test_processors_without_wide_vectors_get_float32(monkeypatch, capability, expected):
    monkeypatch.setattr(CAPABILITY, lambda: capability)
    assert as_dtype("auto", "cpu") is expected
    assert as_dtype("auto", torch.device("cuda", 0)) is torch.bfloat16
    assert as_dtype("float16", "cpu") is torch.float16


@pytest.mark.parametrize("capability", ["AVX512", "AVX2"])
@pytest.mark.parametrize("precision", ["auto", "bf16", "float32"])
def test_training_in_auto_does_as_the_processor_likes(monkeypatch, precision, capability):
    monkeypatch.setattr(CAPABILITY, lambda: capability)
    settings = TrainingSettings(steps=1, target_layers=(1,), precision=precision, target=TARGET)
    autocast = settings.plan(TARGET, "data", 1000).autocast
    assert autocast == {"auto": capability == "AVX512", "bf16": True, "float32": False}[precision]
