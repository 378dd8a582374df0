import logging
from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Verdict, user_message
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from tests.models.families.test_contract import samples_of
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY
from tests.rollouts.material import engine, load, rows_of, teacher_forced, without_end


@pytest.fixture
def loaded(family_folder, family):
    return load(family_folder(family))


@pytest.fixture
def tiny(random_tiny_folder, make_sample):
    """The bundled kind of model with prompts of none to two images."""
    encoder, policy = load(random_tiny_folder)
    samples = [make_sample("i see 7.", "7", images=images, sample_id=str(images)) for images in (1, 0, 2)]
    return encoder, policy, encoder.encode_prompts(samples)


@pytest.mark.parametrize("family", FAMILIES)
def test_greedy_completions_are_those_of_generate(family, loaded):
    encoder, policy = loaded
    samples = samples_of(family)
    prompts = encoder.encode_prompts(samples)
    # Beyond the sliding window of Gemma 3, of 64 tokens.
    steps = 70 if family == "gemma3" else 12
    expected = policy.generate(prompts, GenerationSettings(max_new_tokens=steps))
    found = engine(temperature=0.0, max_new_tokens=steps)(policy, encoder, prompts, 2, range(len(samples)))
    assert rows_of(found) == [ids for ids in expected for _ in range(2)]
    assert found.prompt_of.tolist() == [row for row in range(len(samples)) for _ in range(2)]


@pytest.mark.parametrize("family", FAMILIES)
def test_a_sampled_completion_does_not_depend_on_its_company(family, loaded, caplog):
    encoder, policy = loaded
    samples = samples_of(family)
    seeds = [100 + row for row in range(len(samples))]
    with caplog.at_level(logging.WARNING, logger="lit_vlm"):
        together = engine()(policy, encoder, encoder.encode_prompts(samples), 3, seeds)
    assert not caplog.records  # no known family must repeat its prompts
    rows = rows_of(together)
    assert len({tuple(row) for row in rows}) > len(samples)
    for row, sample in enumerate(samples):
        alone = engine()(policy, encoder, encoder.encode_prompts([sample]), 1, seeds[row : row + 1])
        assert rows_of(alone) == rows[3 * row : 3 * row + 1]
    # As two ranks would share them, in another order.
    halves = [list(range(0, len(samples), 2)), list(range(1, len(samples), 2))[::-1]]
    for half in halves:
        prompts = encoder.encode_prompts([samples[row] for row in half])
        part = engine()(policy, encoder, prompts, 3, [seeds[row] for row in half])
        assert rows_of(part) == [rows[3 * row + index] for row in half for index in range(3)]


@pytest.mark.parametrize("family", FAMILIES)
def test_figures_are_those_of_a_pass_over_whole_rows(family, loaded):
    encoder, policy = loaded
    samples = samples_of(family)
    settings = {"temperature": 0.7, "top_k": 40, "top_p": 0.9, "min_p": 0.01, "repetition_penalty": 1.2}
    found = engine(**settings)(policy, encoder, encoder.encode_prompts(samples), 2, range(len(samples)))
    log_probs, entropies = teacher_forced(policy, encoder, found, 0.7)
    torch.testing.assert_close(found.log_probs, log_probs, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(found.entropies, entropies, atol=1e-4, rtol=1e-4)
    scored = policy.score_rollouts(found.prompts, found.token_ids, found.mask, found.prompt_of, temperature=0.7)
    torch.testing.assert_close(found.log_probs, scored.log_probs, atol=1e-4, rtol=1e-4)
    for completion, row in zip(found.completions, log_probs, strict=True):
        assert completion.log_prob_sum == pytest.approx(float(row.sum()), abs=1e-3)
    assert not bool(torch.isin(found.token_ids[found.mask != 0], torch.tensor(policy.unsampled_token_ids)).any())


def test_a_larger_group_begins_with_the_smaller_one(tiny):
    encoder, policy, prompts = tiny
    one, eight = (rows_of(engine()(policy, encoder, prompts, size, [5, 6, 7])) for size in (1, 8))
    assert eight[::8] == one
    assert len({tuple(row) for row in eight[:8]}) == 8
    other = rows_of(engine()(policy, encoder, prompts, 1, [5, 6, 8]))
    assert other[:2] == one[:2]
    assert other[2] != one[2]


def test_completions_carry_their_samples_texts_and_verdicts(tiny):
    encoder, policy, prompts = tiny
    prompts.samples = (*prompts.samples[:2], replace(prompts.samples[2], answer=None))

    def judge(text, answer):
        return Verdict(len(text) % 2 == 0, answer.value, True)

    found = HFRolloutEngine(SamplingSettings(max_new_tokens=6), judge)(policy, encoder, prompts, 2, [0, 1, 2])
    for row, completion in enumerate(found.completions):
        assert completion.sample is prompts.samples[row // 2]
        assert completion.prompt == encoder.describe_prompt(completion.sample)
        assert completion.text == encoder.decode(rows_of(found)[row])
        assert completion.token_count == len(rows_of(found)[row])
        expected = judge(completion.text, completion.sample.answer) if row < 4 else None
        assert completion.verdict == expected
    assert set(found.seconds) == {"prefill", "decode", "text"}


def count_passes(policy):
    """Records the shape of what each pass of the model reads, and how often the vision tower runs."""
    shapes, visions = [], []
    policy.model.register_forward_pre_hook(
        lambda module, args, kwargs: shapes.append(tuple(kwargs["input_ids"].shape)), with_kwargs=True
    )
    policy.model.base_model.visual.register_forward_pre_hook(lambda *_: visions.append(1))
    return shapes, visions


@pytest.mark.parametrize("group_size", [1, 8])
def test_prompts_and_images_are_read_once(group_size, tiny):
    encoder, policy, prompts = tiny
    without_end(policy)
    shapes, visions = count_passes(policy)
    engine(max_new_tokens=4)(policy, encoder, prompts, group_size, [0, 1, 2])
    assert shapes == [tuple(prompts.input_ids.shape)] + [(3 * group_size, 1)] * 3
    assert len(visions) == 1


@pytest.mark.parametrize("family", FAMILIES)
def test_features_made_before_spare_the_vision_tower(family, loaded):
    encoder, policy = loaded
    prompts = encoder.encode_prompts(samples_of(family))
    seeds = range(len(prompts))
    expected = engine()(policy, encoder, prompts, 2, seeds)
    with torch.no_grad():
        media = policy.encode_media(prompts)
    if family not in TEXT_ONLY:
        for modules in (policy.parts["vision"], policy.parts["projector"]):
            for name in modules:
                policy.model.get_submodule(name).forward = lambda *_, **__: 1 / 0
    found = engine()(policy, encoder, prompts, 2, seeds, media)
    assert rows_of(found) == rows_of(expected)
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=1e-5, rtol=1e-5)


def test_finished_rows_are_not_decoded_further(tiny):
    encoder, policy, prompts = tiny
    free = engine(max_new_tokens=30)(without_end(policy), encoder, prompts, 8, [0, 1, 2])
    # Makes common tokens end completions, several ids at once.
    ends = torch.bincount(free.token_ids.flatten()).topk(12).indices.tolist()
    policy.model.generation_config.eos_token_id = ends
    shapes, _ = count_passes(policy)
    found = engine(max_new_tokens=30)(policy, encoder, prompts, 8, [0, 1, 2])
    lengths = found.lengths
    assert len(set(lengths.tolist())) > 3
    longest = int(lengths.max())
    assert [rows for rows, _ in shapes[1:]] == [int((lengths > step).sum()) for step in range(1, longest)]
    for row, whole, is_truncated in zip(rows_of(found), rows_of(free), found.is_truncated.tolist(), strict=True):
        first = next((place for place, token in enumerate(whole) if token in ends), None)
        assert row == (whole if first is None else whole[: first + 1])
        assert is_truncated is (first is None)


def test_stop_strings_end_completions_and_stay_in_them(tiny):
    encoder, policy, prompts = tiny
    without_end(policy)
    free = engine(max_new_tokens=24)(policy, encoder, prompts, 4, [0, 1, 2])
    stop = free.completions[0].text[5:8]
    found = engine(max_new_tokens=24, stop_strings=(stop,))(policy, encoder, prompts, 4, [0, 1, 2])
    assert not bool(found.is_truncated[0])
    for row, (completion, whole) in enumerate(zip(found.completions, free.completions, strict=True)):
        place = whole.text.find(stop)
        assert completion.text == (whole.text if place < 0 else whole.text[: place + len(stop)])
        assert bool(found.is_truncated[row]) is (place < 0)
        ids = rows_of(free)[row]
        least = next((n for n in range(1, 25) if stop in encoder.decode(ids[:n])), 24)
        assert rows_of(found)[row] == ids[:least]
    assert torch.equal(found.log_probs != 0, found.mask != 0)


def test_completions_of_one_token(tiny):
    encoder, policy, prompts = tiny
    found = engine(max_new_tokens=1)(policy, encoder, prompts, 2, [0, 1, 2])
    assert found.token_ids.shape == (6, 1)
    assert bool(found.is_truncated.all()) or policy.end_token_ids[0] in found.token_ids


def test_modes_and_settings_are_as_before(random_tiny_folder, tiny):
    encoder, policy = load(random_tiny_folder, gradient_checkpointing=True)
    prompts = tiny[2]
    policy.train()
    modes = [module.training for module in policy.modules()]
    configuration = policy.model.config.to_dict()
    found = engine()(policy, encoder, prompts, 2, [0, 1, 2])
    assert [module.training for module in policy.modules()] == modes
    assert policy.model.config.to_dict() == configuration
    assert torch.is_grad_enabled()
    assert not found.log_probs.requires_grad
    # Dropout and checkpointing off: as a model that never trained.
    assert rows_of(found) == rows_of(engine()(tiny[1], encoder, prompts, 2, [0, 1, 2]))


def test_the_mode_returns_after_a_fault(tiny, monkeypatch):
    encoder, policy, prompts = tiny
    policy.train()
    monkeypatch.setattr(policy.model, "forward", lambda **_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        engine()(policy, encoder, prompts, 2, [0, 1, 2])
    assert policy.training
    assert torch.is_grad_enabled()


def test_autocast_is_kept_and_gradients_pass_afterwards(tiny):
    encoder, policy, prompts = tiny
    policy.train()
    with torch.autocast("cpu", torch.bfloat16):
        found = engine()(policy, encoder, prompts, 2, [0, 1, 2])
        logits = policy.prefill(prompts, 1).logits
        scores = policy.score_rollouts(prompts, found.token_ids, found.mask, found.prompt_of)
    assert logits.dtype == torch.bfloat16
    assert found.log_probs.dtype == torch.float32
    scores.log_probs.sum().backward()
    missing = [name for name, value in policy.named_parameters() if value.requires_grad and value.grad is None]
    assert not missing


def test_ranks_that_share_the_weights_pass_together(tiny, monkeypatch):
    encoder, policy, prompts = tiny
    expected = rows_of(engine()(policy, encoder, prompts, 2, [0, 1, 2]))
    shapes, _ = count_passes(policy)
    # Another rank is busy for 20 passes more than this one has tokens.
    calls = []
    monkeypatch.setattr(policy, "any_rank", lambda decodes: calls.append(decodes) or len(calls) < 31)
    found = engine(max_new_tokens=12)(policy, encoder, prompts, 2, [0, 1, 2])
    assert rows_of(found) == expected
    assert len(shapes) == 31
    assert set(shapes[-15:]) == {(1, 1)}


@pytest.mark.parametrize("family", TEXT_ONLY)
def test_padding_and_placeholders_never_come_even_where_they_are_likeliest(family, loaded):
    encoder, policy = loaded
    prompts = encoder.encode_prompts(samples_of(family))
    head = policy.model.get_output_embeddings()
    head.bias = torch.nn.Parameter(torch.zeros(head.out_features))
    policy.model.generation_config.eos_token_id = 250
    head.bias.data[policy.padding_id] = 50.0
    for temperature in (0.0, 1.0):
        found = engine(temperature=temperature)(policy, encoder, prompts, 2, range(len(prompts)))
        assert policy.padding_id not in found.token_ids[found.mask != 0]


def test_what_cannot_work_is_refused(tiny):
    encoder, policy, prompts = tiny
    with pytest.raises(UserError, match="group_size is 0"):
        engine()(policy, encoder, prompts, 0, [0, 1, 2])
    with pytest.raises(ValueError, match="3 prompts, but 2 seeds"):
        engine()(policy, encoder, prompts, 2, [0, 1])
    context = policy.context_tokens
    longest = int(prompts.attention_mask.sum(1).max())
    engine().check(policy, encoder)
    with pytest.raises(UserError, match="sampling.max_new_tokens"):
        engine(max_new_tokens=context).check(policy, encoder)
    with pytest.raises(UserError, match=f"the prompt of sample '2' has {longest} tokens"):
        engine(max_new_tokens=context - longest + 1)(policy, encoder, prompts, 1, [0, 1, 2])
    with pytest.raises(UserError, match="sampling.stop_strings"):
        engine(stop_strings=("<|im_end|>",)).check(policy, encoder)


def test_a_sample_without_an_assistant_turn_is_continued_too(tiny):
    encoder, policy, _ = tiny
    bare = replace(tiny[2].samples[1], messages=(user_message("Which digit is this?"),), answer=None)
    found = engine()(policy, encoder, encoder.encode_prompts([bare]), 2, [1])
    assert [completion.verdict for completion in found.completions] == [None, None]
