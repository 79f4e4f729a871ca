"""Measured constants of the cost model, in seconds; see `cost.py`.

CPU: by `tokennet bench --calibrate` on two cores of an AMD EPYC, PyTorch 2.13. CUDA: not measured,
but reckoned for a data-centre GPU: 3 TB/s from memory and 5 from its cache, 400 TFLOP/s in flash
attention, 3e12 exponentials a second, some 10 microseconds to launch an operator; two to four times
as much with the backward pass. The planner is as good as that.
"""

CONSTANTS: dict[str, dict[str, dict[str, list[float]]]] = {
    "cpu": {
        "dense": {
            "forward": [3.294e-05, 2.502e-06, 0.0, 9.383e-10, 3.497e-12, 0.0, 0.0],
            "training": [9.088e-05, 8.005e-06, 0.0, 3.017e-09, 1.219e-11, 0.0, 0.0],
        },
        "sets": {
            "forward": [4.266e-05, 2.542e-06, 0.0, 7.703e-10, 0.0, 1.882e-10, 0.0],
            "training": [0.0001082, 5.99e-06, 0.0, 2.906e-09, 2.721e-12, 4.662e-10, 0.0],
        },
        "banded": {
            "forward": [0.0001586, 4.75e-06, 0.0, 6.667e-10, 5.838e-12, 3.104e-11, 0.0],
            "training": [0.0003013, 1.39e-05, 0.0, 7.949e-10, 1.659e-11, 3.902e-10, 0.0],
        },
        "fused": {
            "forward": [0.0001465, 6.134e-08, 1.79e-09, 1.205e-09, 0.0, 1.311e-11, 3.592e-11],
            "training": [0.0005739, 1.416e-07, 5.862e-09, 3.115e-09, 0.0, 4.438e-11, 1.439e-10],
        },
        "sparse": {
            "forward": [2.723e-05, 7.593e-08, 0.0, 7.012e-09, 0.0, 1.524e-11, 5.514e-11],
            "training": [8.297e-05, 1.812e-07, 0.0, 1.296e-08, 0.0, 4.721e-11, 1.948e-10],
        },
        "flex": {
            "forward": [0.0001396, 0.0, 0.0, 1.047e-08, 0.0, 0.0, 0.0],
            "training": [0.0004188, 0.0, 0.0, 3.141e-08, 0.0, 0.0, 0.0],
        },
        "reference": {
            "forward": [1.392e-05, 0.0, 7.365e-09, 1.622e-08, 0.0, 3.567e-11, 0.0],
            "training": [2.887e-05, 0.0, 2.016e-08, 2.044e-08, 0.0, 9.839e-11, 0.0],
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
