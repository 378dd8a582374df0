import torch

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.interfaces.records import Completion, Sample, user_message
from lit_vlm.interfaces.rollouts import Rollouts


def make_rollouts(lengths, prompt_of):
    longest = max(lengths)
    mask = (torch.arange(longest) < torch.tensor(lengths)[:, None]).long()
    sample = Sample("s", (user_message("?"),))
    ids = torch.arange(len(lengths) * longest).view(len(lengths), longest)
    return Rollouts(
        prompts=PromptBatch(torch.zeros(2, 3, dtype=torch.long), torch.ones(2, 3, dtype=torch.long), {}, (sample,) * 2),
        prompt_of=torch.tensor(prompt_of),
        token_ids=ids,
        mask=mask,
        log_probs=-ids.float(),
        is_truncated=torch.tensor([length == longest for length in lengths]),
        completions=tuple(Completion(sample, "?", str(row), None) for row in range(len(lengths))),
        entropies=ids.float(),
        reference_log_probs=-2 * ids.float(),
    )


def test_a_selection_keeps_rows_together_and_drops_shared_padding():
    rollouts = make_rollouts([2, 5, 3, 1], [0, 0, 1, 1])
    assert rollouts.lengths.tolist() == [2, 5, 3, 1]
    chosen = rollouts.select(torch.tensor([3, 2]))
    assert len(chosen) == 2
    assert chosen.lengths.tolist() == [1, 3]
    assert chosen.prompt_of.tolist() == [1, 1]
    assert [completion.text for completion in chosen.completions] == ["3", "2"]
    for name in ("token_ids", "log_probs", "entropies", "mask", "reference_log_probs"):
        assert torch.equal(getattr(chosen, name), getattr(rollouts, name)[[3, 2], :3])
    assert not chosen.is_truncated.any()


def test_an_empty_selection_has_no_tokens():
    chosen = make_rollouts([2, 5], [0, 1]).select(torch.empty(0, dtype=torch.long))
    assert len(chosen) == 0
    assert chosen.token_ids.shape == (0, 0)
