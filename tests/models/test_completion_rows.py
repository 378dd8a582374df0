from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.records import Preference
from lit_vlm.models import completion_rows as module
from lit_vlm.models.completion_rows import compared_rows, completion_rows
from tests.paradigms.comparison_material import compared_sample, completion
from tests.paradigms.preference_material import Inverted


@pytest.fixture
def samples():
    """Samples with 0, 1 and 2 images, the second with a pair that only says what to imitate."""
    found = [compared_sample(index, images=index) for index in range(3)]
    imitated = Preference((completion(7),), (), weight=0.5)
    return [found[0], replace(found[1], preferences=(*found[1].preferences, imitated)), found[2]]


def texts(batch, prompts, rows):
    """The tokens of a prompt with each completion, to compare batches whose numbers and padding differ."""
    found = []
    for row in rows.tolist():
        if row < 0:
            found.append(None)
            continue
        prompt = batch.prompt_of[row]
        ids = [batch.prompts.input_ids[prompt][batch.prompts.attention_mask[prompt] == 1]]
        found.append(torch.cat([*ids, batch.token_ids[row][batch.mask[row] == 1]]).tolist())
    return found


def sums(policy, batch):
    with torch.no_grad():
        scores = policy.score_rollouts(batch.prompts, batch.token_ids, batch.mask, batch.prompt_of)
    return (scores.log_probs * batch.counted).sum(1)


@pytest.fixture(params=[True, False], ids=["pixels told apart", "pixels of all"])
def told_apart(request, monkeypatch):
    if not request.param:
        monkeypatch.setattr(module, "select_prompts", lambda *_: None)
    return request.param


def test_pairs_keep_their_halves_prompts_and_weights(random_tiny_encoder, random_tiny_model, samples, told_apart):
    random_tiny_encoder.names_completions = True
    batch = random_tiny_encoder.encode_pairs(samples, Inverted())
    whole = sums(random_tiny_model, batch)
    for rows in (range(1), range(1, 3), range(2, 4)):
        part = compared_rows(random_tiny_model.model, batch, rows)
        index = torch.tensor(list(rows))
        assert len(part) == len(rows)
        assert torch.equal(part.weights, batch.weights[index])
        assert part.count().sequences == batch.sample_of[index].unique().numel()
        found = sums(random_tiny_model, part)
        for half in ("chosen", "rejected", "corrupted"):
            mine, theirs = getattr(part, half), getattr(batch, half)[index]
            assert texts(part, part.prompts, mine) == texts(batch, batch.prompts, theirs)
            assert torch.equal(mine < 0, theirs < 0)
            torch.testing.assert_close(found[mine[mine >= 0]], whole[theirs[theirs >= 0]], atol=1e-4, rtol=0)
            assert [part.digests[row] for row in mine[mine >= 0]] == [batch.digests[row] for row in theirs[theirs >= 0]]
        if told_apart:
            assert len(part.prompts) == len(batch.prompt_of[_halves(batch, index)].unique())
    random_tiny_encoder.names_completions = False


def _halves(batch, index):
    halves = torch.stack([batch.chosen, batch.rejected, batch.corrupted])[:, index]
    return halves[halves >= 0]


def test_groups_keep_their_members_scores_and_reference(random_tiny_encoder, random_tiny_model, samples, told_apart):
    batch = random_tiny_encoder.encode_groups([replace(sample, preferences=()) for sample in samples])
    whole = sums(random_tiny_model, batch)
    for rows in (range(1), range(1, 3)):
        part = compared_rows(random_tiny_model.model, batch, rows)
        kept = torch.isin(batch.prompt_of, torch.tensor(list(rows)))
        assert len(part) == (len(rows) if told_apart else len(batch))
        torch.testing.assert_close(sums(random_tiny_model, part), whole[kept], atol=1e-4, rtol=0)
        torch.testing.assert_close(part.scores, batch.scores[kept], equal_nan=True)
        places = torch.arange(len(rows)) if told_apart else torch.tensor(list(rows))
        wanted = batch.reference[torch.tensor(list(rows))]
        assert texts(part, part.prompts, part.reference[places]) == texts(batch, batch.prompts, wanted)
        assert int((part.reference >= 0).sum()) == len(rows)
        assert torch.equal(part.reference[part.prompt_of[part.reference[places]]], part.reference[places])


def test_completions_are_scored_alike_in_parts(random_tiny_encoder, random_tiny_model, samples):
    batch = random_tiny_encoder.encode_pairs(samples, Inverted())
    parts = [completion_rows(random_tiny_model.model, batch, rows) for rows in (range(3), range(3, len(batch.mask)))]
    found = torch.cat([sums(random_tiny_model, part) for part in parts])
    torch.testing.assert_close(found, sums(random_tiny_model, batch), atol=1e-4, rtol=0)


def test_all_rows_are_the_batch_itself(random_tiny_encoder, random_tiny_model, samples):
    batch = random_tiny_encoder.encode_pairs(samples)
    assert compared_rows(random_tiny_model.model, batch, range(len(batch))) is batch
    assert completion_rows(random_tiny_model.model, batch, range(len(batch.token_ids))) is batch
    assert isinstance(batch.prompts, PromptBatch)
