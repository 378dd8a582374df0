"""Post-trains vision-language models for reasoning: one LightningModule a paradigm, one recipe a method."""

__version__ = "0.1.0"
