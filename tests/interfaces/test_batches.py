import torch

from lit_vlm.interfaces.batches import GroupBatch, PreferenceBatch, PromptBatch


def completions(count):
    ones = torch.ones(count, 2, dtype=torch.long)
    prompts = PromptBatch(torch.ones(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long), {})
    counted = ones.clone()
    counted[0, 1] = 0
    return {"prompts": prompts, "token_ids": ones, "mask": ones, "counted": counted, "prompt_of": torch.zeros(count)}


def test_labels_are_counted_after_the_shift():
    labels = torch.tensor([[5, -100, 3], [5, -100, -100]])
    batch = PromptBatch(labels, torch.ones_like(labels), {}, labels=labels)
    assert (batch.count().labels, batch.count().sequences) == (1, 1)
    assert batch.has_targets
    assert not PromptBatch(labels, labels, {}).has_targets


def test_pairs_count_chosen_tokens_and_samples():
    batch = PreferenceBatch(
        **completions(3),
        chosen=torch.tensor([0, 2]),
        rejected=torch.tensor([1, -1]),
        weights=torch.ones(2),
        sample_of=torch.tensor([0, 0]),
    )
    assert len(batch) == 2
    assert (batch.count().labels, batch.count().sequences) == (3, 1)
    assert batch.token_counts.tolist() == [1, 2, 2]


def test_groups_count_what_is_imitated():
    batch = GroupBatch(**completions(3), scores=torch.ones(3), reference=torch.tensor([0, -1]))
    assert len(batch) == 2
    assert (batch.count().labels, batch.count().sequences) == (1, 2)


def test_a_map_keeps_the_kind_of_a_batch():
    batch = GroupBatch(**completions(3), scores=torch.ones(3), reference=torch.tensor([0, -1]))
    half = batch.to(torch.float64)
    assert isinstance(half, GroupBatch)
    assert half.scores.dtype == half.prompts.input_ids.dtype == torch.float64
