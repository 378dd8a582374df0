"""Tells apart by what a model's ids mean text."""

from __future__ import annotations

import hashlib
import json
from typing import Any


def template_fingerprint(processor: Any) -> str:
    """Hashes chat templates, vocabulary and special tokens; the same ones give the same hash in every run.

    Args:
        processor: Hugging Face processor or tokenizer.

    Returns:
        32 hexadecimal digits.
    """
    tokenizer = getattr(processor, "tokenizer", processor)
    told = {
        "templates": [getattr(owner, "chat_template", None) for owner in (processor, tokenizer)],
        "vocabulary": tokenizer.get_vocab(),
        "special": {name: str(token) for name, token in tokenizer.special_tokens_map.items()},
    }
    return hashlib.blake2b(json.dumps(told, sort_keys=True).encode(), digest_size=16).hexdigest()
