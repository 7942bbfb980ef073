"""What the chaos suite is made of: load, faults, books and what is said of a run."""
