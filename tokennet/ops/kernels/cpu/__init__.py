"""The fused kernel in C++: sources, how they are compiled and kept, and how they are called."""
