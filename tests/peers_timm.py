"""timm without torchvision, whose wheels bring CUDA and break beside a CPU build of torch.

timm imports names from torchvision that its models make no use of; where torchvision is not
installed, stand-ins take their place.
Write `from tests.peers_timm import timm`; where timm is not installed, the test module is skipped.
"""

from __future__ import annotations

import importlib.abc
import importlib.machinery
import importlib.util
import sys
from types import ModuleType
from typing import ClassVar

import pytest


class _Names(type):
    """Of a class that has whatever is asked for, such as the members of an enumeration."""

    def __getattr__(cls, name: str) -> str:
        if name.startswith("__"):
            raise AttributeError(name)
        return name


class _StandIn(ModuleType):
    """A module in which every name is a class without content."""

    __path__: ClassVar[list[str]] = []

    def __getattr__(self, name: str) -> type:
        if name.startswith("__"):
            raise AttributeError(name)
        return _Names(name, (), {})


class _StandIns(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Makes `torchvision` and what is below it, while timm is imported."""

    def find_spec(self, fullname, path=None, target=None):
        if fullname.partition(".")[0] != "torchvision":
            return None
        return importlib.machinery.ModuleSpec(fullname, self, is_package=True)

    def create_module(self, spec):
        return _StandIn(spec.name)

    def exec_module(self, module) -> None:
        """There is nothing to run."""


def _import_timm() -> ModuleType:
    if importlib.util.find_spec("timm") is None:
        pytest.skip("needs timm: pip install --no-deps timm", allow_module_level=True)
    if importlib.util.find_spec("torchvision") is not None:
        return importlib.import_module("timm")
    finder = _StandIns()
    sys.meta_path.insert(0, finder)
    try:
        return importlib.import_module("timm")
    finally:
        # Other packages ask whether torchvision is there: it is not.
        sys.meta_path.remove(finder)
        for name in [name for name in sys.modules if name.partition(".")[0] == "torchvision"]:
            del sys.modules[name]


timm = _import_timm()
