"""What the soak test is made of: footprints of processes, and whether they grow."""
