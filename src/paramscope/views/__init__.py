"""What people look at: the console's view, and pages drawn from tables alone."""
