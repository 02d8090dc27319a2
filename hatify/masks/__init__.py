"""Masks: one embedding a task for each feature, in groups of coupled features; and the locks that follow from them."""
