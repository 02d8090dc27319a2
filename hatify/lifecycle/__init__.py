"""What becomes of a task after training: forgetting, renewal, and fingerprints of what it depends on."""
