"""`verified`: a model and its net give the same for random inputs; `Conversion` says so."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import deepcopy
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

SIZES = (7, 4)
"""Numbers of tokens of the two sets that are run; the shorter one is padded where both are."""


@dataclass(frozen=True)
class Conversion:
    """What is known of a converted net. Made by `from_torch`, `from_timm`, `from_huggingface`.

    It is `net.conversion`.
    """

    source: str
    """Class of the model."""
    error: float | None
    """Largest difference of a token's outputs, relative to the largest of them; None where the
    conversion was asked not to verify."""
    dtype: torch.dtype | None
    """In which both were run."""

    @property
    def is_verified(self) -> bool:
        """Whether both were run and compared."""
        return self.error is not None


class Run(NamedTuple):
    """Outputs of a model and of its net for the same input, each (..., N, D)."""

    what: str
    """Describes the input: "7 tokens"."""
    theirs: Tensor
    ours: Tensor


class Inputs:
    """Random inputs, the same each time."""

    def __init__(self, dtype: torch.dtype, device: torch.device) -> None:
        self.dtype, self.device = dtype, device
        self._generator = torch.Generator().manual_seed(0)

    def normal(self, *shape: int) -> Tensor:
        """Normally distributed numbers."""
        z = torch.randn(*shape, generator=self._generator, dtype=torch.float64)
        return z.to(self.device, self.dtype)

    def ids(self, vocab: int, *shape: int) -> Tensor:
        """Integers below `vocab`."""
        return torch.randint(vocab, shape, generator=self._generator).to(self.device)


def padding(sizes: Sequence[int], device: torch.device) -> Tensor:
    """(B, N), True where a shorter set is padded."""
    return (torch.arange(max(sizes)) >= torch.tensor(sizes)[:, None]).to(device)


def verified(
    argument: str,
    model: nn.Module,
    net: nn.Module,
    runs: Callable[[Any, Any, Inputs], Iterable[Run]],
    pairs: Sequence[tuple[nn.Module, nn.Module]],
    dtype: torch.dtype,
) -> float:
    """The largest relative difference of a token, or ValueError if it is more than rounding."""
    device = next(model.parameters()).device
    try:
        ours, theirs = (deepcopy(part).to(dtype).eval() for part in (net, model))
    except Exception as error:
        raise ValueError(
            f"{argument} must be one that can be copied, to be verified; verify=False converts "
            "without that"
        ) from error
    tolerance, errors = torch.finfo(dtype).eps ** 0.5, [0.0]
    fast = torch.backends.mha.get_fastpath_enabled()
    torch.backends.mha.set_fastpath_enabled(False)  # it runs the weights, not the modules
    try:
        with torch.no_grad():
            for run in _run(argument, runs(theirs, ours, Inputs(dtype, device))):
                if run.theirs.shape != run.ours.shape:
                    shapes = tuple(run.theirs.shape), tuple(run.ours.shape)
                    raise ValueError(
                        f"{argument} cannot be converted: for {run.what} it returns shape "
                        f"{shapes[0]}, the net {shapes[1]}"
                    )
                by_token = _difference(run.theirs, run.ours)
                errors.append(float(by_token.max()))
                if not errors[-1] <= tolerance:
                    first = _first_difference(
                        [(_twin(net, ours, a), _twin(model, theirs, b)) for a, b in pairs],
                        lambda: next(iter(runs(theirs, ours, Inputs(dtype, device)))),
                        tolerance,
                    )
                    name = next((n for n, m in theirs.named_modules() if m is first), None)
                    raise ValueError(_message(argument, run, by_token, name))
    finally:
        torch.backends.mha.set_fastpath_enabled(fast)
    return max(errors)


def _run(argument: str, runs: Iterable[Run]) -> Iterable[Run]:
    try:
        yield from runs
    except Exception as error:
        raise ValueError(
            f"{argument} must be like others of its class: it or its net cannot run on random "
            f"inputs, {type(error).__name__}: {error}"
        ) from error


def _difference(theirs: Tensor, ours: Tensor) -> Tensor:
    """(..., N), relative to the largest value of the token, or to 1e-3 of that of all tokens."""
    scale = theirs.abs().amax(-1)
    scale = scale.clamp(min=1e-3 * float(scale.max())).clamp(min=1e-30)
    return (theirs - ours).abs().amax(-1) / scale


def _message(argument: str, run: Run, by_token: Tensor, name: str | None) -> str:
    worst = torch.unravel_index(by_token.nan_to_num(torch.inf).argmax(), by_token.shape)
    where = ", ".join(str(int(index)) for index in worst)
    within = f"; the first that differs is {argument}.{name}" if name else ""
    return (
        f"{argument} cannot be converted: for {run.what} the net gives other outputs, by a part of "
        f"{float(by_token[worst]):.2g} at [{where}]{within}"
    )


def _twin(whole: nn.Module, copy: nn.Module, part: nn.Module) -> nn.Module:
    """The part of a copy at the name of a part of the whole."""
    return copy.get_submodule(next(name for name, m in whole.named_modules() if m is part))


def _first_difference(
    pairs: Sequence[tuple[nn.Module, nn.Module]], run: Callable[[], Any], tolerance: float
) -> nn.Module | None:
    """The first module of the model that gives something else than its layer, if that is found."""
    seen: dict[nn.Module, Any] = {}
    hooks = [
        module.register_forward_hook(lambda module, _, out: seen.setdefault(module, out))
        for pair in pairs
        for module in pair
    ]
    run()
    for hook in hooks:
        hook.remove()
    for ours, theirs in pairs:
        got, want = (_tensor(seen.get(module)) for module in (ours, theirs))
        if got is None or want is None:
            continue
        if want.dim() == 4:
            want = want.flatten(2).mT  # (B, D, H, W) to (B, N, D)
        if want.shape != got.shape:
            want = want.transpose(0, 1)  # sequences first
        if want.shape != got.shape or not float(_difference(want, got).max()) <= tolerance:
            return theirs
    return None


def _tensor(out: Any) -> Any:
    out = out[0] if isinstance(out, tuple) else out
    return getattr(out, "z", out)
