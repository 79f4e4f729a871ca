"""The laws of symmetry, each a check with a verdict."""
