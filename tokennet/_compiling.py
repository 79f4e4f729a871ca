"""`outside_compilation` and `constant_result`, as `torch.compiler` has them, without its seconds.

`torch.compiler.disable` and `torch.compiler.assume_constant_result` import `torch._dynamo`, and
with it sympy, when a function is decorated: longer than everything else in `import tokennet`
takes. These two set the same marks on a function, and import nothing.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from functools import cache, wraps
from typing import Any, TypeVar

import torch
from torch._C._dynamo.eval_frame import (
    _FrameAction,
    _FrameExecStrategy,
    set_code_exec_strategy,
)

F = TypeVar("F", bound=Callable[..., Any])
_SKIP = _FrameExecStrategy(_FrameAction.SKIP, _FrameAction.DEFAULT)
"""This frame is not compiled; those that it calls are looked at."""


def _disabled(function: F) -> F:
    return torch.compiler.disable(function)


set_code_exec_strategy(_disabled.__code__, _SKIP)
_disabled = cache(_disabled)  # type: ignore[assignment]


def outside_compilation(reason: str) -> Callable[[F], F]:
    """Decorate a function that `torch.compile` neither traces nor compiles.

    A compiled graph breaks where it is called; with `fullgraph=True` that is an error that says
    the reason. As `torch.compiler.disable(reason=...)`.

    >>> @outside_compilation("it asks the disk")
    ... def answer():
    ...     return 42
    >>> answer()
    42
    """

    def mark(function: F) -> F:
        def run(*args: Any, **kwargs: Any) -> Any:
            # Without dynamo nothing is being compiled, and what is called here needs no guard.
            if "torch._dynamo" in sys.modules:
                return _disabled(function)(*args, **kwargs)
            return function(*args, **kwargs)

        set_code_exec_strategy(run.__code__, _SKIP)
        run._torchdynamo_disable = True  # type: ignore[attr-defined]
        run._torchdynamo_disable_msg = reason  # type: ignore[attr-defined]
        return wraps(function)(run)  # type: ignore[return-value]

    return mark


def constant_result(function: F) -> F:
    """Decorate a function that `torch.compile` calls while tracing, for a constant of the program.

    As `torch.compiler.assume_constant_result`.

    >>> @constant_result
    ... def answer():
    ...     return 42
    >>> answer()
    42
    """
    function._dynamo_marked_constant = True  # type: ignore[attr-defined]
    return function
