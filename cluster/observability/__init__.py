"""What is to be seen of a fleet: metrics named once, dashboards and alerts that use them."""
