"""A server that samples completions with vLLM; it runs in vLLM's own environment, where lit_vlm is not installed."""
