"""The demo behind `hatify demo`: Split-MNIST learned with HAT and, beside it, by fine-tuning."""
