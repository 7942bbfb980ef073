"""The kinds of drafters that can be trained, by the names `--kind` takes."""

from collections.abc import Mapping
from typing import Any

from drafters.training.kinds.dflash import DFlash
from drafters.training.kinds.dspark import DSpark
from drafters.training.kinds.eagle3 import Eagle3
from drafters.training.kinds.kind import TrainedKind
from drafters.training.kinds.mtp import MTP

KINDS: Mapping[str, TrainedKind[Any]] = {
    "dspark": DSpark(),
    "dflash": DFlash(),
    "eagle3": Eagle3(),
    "mtp": MTP(),
}

__all__ = ["KINDS", "TrainedKind"]
