"""Training one task after another: schedule, gradient hooks, optimizer guard, and diverged tasks kept on their own.

Knows masks and locks, no operators.
"""
