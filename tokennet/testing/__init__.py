"""Laws for people who bring their own model.

`parametrize_with_checks` needs pytest, `tokennet.testing.strategies` hypothesis.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

from tokennet.testing.check import LawReport, applicable_laws, check
from tokennet.testing.laws import LAWS

if TYPE_CHECKING:
    from tokennet.testing.parametrize import parametrize_with_checks

__all__ = ["LAWS", "LawReport", "applicable_laws", "check", "parametrize_with_checks"]


def __getattr__(name: str) -> Any:
    """Import what needs pytest only where it is asked for."""
    if name == "parametrize_with_checks":
        return importlib.import_module("tokennet.testing.parametrize").parametrize_with_checks
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
