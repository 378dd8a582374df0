import logging

import pytest
import torch

from lit_vlm.functional.chunked_log_probs import token_log_probs
from lit_vlm.functional.token_micro_batches import token_micro_batches
from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.prompt_rows import TOKEN_TYPES, select_prompts
from lit_vlm.models.quantisation import QuantisationSettings
from lit_vlm.models.vision_language_model import GenerationSettings
from tests.models.families.test_contract import samples_of
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY

SHARING = tuple(family for family in FAMILIES if family != "gemma3")
TEMPERATURE = 0.7


def load(folder, **options):
    backbone = Backbone(str(folder), **options)
    encoder = backbone.load_encoder()
    return encoder, backbone.load_model(encoder).eval()


@pytest.fixture
def loaded(family_folder, family):
    return load(family_folder(family))


def completions(policy, prompts, sizes, seed=0, longest=7):
    """Random completions, ``sizes[i]`` of prompt ``i``, of 1 to ``longest`` tokens, in no order."""
    generator = torch.Generator().manual_seed(seed)
    prompt_of = torch.tensor([row for row, size in enumerate(sizes) for _ in range(size)])
    prompt_of = prompt_of[torch.randperm(len(prompt_of), generator=generator)]
    lengths = torch.randint(1, longest + 1, (len(prompt_of),), generator=generator)
    lengths[0] = longest
    mask = (torch.arange(longest) < lengths[:, None]).long()
    # Below the special tokens' neighbours: letters only.
    token_ids = torch.randint(100, 250, mask.shape, generator=generator) * mask + policy.padding_id * (1 - mask)
    return token_ids, mask, prompt_of


def reference(policy, encoder, samples, token_ids, mask, prompt_of):
    """Encodes each prompt anew for each completion, and runs the model as it comes, with all logits."""
    prompts = encoder.encode_prompts([samples[row] for row in prompt_of])
    visual = {
        name: torch.cat([tensor, torch.zeros_like(token_ids)], 1) if name in TOKEN_TYPES else tensor
        for name, tensor in prompts.visual.items()
    }
    batch = PromptBatch(
        torch.cat([prompts.input_ids, token_ids], 1), torch.cat([prompts.attention_mask, mask], 1), visual
    )
    logits = policy.model.get_output_embeddings()(policy.hidden_states(batch))[:, prompts.input_ids.shape[1] - 1 : -1]
    scores = (logits / TEMPERATURE).float()
    entropies = torch.distributions.Categorical(logits=scores).entropy()
    return token_log_probs(scores, token_ids) * mask, entropies * mask


def gradients(policy, value):
    policy.zero_grad()
    value.backward()
    trained = [parameter for parameter in policy.parameters() if parameter.requires_grad]
    # A part that no prompt needs, such as the tower behind text alone, has no gradient: zeros.
    return torch.cat([(torch.zeros_like(p) if p.grad is None else p.grad).flatten() for p in trained])


def weighted(scores, mask):
    """A loss that tells tokens apart, with both figures."""
    weights = torch.linspace(-1, 2, mask.numel()).view_as(mask) * mask
    log_probs, entropies = scores if isinstance(scores, tuple) else (scores.log_probs, scores.entropies)
    return (weights * log_probs).sum() + 0.3 * (weights.flip(0) * entropies * mask).sum()


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("prefix", ["shared", "naive"])
def test_scores_and_gradients_are_those_of_repeated_prompts(family, prefix, loaded):
    encoder, policy = loaded
    samples = samples_of(family)
    sizes = [(3, 1, 2)[row % 3] for row in range(len(samples))]
    prompts = encoder.encode_prompts(samples)
    given = completions(policy, prompts, sizes)
    expected = reference(policy, encoder, samples, *given)
    expected_gradient = gradients(policy, weighted(expected, given[1]))
    found = policy.score_rollouts(prompts, *given, temperature=TEMPERATURE, with_entropies=True, prefix=prefix)
    torch.testing.assert_close(found.log_probs, expected[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.entropies, expected[1], atol=1e-5, rtol=1e-5)
    gradient = gradients(policy, weighted(found, given[1]))
    assert torch.cosine_similarity(gradient, expected_gradient, 0) >= 0.99999
    torch.testing.assert_close(gradient.norm(), expected_gradient.norm(), atol=0, rtol=1e-4)
    if prefix == "shared":
        assert policy.shares_prompts is (family in SHARING)


@pytest.fixture
def tiny(random_tiny_folder, make_sample):
    """Prompts of several lengths with none to two images, and completions of them."""
    samples = [make_sample("i see 7.", "7", images=images) for images in (1, 0, 2)]

    def build(**options):
        encoder, policy = load(random_tiny_folder, **options)
        prompts = encoder.encode_prompts(samples)
        return policy, prompts, completions(policy, prompts, (4, 2, 3))

    return build


def both_passes(policy, prompts, given, **options):
    return [
        policy.score_rollouts(prompts, *given, with_entropies=True, prefix=prefix, **options)
        for prefix in ("naive", "shared")
    ]


def assert_alike(found, expected, tolerance=1e-5):
    torch.testing.assert_close(found.log_probs, expected.log_probs, atol=tolerance, rtol=tolerance)
    torch.testing.assert_close(found.entropies, expected.entropies, atol=tolerance, rtol=tolerance)


# Quantised weights train under an adapter only.
@pytest.mark.parametrize(
    ("adapter", "quantised"), [(None, False), (AdapterSettings(rank=4), False), (AdapterSettings(rank=4), True)]
)
@pytest.mark.parametrize("checkpointing", [False, True])
@pytest.mark.filterwarnings("ignore:.*quantization.*")
def test_passes_agree_under_adapters_quantisation_and_checkpointing(tiny, adapter, quantised, checkpointing):
    quantisation = QuantisationSettings(kind="nf4") if quantised else None
    policy, prompts, given = tiny(adapter=adapter, quantisation=quantisation, gradient_checkpointing=checkpointing)
    policy.train()
    generator = torch.Generator().manual_seed(1)
    for name, parameter in policy.named_parameters():
        if "lora_B" in name:  # zeros at first, which would hide the adapter
            parameter.data.normal_(std=0.1, generator=generator)
    naive, shared = both_passes(policy, prompts, given)
    assert_alike(shared, naive)
    # Both graphs exist before either is walked: a recomputation must not see the other pass's layout.
    found, expected = (gradients(policy, weighted(scores, given[1])) for scores in (shared, naive))
    assert torch.cosine_similarity(found, expected, 0) >= 0.99999
    assert found.norm() > 0


def test_checkpointing_recomputes_each_micro_batch_with_its_own_layout(tiny):
    policy, prompts, given = tiny(gradient_checkpointing=True)
    policy.train()
    halves = [torch.arange(len(given[0]))[part] for part in (slice(0, 4), slice(4, None))]
    losses = [weighted(both_passes(policy, prompts, [x[rows] for x in given])[1], given[1][rows]) for rows in halves]
    found = gradients(policy, losses[0]) + gradients(policy, losses[1])
    policy.eval()
    losses = [weighted(both_passes(policy, prompts, [x[rows] for x in given])[0], given[1][rows]) for rows in halves]
    expected = gradients(policy, losses[0] + losses[1])
    assert torch.cosine_similarity(found, expected, 0) >= 0.99999


def test_autocast_reaches_both_passes_alike(tiny):
    policy, prompts, given = tiny()
    policy.train()
    with torch.autocast("cpu", torch.bfloat16):
        naive, shared = both_passes(policy, prompts, given)
    exact, _ = both_passes(policy, prompts, given)
    assert shared.log_probs.dtype == torch.float32
    rounding = (naive.log_probs - exact.log_probs).abs().max()
    assert rounding > 0
    assert (shared.log_probs - exact.log_probs).abs().max() < 3 * rounding
    found, expected = (gradients(policy, weighted(scores, given[1])) for scores in (shared, exact))
    assert torch.cosine_similarity(found, expected, 0) > 0.99


def test_micro_batches_accumulate_to_the_gradient_of_one_pass(tiny):
    policy, prompts, given = tiny()
    token_ids, mask, prompt_of = given
    total = mask.sum()

    def share(rows):
        parts = [tensor[rows] for tensor in given]
        return -policy.score_rollouts(prompts, *parts).log_probs.sum() / total

    expected = gradients(policy, share(torch.arange(len(mask))))
    batches = token_micro_batches(
        prompts.attention_mask.sum(1).tolist(), mask.sum(1).tolist(), prompt_of.tolist(), max_tokens=40
    )
    assert len(batches) > 2
    found = sum(gradients(policy, share(torch.tensor(rows))) for rows in batches)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-4)


def test_completions_of_one_token_need_no_row_of_their_own(tiny):
    policy, prompts, (token_ids, mask, prompt_of) = tiny()
    naive, shared = both_passes(policy, prompts, (token_ids[:, :1], mask[:, :1], prompt_of))
    assert_alike(shared, naive)
    assert (shared.log_probs < 0).all()


def test_an_empty_completion_scores_nothing_and_changes_nothing(tiny):
    policy, prompts, (token_ids, mask, prompt_of) = tiny()
    mask[2] = 0
    naive, shared = both_passes(policy, prompts, (token_ids, mask, prompt_of))
    assert_alike(shared, naive)
    assert (shared.log_probs[2] == 0).all()
    others = torch.tensor([row for row in range(len(mask)) if row != 2])
    alone = policy.score_rollouts(prompts, token_ids[others], mask[others], prompt_of[others])
    torch.testing.assert_close(shared.log_probs[others], alone.log_probs, atol=1e-5, rtol=1e-5)


def test_no_token_at_all_gives_zeros_whose_gradient_reaches_every_parameter(tiny):
    policy, prompts, (token_ids, mask, prompt_of) = tiny()
    scores = policy.score_rollouts(prompts, token_ids, 0 * mask, prompt_of)
    assert (scores.log_probs == 0).all()
    scores.log_probs.sum().backward()
    assert all(parameter.grad is not None for parameter in policy.parameters() if parameter.requires_grad)


@pytest.mark.parametrize("attention", ["eager"])
def test_a_decoder_without_sdpa_repeats_prompts_and_says_so_once(tiny, attention, caplog):
    policy, prompts, given = tiny(attention=attention)
    with caplog.at_level(logging.WARNING):
        naive, shared = both_passes(policy, prompts, given)
        policy.score_rollouts(prompts, *given)
    assert torch.equal(naive.log_probs, shared.log_probs)
    assert policy.shares_prompts is False
    assert [attention in record.getMessage() for record in caplog.records] == [True]


def test_other_passes_stay_as_they_are_once_prompts_are_shared(tiny, tmp_path):
    policy, prompts, given = tiny()
    hidden, generated = policy.hidden_states(prompts), policy.generate(prompts, GenerationSettings(max_new_tokens=6))
    policy.score_rollouts(prompts, *given)
    assert policy.shares_prompts
    assert torch.equal(policy.hidden_states(prompts), hidden)
    assert policy.generate(prompts, GenerationSettings(max_new_tokens=6)) == generated
    policy.save(tmp_path)
    assert "shared_prefix" not in (tmp_path / "config.json").read_text()


def test_dropout_of_attention_acts_in_training_only(tiny):
    policy, prompts, given = tiny()
    for module in policy.model.get_decoder().modules():
        if hasattr(module, "attention_dropout"):
            module.attention_dropout = 0.5
    naive, shared = both_passes(policy, prompts, given)
    assert_alike(shared, naive)
    policy.train()
    assert not torch.equal(policy.score_rollouts(prompts, *given).log_probs, shared.log_probs)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda ids, mask, owners: (ids, mask.flip(1), owners), "not right-padded"),
        (lambda ids, mask, owners: (ids, mask, owners + 1), "outside the 3 of the batch"),
        (lambda ids, mask, owners: (ids, mask[:, 1:], owners), "wanted are"),
    ],
)
def test_completions_that_do_not_fit_are_refused(tiny, change, message):
    policy, prompts, given = tiny()
    with pytest.raises(ValueError, match=message):
        policy.score_rollouts(prompts, *change(*given))


def test_features_without_a_graph_are_refused_where_the_tower_trains(tiny):
    policy, prompts, given = tiny()
    with torch.no_grad():
        media = policy.encode_media(prompts)
        policy.score_rollouts(prompts, *given, media=media)
    with pytest.raises(ValueError, match="have no graph"):
        policy.score_rollouts(prompts, *given, media=media)


@pytest.mark.parametrize("prefix", ["shared", "naive"])
def test_given_features_spare_the_tower_and_change_no_number(tiny, prefix, monkeypatch):
    policy, prompts, given = tiny(train_parts=("language",))
    expected = policy.score_rollouts(prompts, *given, prefix=prefix)
    media = policy.encode_media(prompts)
    monkeypatch.setattr(type(policy.model.model), "get_image_features", None)
    found = policy.score_rollouts(prompts, *given, prefix=prefix, media=media)
    assert torch.equal(found.log_probs, expected.log_probs)


@pytest.mark.parametrize("family", FAMILIES)
def test_models_that_take_no_features_get_pixels(family, loaded, monkeypatch):
    encoder, policy = loaded
    prompts = encoder.encode_prompts(samples_of(family))
    given = completions(policy, prompts, [2, 0, 1, 2, 0, 1, 2, 1, 1][: len(prompts)])
    expected = policy.score_rollouts(prompts, *given, with_entropies=True)
    monkeypatch.setattr("lit_vlm.models.media_features.takes_features", lambda model: False)
    for found in both_passes(policy, prompts, given):
        assert_alike(found, expected)


@pytest.mark.parametrize("family", [family for family in FAMILIES if family not in TEXT_ONLY])
def test_text_alone_is_shared_by_models_that_see(family, loaded):
    encoder, policy = loaded
    prompts = encoder.encode_prompts(samples_of(family)[:1])
    given = completions(policy, prompts, [4])
    naive, shared = both_passes(policy, prompts, given)
    assert_alike(shared, naive)


@pytest.mark.parametrize("prefix", ["shared", "naive"])
def test_features_are_the_states_at_the_last_tokens_of_rows_written_out(tiny, prefix):
    policy, prompts, (token_ids, mask, prompt_of) = tiny()
    token_ids[1], mask[1] = policy.padding_id, 0  # summed up where its prompt ends
    found = policy.completion_features(prompts, token_ids, mask, prompt_of, prefix=prefix)
    assert found.shape == (len(mask), policy.model.get_output_embeddings().weight.shape[1])
    assert found.dtype == torch.float32
    assert not found.requires_grad
    for row, owner in enumerate(prompt_of.tolist()):
        repeated = select_prompts(policy.model, prompts, torch.tensor([owner]))
        ids = token_ids[row, : int(mask[row].sum())][None]
        visual = {
            name: torch.cat([tensor, torch.zeros_like(ids)], 1) if name in TOKEN_TYPES else tensor
            for name, tensor in repeated.visual.items()
        }
        written_out = PromptBatch(
            torch.cat([repeated.input_ids, ids], 1),
            torch.cat([repeated.attention_mask, torch.ones_like(ids)], 1),
            visual,
        )
        expected = policy.hidden_states(written_out)[0, -1]
        torch.testing.assert_close(found[row], expected, atol=1e-5, rtol=1e-5)


def test_no_completion_has_no_features(tiny):
    policy, prompts, given = tiny()
    found = policy.completion_features(prompts, *(tensor[:0] for tensor in given))
    assert found.shape == policy.completion_features(prompts, *given)[:0].shape
