"""Kernels in C++, compiled when first needed."""
