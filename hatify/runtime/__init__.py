"""Training one task after another: schedule, gradient hooks, optimizer guard. Knows masks and locks, no operators."""
