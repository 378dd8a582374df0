"""Transforms of gradients, after the backward pass and before clipping."""
