"""Log-probabilities to a loss."""
