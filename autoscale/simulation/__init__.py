"""A fleet simulated step by step, with the scheduler and the plans that serve."""
