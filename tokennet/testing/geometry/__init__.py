"""Laws of space: translations, rotations, reflections, scale; signs of eigenvectors; shifts."""

from tokennet.testing.geometry.discovery import GeometryReport, discover_geometry
from tokennet.testing.geometry.laws import check_group, laws_of_group

__all__ = ["GeometryReport", "check_group", "discover_geometry", "laws_of_group"]
