"""What becomes of a task after training: which entries it uses, and how it is forgotten."""
