"""Measured constants of the cost model, in seconds; see `cost.py`.

CPU: by `tokennet bench --calibrate` on two cores of an AMD EPYC, PyTorch 2.13. CUDA: the same on
one H200 in bfloat16, PyTorch 2.11, without what compiling takes; and what a FLOP takes in
float32, without the tensor cores: of complete graphs of 4 x 4096 tokens, and with a mask of a grid
of 64 x 64.
"""

CONSTANTS: dict[str, dict[str, dict[str, list[float]]]] = {
    "cpu": {
        "dense": {
            "forward": [3.286e-05, 3.184e-06, 0.0, 5.726e-10, 4.26e-12, 4.422e-11, 0.0],
            "training": [8.826e-05, 7.845e-06, 0.0, 2.206e-09, 1.497e-11, 2.883e-11, 0.0],
        },
        "sets": {
            "forward": [5.17e-05, 2e-06, 0.0, 7.234e-10, 4.281e-13, 1.887e-10, 0.0],
            "training": [0.0001757, 4.776e-06, 0.0, 2.261e-09, 7.083e-12, 4.708e-10, 0.0],
        },
        "banded": {
            "forward": [0.0001325, 4.995e-06, 0.0, 1.298e-10, 5.374e-12, 1.065e-10, 0.0],
            "training": [0.0003228, 1.266e-05, 0.0, 1.83e-09, 2.104e-11, 0.0, 0.0],
        },
        "fused": {
            "forward": [0.0001527, 6.146e-08, 6.451e-10, 5.702e-10, 0.0, 1.014e-11, 4.063e-11],
            "training": [0.0004602, 1.403e-07, 2.258e-09, 1.853e-09, 0.0, 3.218e-11, 1.147e-10],
        },
        "sparse": {
            "forward": [2.716e-05, 5.022e-08, 0.0, 6.051e-09, 0.0, 1.385e-11, 3.69e-11],
            "training": [7.919e-05, 1.307e-07, 0.0, 1.22e-08, 0.0, 3.654e-11, 1.579e-10],
        },
        "flex": {
            "forward": [0.0001224, 2.04e-05, 0.0, 8.31e-09, 0.0, 1.237e-11, 0.0],
            "training": [0.0003672, 6.12e-05, 0.0, 2.493e-08, 0.0, 3.711e-11, 0.0],
        },
        "reference": {
            "forward": [1.403e-05, 0.0, 3.239e-09, 1.362e-08, 0.0, 3.417e-11, 0.0],
            "training": [2.643e-05, 0.0, 1.476e-08, 2.467e-08, 0.0, 7.823e-11, 0.0],
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
    "sets": {"forward": 4.1e-14, "training": 1.2e-13},
    "banded": {"forward": 4.1e-14, "training": 1.2e-13},
    "flex": {"forward": 5.2e-14, "training": 6.7e-13},
}
"""On CUDA, added to the rest. Kernels that go along edges take no tensor cores anyway."""
