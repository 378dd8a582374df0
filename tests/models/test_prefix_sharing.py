import logging

import pytest
import torch

from lit_vlm.models import prefix_sharing
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.prefix_sharing import is_verified, reason_to_repeat
from tests.models.families.test_contract import ONE_IMAGE, TEXT, samples_of
from tests.models.family_checkpoints import FAMILIES
from tests.models.unknown_checkpoints import FED_BY_GENERAL_RULES, build_unknown_checkpoint


def load(folder):
    backbone = Backbone(str(folder))
    encoder = backbone.load_encoder()
    return encoder, backbone.load_model(encoder).eval()


def score(policy, prompts, **options):
    rows = torch.tensor([0, 0, 0, len(prompts) - 1])
    token_ids = torch.arange(100, 120).view(4, 5)
    return policy.score_rollouts(prompts, token_ids, torch.ones_like(token_ids), rows, **options).log_probs


@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_but_gemma_shares_without_a_trial(family, family_folder):
    _, policy = load(family_folder(family))
    shares = reason_to_repeat(policy.model) is None and is_verified(policy.model)
    assert shares == (family != "gemma3")


@pytest.mark.parametrize("family", FED_BY_GENERAL_RULES)
def test_an_unknown_family_shares_once_it_has_shown_that_it_can(family, tmp_path, caplog):
    build_unknown_checkpoint(family, tmp_path)
    encoder, policy = load(tmp_path)
    policy.model.get_decoder().config.sliding_window = None
    policy.train()
    prompts = encoder.encode_prompts([ONE_IMAGE, TEXT])
    assert not is_verified(policy.model)
    with caplog.at_level(logging.WARNING, "lit_vlm"):
        shared = score(policy, prompts)
    assert policy.shares_prompts, caplog.text
    assert policy.training
    torch.testing.assert_close(shared, score(policy, prompts, prefix="naive"), atol=1e-5, rtol=1e-5)


def test_a_family_whose_passes_differ_repeats_prompts_and_says_so_once(tmp_path, caplog, monkeypatch):
    build_unknown_checkpoint("llava_next", tmp_path)
    encoder, policy = load(tmp_path)
    policy.model.get_decoder().config.sliding_window = None
    original = prefix_sharing.shared_states
    monkeypatch.setattr(prefix_sharing, "shared_states", lambda *given: 1.01 * original(*given))
    prompts = encoder.encode_prompts([ONE_IMAGE, TEXT])
    with caplog.at_level(logging.WARNING, "lit_vlm"):
        found = [score(policy, prompts) for _ in range(2)]
    assert policy.shares_prompts is False
    assert ["differ" in record.getMessage() for record in caplog.records] == [True]
    assert policy.model.get_decoder().config._attn_implementation == "sdpa"
    assert torch.equal(found[1], score(policy, prompts, prefix="naive"))


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"_attn_implementation_internal": "flash_attention_2"}, "its attention is flash_attention_2; give"),
        ({"_attn_implementation_internal": "eager"}, "its attention is eager; give"),
        ({"layer_types": ["full_attention", "linear_attention"]}, "linear_attention"),
        ({"layer_types": None, "sliding_window": 8}, "sliding window"),
        ({"sliding_window": 8}, None),  # its layers say that they attend to all
    ],
)
def test_reasons_to_repeat_are_named(changes, reason, family_folder):
    encoder, policy = load(family_folder("qwen2"))
    for name, value in changes.items():
        setattr(policy.model.get_decoder().config, name, value)
    found = reason_to_repeat(policy.model)
    assert found is None if reason is None else reason in found
    assert len(samples_of("qwen2")) == 2
