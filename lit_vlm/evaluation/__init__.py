"""Completions to metrics."""
