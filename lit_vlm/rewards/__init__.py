"""Completions to a score each, with named details."""
