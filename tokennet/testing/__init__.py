"""Laws for people who bring their own model; `strategies` needs hypothesis."""

from tokennet.testing.check import LawReport, applicable_laws, check
from tokennet.testing.laws import LAWS

__all__ = ["LAWS", "LawReport", "applicable_laws", "check"]
