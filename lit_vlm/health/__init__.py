"""Checks of a recipe on its own model and data, before the first run."""
