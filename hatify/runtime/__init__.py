"""Training one task after another: schedule, gradient hooks, optimizer guard, and what keeps a diverged task on its own.

Knows masks and locks, no operators.
"""
