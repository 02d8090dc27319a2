"""Masks: one embedding a task for each feature, in groups of coupled features."""
