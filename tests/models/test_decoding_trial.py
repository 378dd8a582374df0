import logging

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models import decoding_trial
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.decoding_state import CachedRows
from lit_vlm.models.decoding_trial import decoding_fault, must_repeat_prompts
from lit_vlm.models.prompt_rows import select_prompts
from tests.models.families.test_contract import samples_of
from tests.models.family_checkpoints import FAMILIES


def load(folder, family):
    backbone = Backbone(str(folder(family)))
    encoder = backbone.load_encoder()
    return backbone.load_model(encoder).eval(), encoder.encode_prompts(samples_of(family))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_every_known_family_would_stand_the_trial(family, family_folder):
    policy, prompts = load(family_folder, family)
    assert not must_repeat_prompts(policy.model, prompts)
    for row in (0, len(prompts) - 1):
        prompt = select_prompts(policy.model, prompts, torch.tensor([row]))
        assert decoding_fault(policy.model, prompt) is None


@pytest.fixture
def unknown(family_folder, monkeypatch):
    """A model that nobody has tried."""
    monkeypatch.setattr(decoding_trial, "is_verified", lambda _: False)
    return load(family_folder, "qwen2_5_vl")


def test_a_model_that_stands_the_trial_needs_no_repetition(unknown, caplog):
    policy, prompts = unknown
    with caplog.at_level(logging.WARNING, logger="lit_vlm"):
        assert policy.prefill(prompts, 2).logits.shape[0] == 2 * len(prompts)
    assert not caplog.records


def test_a_model_whose_cache_cannot_be_repeated_reads_its_prompts_again_and_says_so_once(unknown, caplog, monkeypatch):
    policy, prompts = unknown
    with policy.decoding():
        expected = policy.prefill(prompts, 2).logits
    policy._repeats_prompts = None
    monkeypatch.setattr("lit_vlm.models.decoding_state.can_reorder", lambda _: False)
    with caplog.at_level(logging.WARNING, logger="lit_vlm"), policy.decoding():
        for _ in range(2):
            torch.testing.assert_close(policy.prefill(prompts, 2).logits, expected, atol=1e-4, rtol=1e-4)
    (record,) = caplog.records
    assert "reads each prompt once for each of its completions" in record.message


def test_a_model_that_decodes_wrongly_is_refused(unknown, monkeypatch):
    policy, prompts = unknown
    advance = CachedRows.advance

    def misplaced(self, token_ids):
        self._position = self._position + 5
        advance(self, token_ids)

    monkeypatch.setattr(CachedRows, "advance", misplaced)
    with pytest.raises(UserError, match=r"cannot be sampled token by token: the logits .* differ by"):
        policy.prefill(prompts, 2)


def test_pixels_that_belong_to_nobody_are_refused(unknown, monkeypatch):
    policy, prompts = unknown
    monkeypatch.setattr(decoding_trial, "select_prompts", lambda *_: None)
    with pytest.raises(UserError, match="nothing tells which pixels"):
        policy.prefill(prompts, 2)
