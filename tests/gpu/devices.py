"""The devices that the tests of this folder run on."""

from __future__ import annotations

import pytest
import torch

_NEEDS_CUDA = (
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
)
DEVICES = ["cpu", pytest.param("cuda", marks=_NEEDS_CUDA)]
