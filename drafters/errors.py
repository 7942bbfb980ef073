"""What can be wrong with a checkpoint, said before anything runs."""

from __future__ import annotations


class CheckpointError(ValueError):
    """A drafter checkpoint cannot be served as it is.

    The message names the file, the field or tensor, what was found, and what is needed.
    """
