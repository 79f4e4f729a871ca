"""Measured constants of the cost model, in seconds; see `cost.py`.

CPU: by `tokennet bench --calibrate` on two cores of an AMD EPYC, PyTorch 2.13. CUDA: not measured,
but reckoned for a data-centre GPU: 3 TB/s from memory and 5 from its cache, 400 TFLOP/s in flash
attention, 3e12 exponentials a second, some 10 microseconds to launch an operator; two to four times
as much with the backward pass. The planner is as good as that.
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
            "forward": [2e-05, 0, 0, 3e-13, 2.5e-15, 3e-13, 0],
            "training": [6e-05, 0, 0, 1e-12, 9e-15, 1e-12, 0],
        },
        "sets": {
            "forward": [3e-05, 0, 0, 3e-13, 2.5e-15, 3e-13, 0],
            "training": [1e-04, 0, 0, 1e-12, 9e-15, 1e-12, 0],
        },
        "banded": {
            "forward": [5e-05, 0, 0, 3e-13, 2.5e-15, 3e-13, 0],
            "training": [1.5e-04, 0, 0, 1e-12, 9e-15, 1e-12, 0],
        },
        "fused": {
            "forward": [8e-05, 0, 0, 2e-12, 0, 2e-13, 3e-13],
            "training": [3e-04, 0, 0, 8e-12, 0, 6e-13, 9e-13],
        },
        "sparse": {
            "forward": [2e-05, 0, 0, 2e-11, 0, 2e-12, 0],
            "training": [6e-05, 0, 0, 6e-11, 0, 6e-12, 0],
        },
        "flex": {
            "forward": [2e-05, 0, 0, 4e-13, 2.5e-15, 3e-13, 0],
            "training": [6e-05, 0, 0, 1.4e-12, 9e-15, 1e-12, 0],
        },
        "reference": {
            "forward": [3e-05, 0, 0, 5e-11, 0, 1e-12, 0],
            "training": [9e-05, 0, 0, 1.5e-10, 0, 3e-12, 0],
        },
    },
}
