"""A model within a wrapper of the checker's own."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Wrapped(ABC):
    """Calls a model in a way of its own; reports speak of the model within."""

    function: Callable[..., Any]

    @abstractmethod
    def expression(self, inner: str) -> tuple[str, str]:
        """The import and the expression that make this of `inner` in a script."""

    @abstractmethod
    def __call__(self, *inputs: Any) -> Any:
        """Call the model."""
