"""Training of DSpark drafters: data, packing, losses and the loop, on plain torch."""

from drafters.training.losses import DraftLosses, draft_losses
from drafters.training.loop import TrainingPlan, train

__all__ = ["DraftLosses", "TrainingPlan", "draft_losses", "train"]
