"""Training loops of other libraries, over the same runtime: one module for each."""
