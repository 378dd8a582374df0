import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.decoding_state import begin_rows
from tests.models.families.test_contract import samples_of
from tests.models.family_checkpoints import FAMILIES


@pytest.fixture
def loaded(family_folder, family):
    backbone = Backbone(str(family_folder(family)))
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).eval()
    return policy, encoder.encode_prompts(samples_of(family))


@torch.no_grad()
@pytest.mark.parametrize("family", FAMILIES)
def test_rows_of_repeated_caches_are_those_of_repeated_prompts(family, loaded):
    policy, prompts = loaded
    several, each = (begin_rows(policy.model, prompts, 3, repeat_prompts=repeat) for repeat in (False, True))
    generator = torch.Generator().manual_seed(0)
    count = 3 * len(prompts)
    for step in range(4):
        assert len(several.logits) == count
        torch.testing.assert_close(several.logits, each.logits, atol=1e-4, rtol=1e-4)
        if step == 1:
            kept = torch.randperm(count, generator=generator)[: count // 2]
            count = len(kept)
            several.select(kept)
            each.select(kept)
        tokens = torch.randint(100, 250, (count,), generator=generator)
        several.advance(tokens)
        each.advance(tokens)


@torch.no_grad()
@pytest.mark.parametrize("family", ["qwen2"])
def test_a_cache_that_cannot_repeat_its_rows_says_so(family, loaded, monkeypatch):
    policy, prompts = loaded
    monkeypatch.setattr("lit_vlm.models.decoding_state.can_reorder", lambda _: False)
    assert len(begin_rows(policy.model, prompts, 1).logits) == len(prompts)
    with pytest.raises(UserError, match="cannot be repeated"):
        begin_rows(policy.model, prompts, 2)
