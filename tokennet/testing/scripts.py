"""What the scripts of reports import: ways to call a model, as an example needs them.

A script is pasted beside a model to see a break. `Form` calls a model with lists, packed tensors or
transposed sequences, `ByName` with keyword arguments, `Selected` picks outputs, and so on.
"""

from __future__ import annotations

from tokennet.testing.engine.chance import MoveNoise, Noise, WithNoise
from tokennet.testing.engine.wrapped import GradientOf
from tokennet.testing.example.calls import ByName, OnData, Selected
from tokennet.testing.example.forms import Form, Slot
from tokennet.testing.example.layout import Layout
from tokennet.testing.example.values import tensors_of
from tokennet.testing.geometry.calls import Arranged
from tokennet.testing.laws.backends import OnBackend
from tokennet.testing.laws.leading import Swapped
from tokennet.testing.laws.mask import OfSet

__all__ = ["Arranged", "ByName", "Form", "GradientOf", "Layout", "MoveNoise", "Noise", "OfSet",
           "OnBackend", "OnData", "Selected", "Slot", "Swapped", "WithNoise",
           "tensors_of"]  # fmt: skip
