"""Which inputs of a model hold coordinates and vectors, and of what kind each output is.

By name, else by shape; `roles` and `outputs` of `check` say it where that is not enough.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from tokennet.checks import check_type, lookup
from tokennet.testing.engine.intervention import Inputs
from tokennet.testing.engine.reach import modules_of
from tokennet.testing.engine.sandbox import sandboxed
from tokennet.testing.example.calls import ByName
from tokennet.testing.example.inputs import parameters_of
from tokennet.testing.example.values import describe, is_pyg_data, map_tensors
from tokennet.testing.geometry.calls import Arranged, named_outputs
from tokennet.testing.geometry.representations import Representation, width_of
from tokennet.tokens import Tokens

POINTS = ("pos", "points", "coords", "coors", "coordinates", "xyz", "positions", "point_cloud")
VECTORS = (
    "force", "forces", "vel", "velocity", "velocities", "vector", "vectors", "normal", "normals",
    "momentum", "momenta", "dipole", "dipoles", "cell", "lattice", "edge_vec", "edge_vector",
)  # fmt: skip
EIGENVECTORS = (
    "eigenvectors", "eigvecs", "evecs", "eig_vecs", "EigVecs", "laplacian_eigenvector_pe",
    "lap_pe", "pe",
)  # fmt: skip
EIGENVALUES = ("eigenvalues", "eigvals", "evals", "eig_vals", "EigVals")
SIZES = (3, 2)
"""Numbers of coordinates that are recognized by shape alone, in this order."""


@dataclass(frozen=True)
class Reading:
    """A model of points with its inputs, the moved first, and what each of them is.

    Attributes:
        names: of the inputs.
        n: the number of coordinates.
        irreps: layouts that modules of the model declare.
        single: the model returns one tensor.
    """

    function: Arranged
    inputs: Inputs
    names: tuple[str, ...]
    kinds: tuple[Representation, ...]
    n: int
    irreps: tuple[str, ...]
    single: bool

    @property
    def call(self) -> Callable[..., Any]:
        """The function of the inputs: the model itself where nothing is arranged."""
        plain = Arranged(self.function.function, tuple(range(len(self.inputs))), ("0",))
        return plain.function if self.function == plain and self.single else self.function

    def __str__(self) -> str:
        pairs = zip(self.names, self.inputs, self.kinds, strict=True)
        return ", ".join(
            f"{name}: {kind}" for name, value, kind in pairs if isinstance(value, Tensor)
        )


def read_points(
    model: Callable[..., Any],
    example: Any,
    roles: Mapping[str, str] | None,
    *,
    n: int | None,
    spectral: bool = False,
) -> Reading:
    """Find what each input is, and the outputs of floating-point numbers.

    Args:
        n: the number of coordinates, where the group says it.
        spectral: eigenvectors are looked for, not points.

    Raises:
        TypeError: the example has no form that is known.
        ValueError: no input, or more than one, may hold the coordinates.
    """
    check_type("roles", roles, Mapping | None, "a dict of names and roles")
    function, values, attributes, names = parts_of(model, example)
    given = {
        name: Representation.parse(f"roles[{name!r}]", role) for name, role in (roles or {}).items()
    }
    for name in given:
        lookup("roles", name, dict.fromkeys(names))
    declared = _declared(model)
    kinds = _kinds(names, values, given, declared, n, spectral)
    n = _size(names, values, kinds, n)
    for name, value, kind in zip(names, values, kinds, strict=True):
        if not kind.is_still and not (isinstance(value, Tensor) and kind.fits(value, n)):
            raise ValueError(
                f"input {name} must be floating-point, with a dimension {kind.dim} for {kind} of "
                f"{n} coordinates, got {describe(value)}"
            )
    order = sorted(range(len(values)), key=lambda k: (_RANK.get(kinds[k].name, 2), k))
    if attributes:  # the object that holds them stays last
        order = [k for k in order if k != len(values) - 1] + [len(values) - 1]
        attributes = tuple(names[k] for k in order[:-1])
    inputs = tuple(values[k] for k in order)
    arranged = Arranged(function, tuple(order), (), attributes)
    arranged, single = with_outputs(arranged, inputs)
    return Reading(
        arranged,
        inputs,
        tuple(names[k] for k in order),
        tuple(kinds[k] for k in order),
        n,
        tuple(dict.fromkeys(name for part in declared.values() for name in part)),
        single,
    )


_RANK = {"points": 0, "eigenvectors": 0, "vector": 1, "scalar": 3, "eigenvalues": 4, "other": 5}
"""The order of inputs: the first is the one whose content the engine changes."""


def parts_of(model: Any, example: Any) -> tuple[Any, list[Any], tuple[str, ...], list[str]]:
    """The function that is called, its inputs, which are attributes of the last, their names."""
    parameters = parameters_of(model)
    if isinstance(example, dict):
        names = [name for name, value in example.items() if value is not None]
        return ByName(model, tuple(names)), [example[name] for name in names], (), names
    if is_pyg_data(example):
        keys = [key for key, value in example if isinstance(value, Tensor)]
        known = [key for key in keys if key in parameters]
        if "pos" in known or "x" in known:
            return ByName(model, tuple(known)), [example[key] for key in known], (), known
        keys = [key for key in keys if example[key].is_floating_point()]
        return model, [*(example[key] for key in keys), example], tuple(keys), [*keys, "data"]
    if isinstance(example, Tokens):
        if example.pos is None:
            raise ValueError(f"example must have positions, pos=, got {example!r}")
        return model, [example.pos, example.z, example], ("pos", "z"), ["pos", "z", "tokens"]
    values = list(example) if isinstance(example, tuple | list) else [example]
    if not any(isinstance(value, Tensor) for value in values):
        raise TypeError(f"example must hold tensors, got {describe(example)}")
    names = parameters[: len(values)]
    names = [name if name not in ("args", "kwargs") else str(k) for k, name in enumerate(names)]
    return model, values, (), names + [str(k) for k in range(len(names), len(values))]


def _declared(model: Any) -> dict[str, list[str]]:
    """Irreps by attribute that the modules of a model have: "in", "out", and of submodules."""
    found: dict[str, list[str]] = {"in": [], "out": [], "": []}
    o3 = sys.modules.get("e3nn.o3")
    if o3 is None:
        return found

    def irreps(module: Any, *names: str) -> list[str]:
        values = (getattr(module, name, None) for name in names)
        return [str(value) for value in values if isinstance(value, o3.Irreps) and value.dim]

    ins = ("irreps_in", "irreps_in1", "irreps_in2")
    found["in"], found["out"] = irreps(model, *ins), irreps(model, "irreps_out")
    for module in modules_of(model):
        found[""] += irreps(module, *ins, "irreps_out", "irreps_sh")
    return found


def _kinds(
    names: Sequence[str],
    values: Sequence[Any],
    given: dict[str, Representation],
    declared: dict[str, list[str]],
    n: int | None,
    spectral: bool,
) -> list[Representation]:
    kinds = [given.get(name) or _by_name(name, value, spectral) for name, value in
             zip(names, values, strict=True)]  # fmt: skip
    main = "eigenvectors" if spectral else "points"
    if any(kind is not None and not kind.is_still for kind in kinds):
        return [kind or Representation("scalar") for kind in kinds]
    free = [
        k
        for k, value in enumerate(values)
        if kinds[k] is None and isinstance(value, Tensor) and value.is_floating_point()
    ]
    if declared["in"] and [width_of(name) for name in declared["in"]] == [
        values[k].shape[-1] for k in free[: len(declared["in"])]
    ]:
        for k, name in zip(free, declared["in"], strict=False):
            kinds[k] = Representation(name)
        return [kind or Representation("scalar") for kind in kinds]
    found = _by_shape(free, values, (n,) if n else SIZES, spectral)
    if len(found) != 1:
        few = "none may" if not found else f"{', '.join(names[k] for k, _ in found)} may all"
        raise ValueError(
            f"roles must say which input holds the {main}, as roles={{{names[0]!r}: {main!r}}}: "
            f"{few}; the inputs are {', '.join(map(str, names))}, {describe(list(values))}"
        )
    number, dim = found[0]
    kinds[number] = Representation(main, dim)
    return [kind or Representation("scalar") for kind in kinds]


def _by_name(name: str, value: Any, spectral: bool) -> Representation | None:
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.dim() < 1:
        return (
            Representation("other") if not isinstance(value, Tensor) else Representation("scalar")
        )
    known = {"eigenvectors": EIGENVECTORS, "eigenvalues": EIGENVALUES}
    if not spectral:
        known = {"points": POINTS, "vector": VECTORS}
    for kind, words in known.items():
        if any(name == word or name.endswith(f"_{word}") for word in words):
            if spectral or value.shape[-1] in SIZES:
                return Representation(kind)
            if value.dim() > 1 and value.shape[-2] in SIZES:
                return Representation(kind, -2)
    return None


def _by_shape(
    free: list[int], values: Sequence[Any], sizes: Sequence[int], spectral: bool
) -> list[tuple[int, int]]:
    """Which inputs may hold the coordinates, and in which dimension."""
    if spectral:
        return [(k, -1) for k in free]
    for size in sizes:
        for dim in (-1, -2):
            fitting = [k for k in free if values[k].dim() >= max(-dim, 1)
                       and values[k].shape[dim] == size]  # fmt: skip
            if fitting:
                return [(k, dim) for k in fitting]
    return []


def _size(
    names: Sequence[str], values: Sequence[Any], kinds: Sequence[Representation], n: int | None
) -> int:
    if n is not None:
        return n
    for value, kind in zip(values, kinds, strict=True):
        if kind.name in ("points", "eigenvectors"):
            size = value.shape[kind.dim]
            return 3 if size % 3 == 0 and kind.name == "points" else size
    return 3


def with_outputs(arranged: Arranged, inputs: Inputs) -> tuple[Arranged, bool]:
    """With the names of all outputs, and with autograd where the model needs it; is it a tensor."""
    with sandboxed(arranged, dtype=None):
        try:
            with torch.no_grad():
                output = arranged.output(map_tensors(torch.clone, inputs))
        except RuntimeError as error:
            if "grad" not in str(error):
                raise
            arranged = replace(arranged, gradients=True)
            output = arranged.output(map_tensors(torch.clone, inputs))
    named = named_outputs(output)
    if not named:
        raise TypeError("the model must return floating-point tensors")
    return replace(arranged, outputs=tuple(named)), isinstance(output, Tensor)
