"""What backends run: compiled kernels (cpu, cuda), those of PyTorch (flash), block masks."""
