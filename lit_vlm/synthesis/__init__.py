"""A sample with graded completions to training samples."""
