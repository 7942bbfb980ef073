"""Training of DSpark drafters: data, packing, losses and the loop, on plain torch."""

from drafters.training.loop import train
from drafters.training.losses import DraftLosses, draft_losses
from drafters.training.plan import TrainingPlan

__all__ = ["DraftLosses", "TrainingPlan", "draft_losses", "train"]
