import pytest
import torch

from lit_vlm.functional.chunked_log_probs import token_log_probs
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import IGNORED_LABEL
from lit_vlm.models.vision_language_model import GenerationSettings


def full_logits(model, batch):
    return model.model(
        input_ids=batch.input_ids, attention_mask=batch.attention_mask, use_cache=False, **batch.visual
    ).logits


def test_scores_equal_those_from_all_logits(random_tiny_model, random_tiny_encoder, make_sample):
    batch = random_tiny_encoder.encode([make_sample("a", "1"), make_sample("b b b", "2", images=2)])
    scores = random_tiny_model.score(batch, chunk_tokens=3)
    targets = batch.labels[:, 1:]
    kept = targets != IGNORED_LABEL
    expected = token_log_probs(full_logits(random_tiny_model, batch)[:, :-1][kept], targets[kept])
    torch.testing.assert_close(scores.log_probs, expected, atol=1e-5, rtol=1e-5)
    assert torch.bincount(scores.rows).tolist() == kept.sum(1).tolist()


def test_right_padding_changes_no_score(random_tiny_model, random_tiny_encoder, make_sample):
    short, long = make_sample("a", "1"), make_sample("a very long thought indeed", "2")
    alone = random_tiny_model.score(random_tiny_encoder.encode([short]))
    together = random_tiny_model.score(random_tiny_encoder.encode([short, long]))
    torch.testing.assert_close(together.log_probs[together.rows == 0], alone.log_probs, atol=1e-5, rtol=1e-5)


def test_another_image_changes_the_scores(random_tiny_model, random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode([image_sample])
    seen = random_tiny_model.score(batch).log_probs
    batch.visual["pixel_values"] = torch.zeros_like(batch.visual["pixel_values"])
    assert (random_tiny_model.score(batch).log_probs - seen).abs().max() > 1e-4


def test_a_batch_without_labels_has_a_graph_to_every_parameter(random_tiny_model, random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode([image_sample])
    batch.labels = torch.full_like(batch.labels, IGNORED_LABEL)
    random_tiny_model.train()
    random_tiny_model.score(batch).log_probs.sum().backward()
    assert all(parameter.grad is not None for parameter in random_tiny_model.parameters())


def test_greedy_decoding_follows_the_likeliest_token(random_tiny_model, random_tiny_encoder, make_sample):
    prompts = random_tiny_encoder.encode_prompts([make_sample("a", "1"), make_sample("b", "2", images=0)])
    generated = random_tiny_model.generate(prompts, GenerationSettings(max_new_tokens=4))
    suppressed = random_tiny_encoder.media_token_ids
    for row, ids in enumerate(generated):
        content = prompts.attention_mask[row] == 1
        prompt = prompts.input_ids[row][content].tolist()
        single = random_tiny_encoder.encode_prompts([prompts.samples[row]])
        for position, token in enumerate(ids):
            single.input_ids = torch.tensor([prompt + ids[:position]])
            single.attention_mask = torch.ones_like(single.input_ids)
            types = single.visual.get("mm_token_type_ids")
            if types is not None:
                padding = single.input_ids.shape[1] - types.shape[1]
                single.visual["mm_token_type_ids"] = torch.nn.functional.pad(types, (0, padding))
            logits = full_logits(random_tiny_model, single)[0, -1]
            logits[suppressed] = -torch.inf
            assert token == int(logits.argmax())


def test_generation_stops_at_the_end_of_turn(random_tiny_model, random_tiny_encoder, image_sample):
    with torch.no_grad():
        head = random_tiny_model.model.get_output_embeddings().weight
        head[random_tiny_encoder.tokenizer.eos_token_id] = 0
        head[:] = 0  # all logits equal: the first id wins, which is the padding token
    prompts = random_tiny_encoder.encode_prompts([image_sample])
    random_tiny_model.model.generation_config.eos_token_id = 0
    assert random_tiny_model.generate(prompts, GenerationSettings(max_new_tokens=5)) == [[0]]


def test_labels_outside_the_vocabulary_are_named(random_tiny_model, random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode([image_sample])
    batch.labels[0, -1] = 99_999
    with pytest.raises(UserError, match="label 99999 lies outside the vocabulary"):
        random_tiny_model.score(batch)


@pytest.mark.parametrize(
    "settings",
    [
        {"max_new_tokens": 0},
        {"temperature": -1.0},
        {"top_p": 0.0},
        {"top_p": 1.5},
        {"top_k": -1},
        {"completions": 0},
        {"completions": 2},  # all the same at temperature 0
    ],
)
def test_impossible_generation_settings_are_refused(settings):
    with pytest.raises(UserError, match=next(iter(settings))):
        GenerationSettings(**settings)
