"""Attention along edges on a GPU, in Triton. Importing its modules imports Triton."""
