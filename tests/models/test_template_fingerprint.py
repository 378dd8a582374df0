from copy import deepcopy

from lit_vlm.models.template_fingerprint import template_fingerprint


def test_the_same_template_and_tokens_give_the_same_hash(random_tiny_encoder):
    first = template_fingerprint(random_tiny_encoder.processor)
    assert first == template_fingerprint(deepcopy(random_tiny_encoder.processor))
    assert len(first) == 32


def test_another_template_or_token_gives_another_hash(random_tiny_encoder):
    hashes = {template_fingerprint(random_tiny_encoder.processor)}
    other = deepcopy(random_tiny_encoder.processor)
    other.chat_template = f"{other.chat_template} "
    hashes.add(template_fingerprint(other))
    other = deepcopy(random_tiny_encoder.processor)
    other.tokenizer.add_tokens(["<another>"])
    hashes.add(template_fingerprint(other))
    other = deepcopy(random_tiny_encoder.processor)
    other.tokenizer.eos_token = "<another>"
    hashes.add(template_fingerprint(other))
    assert len(hashes) == 4


def test_a_tokenizer_alone_has_a_hash(random_tiny_encoder):
    tokenizer = random_tiny_encoder.tokenizer
    assert template_fingerprint(tokenizer) == template_fingerprint(deepcopy(tokenizer))
