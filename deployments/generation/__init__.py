"""Training text for a drafter: a target's own answers to the prompts of conversations.

A drafter learns to guess what its target says, so it is trained on that and not on what
the conversations' authors said.
"""
