"""Merging: checkpoints -> a checkpoint, by arithmetic on weights, tensor by tensor."""
