"""What a source of models is, and what several of them share."""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from types import ModuleType
from typing import Any, NamedTuple

import torch
from torch import Tensor

SETS, TOKENS, VOCABULARY = 3, 7, 41
"""Sizes of the examples; they differ, so that no dimension is taken for another."""


@dataclass(frozen=True)
class ZooModel:
    """A small random model, an example for it, and the options of `check` that it needs.

    `notes` say what was left out of the example.
    """

    model: Any
    example: Any
    options: dict[str, Any] = field(default_factory=dict)
    notes: tuple[str, ...] = ()


class Source(NamedTuple):
    """A source of models, written before the colon of a name: needed to add one to `SOURCES`.

    Args:
        summary: what it has, in a line.
        shown: a name, for messages.
        make: the model of a name, without what is before the colon.
    """

    summary: str
    shown: str
    make: Callable[[str], ZooModel]


def package(name: str, install: str = "") -> ModuleType:
    """Import a package of others, or say what to install.

    Args:
        install: what pip installs, where it is called otherwise.

    Raises:
        ImportError: it is not installed, or something that it needs is not.
    """
    try:
        return importlib.import_module(name)
    except ImportError as error:
        top, lacking = name.partition(".")[0], (error.name or "").partition(".")[0]
        if lacking in ("", top):
            told = f"{top} is not installed; pip install {install or top} brings it"
        else:
            told = f"{top} needs {lacking}, which is not installed; pip install {lacking} brings it"
        raise ImportError(told) from None


def unknown(what: str, name: str, known: Iterable[str]) -> ValueError:
    """The error that there is no such name, with the nearest.

    >>> print(unknown("model timm", "resnet8", ["resnet18", "vit"]))
    model timm has no 'resnet8'; did you mean resnet18?
    """
    nearest = difflib.get_close_matches(name, list(known), cutoff=0.7)
    hint = f"; did you mean {' or '.join(nearest)}?" if nearest else ""
    return ValueError(f"{what} has no {name!r}{hint}")


def generator() -> torch.Generator:
    return torch.Generator().manual_seed(0)


def padded_mask(length: int) -> Tensor:
    """(SETS, length) 1 for a token, 0 for padding behind it, in two of the sets."""
    lengths = torch.tensor([length, length - 2, length - 3])
    return (torch.arange(length) < lengths[:, None]).long()
