"""Fixtures of the checks."""

from tests.health.health_material import make_subject

__all__ = ["make_subject"]
