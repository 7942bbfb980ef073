"""The label rule: which outcomes of drafts say something about their confidences."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray


class SurvivalLabels(NamedTuple):
    """Bool [N, gamma]: whether position k of a draft has a label, and whether its tokens up
    to and with k were all accepted; False where there is no label."""

    counts: NDArray[np.bool_]
    survived: NDArray[np.bool_]


def survival_labels(
    num_admitted: NDArray[np.int64], num_accepted: NDArray[np.int64], block_size: int
) -> SurvivalLabels:
    """A label counts only where the position was admitted to verification (design section 6).

    Of a draft that was rejected at position 2, one knows that position 5 would not have
    survived, admitted or not. But of one that was accepted up to its last admitted position
    one knows nothing further on: taking what is known would take rejections only. Whether a
    position is admitted depends on confidences up to it, never on outcomes, so that admitted
    positions are calibrated where all of them are.
    """
    positions = np.arange(block_size)
    return SurvivalLabels(
        counts=positions < num_admitted[:, None],
        survived=positions < np.minimum(num_admitted, num_accepted)[:, None],
    )
