"""Training of drafters: data, packing, the kinds' losses and the loop, on plain torch."""

from drafters.training.loop import train
from drafters.training.plan import TrainingPlan

__all__ = ["TrainingPlan", "train"]
