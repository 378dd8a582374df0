import torch

from lit_vlm.callbacks.training_tally import TrainingTally
from lit_vlm.interfaces.batches import PreferenceBatch, PromptBatch


def batch(*lengths):
    mask = torch.tensor([[1] * length + [0] * (9 - length) for length in lengths])
    return PromptBatch(mask, mask, {})


class Clock:
    """Stands until it is told to go on."""

    def __init__(self):
        self.now = 100.0

    def __call__(self):
        return self.now


def test_tokens_samples_and_seconds_add_up():
    clock = Clock()
    tally = TrainingTally(clock)
    tally.start()
    clock.now += 2
    tally.add(batch(3, 4))
    clock.now += 1
    tally.add(batch(5))
    # 3 + 4 + 5 tokens that count, 3 rows, 2 + 1 seconds.
    assert tally.totals == (12, 3, 3.0)


def test_validation_and_what_follows_the_last_batch_are_no_training():
    clock = Clock()
    tally = TrainingTally(clock)
    tally.start()
    clock.now += 1
    tally.pause()
    clock.now += 10
    tally.resume()
    clock.now += 4
    tally.add(batch(1))
    clock.now += 50
    tally.stop()
    assert (tally.seconds, tally.validation_seconds) == (5.0, 10.0)


def test_the_sanity_check_before_the_start_counts_nothing():
    clock = Clock()
    tally = TrainingTally(clock)
    tally.pause()
    clock.now += 10
    tally.resume()
    assert (tally.seconds, tally.validation_seconds) == (0.0, 0.0)
    tally.add(batch(1))
    assert tally.seconds == 0.0


def test_a_batch_of_another_kind_counts_its_time_only():
    clock = Clock()
    tally = TrainingTally(clock)
    tally.start()
    clock.now += 2
    tally.add(object())
    assert tally.totals == (0, 0, 2.0)


def test_a_step_that_says_what_it_trained_on_is_believed():
    tally = TrainingTally(Clock())
    tally.start()
    tally.add(batch(3, 4), {"tokens": torch.tensor(40)})
    # A round without an update says nothing: its batch counts.
    tally.add(batch(2), {})
    tally.add(batch(1), None)
    assert tally.totals[:2] == (40 + 2 + 1, 4)


def test_totals_go_on_after_a_resume():
    clock = Clock()
    tally = TrainingTally(clock)
    tally.start()
    clock.now += 2
    tally.add(batch(3))
    later = TrainingTally(clock)
    later.load_state_dict(tally.state_dict())
    clock.now += 1000
    later.start()
    clock.now += 1
    later.add(batch(4))
    assert later.totals == (7, 2, 3.0)


def test_pairs_count_their_prompts_once_and_each_completion():
    prompts, completions = batch(3, 4), batch(2, 2, 1)
    nobody = torch.zeros(2, dtype=torch.long)
    pairs = PreferenceBatch(
        prompts,
        completions.input_ids,
        completions.attention_mask,
        completions.attention_mask,
        torch.tensor([0, 0, 1]),
        chosen=nobody,
    )
    tally = TrainingTally()
    tally.start()
    tally.add(pairs)
    assert (int(tally.tokens), tally.samples) == (12, 2)
