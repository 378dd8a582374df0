import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch.utils.data import Dataset

from lit_vlm.data.bad_samples import BadSampleLedger
from lit_vlm.data.batch_plans import ShardedBatches, TokenBudgetBatches
from lit_vlm.data.step_loader import StepLoader
from lit_vlm.data.transformed_samples import ExpandedSamples, PreparedSamples
from lit_vlm.interfaces.batches import PromptBatch, StepTotals
from lit_vlm.interfaces.errors import BadSampleError, TooManyBadSamplesError, UserError
from lit_vlm.interfaces.records import BadSample, Sample, user_message
from lit_vlm.interfaces.roles import SampleTransform

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Numbers(Dataset):
    """Sample ``i`` is the number ``i``; those in ``bad`` cannot be read."""

    def __init__(self, length, bad=(), fault=None):
        self.length = length
        self.bad = bad
        self.fault = fault

    def __len__(self):
        return self.length

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSampleError(f"line {index}", "it is no JSON")
        if index == self.fault:
            raise UserError("the folder is gone")
        return index


def collate(numbers):
    """A row of ``number + 1`` labels each; a row without labels of none."""
    length = max(numbers, default=0) + 2
    if not numbers:
        return PromptBatch(torch.zeros(1, 1), torch.ones(1, 1), {}, labels=torch.full((1, 1), -100))
    labels = torch.full((len(numbers), length), -100)
    for row, number in enumerate(numbers):
        labels[row, 1 : number + 2] = 1
    return PromptBatch(torch.tensor(numbers)[:, None].expand(-1, length), torch.ones_like(labels), {}, labels=labels)


def order(length=12, batch_size=2, rank=0, world_size=1, seed=0, **options):
    return ShardedBatches(length, batch_size, rank=rank, world_size=world_size, seed=seed, **options)


def loader(batches=None, accumulation=1, limit=None, bad=(), fault=None, most=None, **options):
    ledger = BadSampleLedger("error" if most is None else "skip", most or 0, "train", 12)
    options = {
        "accumulation": lambda: accumulation,
        "limit": lambda: limit,
        "unfinished": lambda: 0,
        "ledger": ledger,
        **options,
    }
    return StepLoader(Numbers(12, bad, fault), collate, batches or order(), **options)


def rows(batch):
    return batch.input_ids[:, 0].tolist()


@pytest.mark.parametrize(("accumulation", "limit", "steps"), [(3, None, (3, 3)), (4, None, (4, 2)), (4, 3, (3,))])
def test_each_batch_knows_the_labels_of_its_whole_step(accumulation, limit, steps):
    served = list(loader(order(), accumulation=accumulation, limit=limit))
    start = 0
    for length in steps:
        window = served[start : start + length]
        labels = sum(number + 1 for batch in window for number in rows(batch))  # sample i has i + 1 labels
        assert [batch.step_totals for batch in window] == [StepTotals(labels, 2 * length)] * length
        start += length
    assert start == len(served)


def test_a_resumed_loader_continues_with_the_batch_it_would_have_seen_next():
    whole = loader(order(), accumulation=2)
    expected = [(rows(batch), batch.step_totals) for _ in range(2) for batch in whole]
    for stop in range(1, 12):
        first = loader(order(), accumulation=2)
        seen = []
        while len(seen) < stop:
            for batch in first:
                seen.append((rows(batch), batch.step_totals))
                if len(seen) == stop:
                    break
        second = loader(order(), accumulation=2)
        second.load_state_dict(first.state_dict())
        while len(seen) < 12:
            seen.extend((rows(batch), batch.step_totals) for batch in second)
        assert seen == expected


@pytest.mark.parametrize("limit", [None, 4])
def test_a_run_resumes_with_the_batches_that_no_update_has_used_also_of_the_epoch_before(limit):
    length = limit or 6
    whole = loader(order(), limit=limit)
    expected = [rows(batch) for _ in range(6) for batch in whole]
    for stop in range(1, 2 * length + 2):
        for waiting in range(stop + 1):
            first = loader(order(), limit=limit, unfinished=lambda waiting=waiting: waiting)
            taken = take(first, stop)
            assert taken == expected[:stop]
            second = loader(order(), limit=limit)
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            # The Trainer ends the epoch where it would have ended, so many batches earlier in the order; after its last
            # batch it asks for the next one.
            rest = [rows(batch) for batch in second]
            assert len(rest) == length - stop % length
            again = stop - waiting
            assert rest + [rows(batch) for batch in second] == expected[again : again + len(rest) + length]


def test_a_run_that_resumed_twice_still_goes_through_the_same_batches():
    whole = loader(order())
    expected = [rows(batch) for _ in range(6) for batch in whole]
    first = loader(order(), unfinished=lambda: 2)
    assert take(first, 7) == expected[:7]
    second = loader(order(), unfinished=lambda: 3)
    second.load_state_dict(first.state_dict())
    assert second.state_dict() == first.state_dict()  # nothing was yielded since
    assert take(second, 4) == expected[5:9]
    third = loader(order())
    third.load_state_dict(second.state_dict())
    assert take(third, 8) == expected[6:14]


class Dated(SampleTransform):
    """Makes ``number`` of a sample, and ``number + 100 (epoch + 1)`` in an epoch."""

    def __call__(self, sample):
        return [sample]

    def in_epoch(self, sample, epoch):
        return [replace(sample, id=str(int(sample.id) + 100 * (epoch + 1)))]


def dated(**options):
    samples = [Sample(str(number), (user_message("?"),)) for number in range(12)]
    options = {"accumulation": lambda: 1, "limit": lambda: None, "unfinished": lambda: 0, **options}

    def encode(made):
        return collate([int(sample.id) for sample in made])

    return StepLoader(PreparedSamples(ExpandedSamples(samples, Dated()), None), encode, order(), **options)


@pytest.mark.parametrize("workers", [0, 2])
def test_samples_know_the_epoch_they_are_read_in(workers):
    source = dated(num_workers=workers)
    for epoch in range(3):
        batches = [rows(batch) for batch in source]
        assert batches == [[number + 100 * (epoch + 1) for number in batch] for batch in order().batches(epoch)]


def test_a_run_that_resumes_goes_on_in_the_epoch_of_its_batches():
    expected = take(dated(), 18)
    for stop in (1, 5, 6, 7, 13):
        for waiting in (0, 2):
            first = dated(unfinished=lambda waiting=waiting: waiting)
            assert take(first, stop) == expected[:stop]
            second = dated()
            second.load_state_dict(json.loads(json.dumps(first.state_dict())))
            again = max(stop - waiting, 0)
            assert take(second, 18 - stop) == expected[again:][: 18 - stop]


def take(source, count):
    """Takes batches as a Trainer does, epoch after epoch."""
    taken = []
    while True:
        for batch in source:
            taken.append(rows(batch))
            if len(taken) == count:
                return taken


def test_batches_without_labels_have_no_totals():
    def prompts(numbers):
        return replace(collate(numbers), labels=None)

    options = {"accumulation": lambda: 1, "limit": lambda: None, "unfinished": lambda: 0}
    batches = list(StepLoader(Numbers(12), prompts, order(), **options))
    assert [rows(batch) for batch in batches] == [rows(batch) for batch in loader()]
    assert all(batch.step_totals is None for batch in batches)


@pytest.mark.parametrize("workers", [1, 3])
def test_batches_and_totals_do_not_depend_on_the_workers(workers):
    def served(**options):
        source = loader(accumulation=2, bad=(3, 7), most=2, **options)
        return [(rows(batch), batch.step_totals, batch.dropped) for _ in range(2) for batch in source]

    assert served(num_workers=workers) == served(num_workers=workers, prefetch_bytes=1) == served()


def test_the_totals_of_batches_of_any_number_of_rows_hold_over_the_step():
    lengths = [number + 2 for number in range(12)]
    plan = TokenBudgetBatches(lengths, 26, rank=0, world_size=1, seed=0)
    served = list(loader(plan, accumulation=2))
    assert len({len(batch) for batch in served}) > 1
    for start in range(0, len(served), 2):
        step = served[start : start + 2]
        labels = sum(number + 1 for batch in step for number in rows(batch))
        totals = StepTotals(labels, sum(len(batch) for batch in step))
        assert [batch.step_totals for batch in step] == [totals] * len(step)


def test_a_bad_sample_stops_the_run_with_its_one_line_also_from_a_worker():
    for workers in (0, 2):
        with pytest.raises(BadSampleError) as raised:
            list(loader(bad=(5,), num_workers=workers))
        assert str(raised.value) == "line 5: it is no JSON (data.bad_samples=skip leaves such samples out)"


def test_another_mistake_comes_as_it_was_raised_also_from_a_worker():
    for workers in (0, 2):
        with pytest.raises(UserError) as raised:
            list(loader(fault=5, most=3, num_workers=workers))
        assert str(raised.value) == "the folder is gone"


def test_just_the_bad_sample_is_left_out_and_named():
    expected = [rows(batch) for batch in loader()]
    served = list(loader(bad=(5,), most=1))
    assert [rows(batch) for batch in served] == [[number for number in batch if number != 5] for batch in expected]
    (named,) = [batch.dropped for batch in served if batch.dropped]
    assert named == (BadSample("line 5", "it is no JSON"),)


def test_a_batch_of_bad_samples_alone_is_still_a_step_with_nothing_to_learn():
    (first, *others) = loader()
    served = list(loader(bad=rows(first), most=2))
    assert len(served) == 1 + len(others)
    assert served[0].count() == StepTotals(0, 0)
    assert served[0].step_totals == StepTotals(0, 0)
    assert {bad.origin for bad in served[0].dropped} == {f"line {number}" for number in rows(first)}
    together = next(iter(loader(bad=rows(first), most=2, accumulation=2)))
    assert together.step_totals == others[0].count()


def test_epochs_do_not_count_a_bad_sample_twice():
    source = loader(bad=(3, 7), most=2)
    for _ in range(4):
        assert sum(len(batch.dropped) for batch in source) == 2
    with pytest.raises(TooManyBadSamplesError, match="3 of 12 samples of the train split are bad"):
        list(loader(bad=(3, 7, 9), most=2))


def test_a_resumed_run_remembers_the_bad_samples_it_met():
    first = loader(bad=(3, 7), most=2)
    list(first)
    second = loader(bad=(1,), most=2)
    second.load_state_dict(first.state_dict())
    with pytest.raises(
        TooManyBadSamplesError, match=r"3 of 12.*\. line [37]: it is no JSON; line [37]: .*; line 1: it"
    ):
        list(second)


def test_samples_refused_beforehand_are_named_once():
    refused = [BadSample("line 30", "too long")]
    source = loader(refused=refused)
    assert [list(batch.dropped) for _ in range(2) for batch in source] == [refused] + [[]] * 11
    source = loader(refused=refused)
    batches = iter(source)
    assert [list(next(batches).dropped) for _ in range(2)] == [refused, []]
    refused.append(BadSample("line 31", "it is no JSON"))
    assert [list(next(batches).dropped) for _ in range(2)] == [refused[1:], []]


SCRIPT = """
import json, sys
sys.path.insert(0, {tests!r})
import torch.distributed as distributed
import test_step_loader as shared
rank, store, out = int(sys.argv[1]), sys.argv[2], sys.argv[3]
distributed.init_process_group("gloo", init_method="file://" + store, rank=rank, world_size=2)
found = []
for options in ({{"most": 3}}, {{"most": 2}}, {{}}, {{"most": 3, "fault": 11}}, {{"most": 0.2}}):
    source = shared.loader(shared.order(rank=rank, world_size=2), bad=(3, 7, 9), **options)
    steps = []
    try:
        for epoch in range(3):
            steps += [[batch.step_totals.labels, len(batch.dropped)] for batch in source]
        found.append([steps, [bad.origin for bad in source._ledger.bad_samples]])
    except shared.UserError as error:
        found.append([[totals for totals, _ in steps], str(error)])
open(out + str(rank), "w").write(json.dumps(found))
# Neither may leave while the other still talks to it.
distributed.barrier()
distributed.destroy_process_group()
"""


def test_ranks_agree_on_totals_on_bad_samples_and_on_where_to_stop(tmp_path):
    script = tmp_path / "ranks.py"
    script.write_text(SCRIPT.format(tests=str(Path(__file__).parent)))
    command = [sys.executable, str(script)]
    places = [str(tmp_path / "store"), str(tmp_path / "found")]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    processes = [subprocess.Popen([*command, str(rank), *places], env=environment) for rank in range(2)]
    assert [process.wait(timeout=120) for process in processes] == [0, 0]
    (first, second) = [json.loads(Path(f"{places[1]}{rank}").read_text()) for rank in range(2)]
    # Three epochs of three steps; over the ranks each bad sample is dropped once an epoch.
    assert len(first[0][0]) == 9
    assert [labels for labels, _ in first[0][0]] == [labels for labels, _ in second[0][0]]
    assert sum(dropped for run in (first, second) for _, dropped in run[0][0]) == 9
    assert sorted(first[0][1]) == sorted(second[0][1]) == ["line 3", "line 7", "line 9"]
    # Too many, the first one, a fault on one rank: both stop at the same step with the same words.
    assert first[1:] == second[1:]
    assert first[1][1].startswith("3 of 12 samples of the train split are bad")
    assert "it is no JSON (data.bad_samples=skip" in first[2][1]
    assert first[3][1] == "the folder is gone"
    assert first[4][0] == first[1][0]
    assert "data.bad_samples_limit=0.2 allows" in first[4][1]  # a fifth of twelve is two
