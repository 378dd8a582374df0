"""Policy and prompts to completions."""
