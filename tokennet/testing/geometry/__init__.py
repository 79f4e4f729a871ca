"""Laws of space: translations, rotations, reflections, scale; signs of eigenvectors; shifts."""

from tokennet.testing.geometry.laws import check_group, laws_of_group

__all__ = ["check_group", "laws_of_group"]
