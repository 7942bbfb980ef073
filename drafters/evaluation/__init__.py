"""How much of a drafter's drafts a target accepts, over a real speculative decoding loop."""
