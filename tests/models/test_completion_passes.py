import pytest
import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.completion_passes import Continuations, naive_states, shared_states


@pytest.fixture
def given(random_tiny_model, random_tiny_encoder, make_sample):
    prompts = random_tiny_encoder.encode_prompts([make_sample("x", "1", images=images) for images in (2, 0, 1)])
    token_ids = torch.arange(20, 32).view(4, 3)
    mask = torch.tensor([[1, 1, 1], [1, 0, 0], [1, 1, 0], [1, 1, 1]])
    return random_tiny_model.model, prompts, token_ids, mask, torch.tensor([2, 1, 2, 1])


def test_prompts_that_nothing_continues_are_left_out(given):
    continuations = Continuations.of_prompts(*given)
    lengths = given[1].attention_mask.sum(1)
    assert continuations.prompt_of.tolist() == [1, 0, 1, 0]
    assert continuations.prompts.input_ids.shape == (2, int(lengths[1:].max()))
    assert continuations.media.kinds["image"].prompts.unique().tolist() == [1]


def test_a_state_for_each_token_alike_in_both_passes(given):
    continuations = Continuations.of_prompts(*given)
    naive, shared = (run(given[0], continuations) for run in (naive_states, shared_states))
    assert len(naive) == int(given[3].sum())
    torch.testing.assert_close(shared, naive, atol=1e-5, rtol=1e-5)


def test_no_prompt_of_the_row_is_computed_twice(given, monkeypatch):
    model, prompts, token_ids, mask, prompt_of = given
    seen = []
    layer = model.get_decoder().layers[0]
    handle = layer.register_forward_hook(lambda module, args, output: seen.append(args[0].shape[:2]))
    shared_states(model, Continuations.of_prompts(*given))
    handle.remove()
    # Both prompts, and the completions without their last tokens; no padding.
    assert seen == [(1, int(prompts.attention_mask[1:].sum()) + 2 + 0 + 1 + 2)]


def test_pixels_of_unknown_prompts_are_not_guessed(given, monkeypatch):
    model, prompts, *rest = given
    strange = PromptBatch(
        prompts.input_ids, prompts.attention_mask, {**prompts.visual, "aspect_ratio_ids": torch.zeros(2)}
    )
    monkeypatch.setattr("lit_vlm.models.media_features.takes_features", lambda model: False)
    with pytest.raises(UserError, match="nothing tells which pixels"):
        Continuations.of_prompts(model, strange, *rest)
