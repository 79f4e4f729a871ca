"""How far a map is from equivariance under translations, rotations and other flows of space.

For models of series, images and tokens on a grid; laws of permutations are in `laws`.
"""

from tokennet.testing.lie.error import LieError, lie_derivative, lie_error
from tokennet.testing.lie.generator import LieGenerator
from tokennet.testing.lie.layers import lie_contributions, lie_errors_by_layer
from tokennet.testing.lie.shifts import ShiftTable, shift_table

__all__ = [  # noqa: RUF022  in groups, as one reads them
    "LieGenerator", "LieError", "lie_error", "lie_derivative",
    "lie_contributions", "lie_errors_by_layer", "ShiftTable", "shift_table",
]  # fmt: skip
