"""`dspark doctor` and `dspark bundle`: what is wrong here, and what to send with a bug report."""
