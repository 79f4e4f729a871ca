"""Attention along edges on a GPU, in Triton. Importing this package imports Triton."""
