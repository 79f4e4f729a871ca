"""Measured constants of the cost model, in seconds; see `cost.py`.

CPU: by `tokennet bench --calibrate` on two cores of an AMD EPYC, PyTorch 2.13. CUDA: the same on
one H200 in bfloat16, PyTorch 2.11, without what compiling takes; and what a FLOP takes besides in
float32, without the tensor cores, as measured of complete graphs of 4 x 4096 tokens.
"""

CONSTANTS: dict[str, dict[str, dict[str, list[float]]]] = {
    "cpu": {
        "dense": {
            "forward": [3.886e-05, 2.746e-06, 0.0, 5.503e-10, 4.304e-12, 4.604e-11, 0.0],
            "training": [9.709e-05, 9.645e-06, 0.0, 2.271e-09, 1.622e-11, 0.0, 0.0],
        },
        "sets": {
            "forward": [6.609e-05, 1.6e-06, 0.0, 6.653e-10, 1.133e-14, 2.303e-10, 0.0],
            "training": [0.0002058, 2.624e-06, 0.0, 1.952e-09, 7.461e-12, 7.13e-10, 0.0],
        },
        "banded": {
            "forward": [0.000127, 9.212e-06, 0.0, 0.0, 5.84e-12, 1.533e-10, 0.0],
            "training": [0.0002767, 3.002e-05, 0.0, 9.873e-10, 2.222e-11, 1.962e-10, 0.0],
        },
        "fused": {
            "forward": [0.0001646, 7.773e-08, 6.156e-10, 6.044e-10, 0.0, 1.015e-11, 3.796e-11],
            "training": [0.0006223, 1.79e-07, 1.785e-09, 2.058e-09, 0.0, 3.344e-11, 1.658e-10],
        },
        "sparse": {
            "forward": [2.812e-05, 7.195e-08, 0.0, 5.965e-09, 0.0, 1.388e-11, 4.836e-11],
            "training": [8.497e-05, 1.471e-07, 0.0, 1.183e-08, 0.0, 4.242e-11, 1.424e-10],
        },
        "flex": {
            "forward": [0.0001491, 0.0, 0.0, 9.029e-09, 3.354e-13, 0.0, 0.0],
            "training": [0.0004473, 0.0, 0.0, 2.709e-08, 1.006e-12, 0.0, 0.0],
        },
        "reference": {
            "forward": [1.436e-05, 0.0, 2.489e-09, 1.709e-08, 0.0, 3.303e-11, 0.0],
            "training": [2.986e-05, 0.0, 7.358e-09, 2.843e-08, 0.0, 8.886e-11, 0.0],
        },
    },
    "cuda": {
        "dense": {
            "forward": [9.934e-06, 0.0, 0.0, 1.708e-12, 0.0, 0.0, 0.0],
            "training": [1.855e-05, 0.0, 0.0, 0.0, 0.0, 2.316e-12, 0.0],
        },
        "sets": {
            "forward": [1.041e-05, 1.617e-08, 0.0, 5.74e-13, 1.855e-15, 0.0, 0.0],
            "training": [2.696e-05, 6.529e-08, 0.0, 2.496e-12, 3.984e-15, 1.316e-13, 0.0],
        },
        "banded": {
            "forward": [1.676e-05, 0.0, 0.0, 1.127e-12, 0.0, 1.384e-12, 0.0],
            "training": [3.848e-05, 0.0, 0.0, 2.735e-12, 0.0, 3.46e-12, 0.0],
        },
        "fused": {
            "forward": [6.921e-06, 3.839e-11, 6.532e-12, 0.0, 0.0, 1.162e-13, 8.163e-14],
            "training": [1.954e-05, 1.783e-10, 2.312e-11, 0.0, 0.0, 4.015e-13, 3.054e-13],
        },
        "sparse": {
            "forward": [8.402e-06, 5.712e-09, 0.0, 5.834e-11, 0.0, 2.194e-13, 1.249e-13],
            "training": [1.72e-05, 1.078e-08, 0.0, 2.085e-10, 0.0, 5.903e-13, 3.467e-13],
        },
        "flex": {
            "forward": [1.745e-06, 6.387e-07, 0.0, 2.499e-14, 0.0, 7.647e-13, 0.0],
            "training": [4.019e-06, 1.64e-06, 0.0, 2.702e-13, 0.0, 3.564e-12, 0.0],
        },
        "reference": {
            "forward": [5.271e-06, 0.0, 5.812e-10, 1.708e-10, 0.0, 1.16e-12, 0.0],
            "training": [9.352e-06, 0.0, 8.358e-10, 2.938e-10, 0.0, 3.969e-12, 0.0],
        },
    },
}

EXACT_FLOP: dict[str, dict[str, float]] = {
    "dense": {"forward": 2.9e-14, "training": 1e-13},
    "sets": {"forward": 2.9e-14, "training": 1e-13},
    "banded": {"forward": 2.9e-14, "training": 1e-13},
    "flex": {"forward": 5.2e-14, "training": 6.7e-13},
}
"""On CUDA. Kernels that go along edges take no tensor cores anyway."""
