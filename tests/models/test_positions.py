import pytest
import torch

from lit_vlm.models.backbone import Backbone
from lit_vlm.models.positions import following_positions, token_positions
from lit_vlm.models.vision_language_model import GenerationSettings
from tests.models.families.test_contract import samples_of
from tests.models.family_checkpoints import FAMILIES


@pytest.fixture
def loaded(family_folder, family):
    backbone = Backbone(str(family_folder(family)))
    encoder = backbone.load_encoder()
    return encoder, backbone.load_model(encoder).eval()


def positions_used(policy, run):
    """Records the positions that reach the rotary embedding of the decoder, pass by pass."""
    seen = []
    module = next(module for name, module in policy.model.get_decoder().named_modules() if name.endswith("rotary_emb"))
    handle = module.register_forward_hook(
        lambda module, args, kwargs, output: seen.append(
            kwargs["position_ids"] if "position_ids" in kwargs else args[1]
        ),
        with_kwargs=True,
    )
    with torch.no_grad():
        run()
    handle.remove()
    return seen


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("side", ["left", "right"])
def test_positions_given_or_not_lead_to_the_same_states(family, side, loaded):
    encoder, policy = loaded
    samples = samples_of(family)
    batch = encoder.encode(samples) if side == "right" else encoder.encode_prompts(samples)
    positions = token_positions(policy.model, batch)
    assert positions.shape[1:] == batch.input_ids.shape
    given = positions[0] if len(positions) == 1 else positions
    options = {"attention_mask": batch.attention_mask, "use_cache": False, **batch.visual}
    with torch.no_grad():
        own = policy.model.base_model(batch.input_ids, position_ids=given, **options).last_hidden_state
        for row, sample in enumerate(samples):
            alone = encoder.encode([sample]) if side == "right" else encoder.encode_prompts([sample])
            expected = policy.hidden_states(alone)[0]
            torch.testing.assert_close(own[row][batch.attention_mask[row] == 1], expected, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize("family", FAMILIES)
def test_what_follows_has_the_positions_of_generation(family, loaded):
    encoder, policy = loaded
    batch = encoder.encode_prompts(samples_of(family))
    steps = 4
    settings = GenerationSettings(max_new_tokens=steps)
    seen = positions_used(policy, lambda: policy.generate(batch, settings))
    following = following_positions(token_positions(policy.model, batch), batch.attention_mask, steps)
    # Generation feeds all but the last of its tokens, unless all rows end before.
    for step, used in enumerate(seen[1:]):
        expected = following[:, :, step : step + 1]
        assert torch.equal(used.reshape(-1, len(batch), 1)[-len(following) :], expected)
    assert len(seen) > 1
