import pytest
import torch
from torch.utils.data import Dataset

from lit_vlm.data.bad_samples import BadSampleLedger
from lit_vlm.data.evaluation_loader import EvaluationLoader
from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.errors import BadSampleError, TooManyBadSamplesError, UserError
from lit_vlm.interfaces.records import Sample


class Samples(Dataset):
    """Sample ``i`` has id ``i``; those in ``bad`` cannot be read."""

    def __init__(self, bad):
        self.bad = bad

    def __getitem__(self, index):
        if index in self.bad:
            raise BadSampleError(f"line {index}", "it is no JSON")
        return Sample(id=str(index), messages=())


def collate(samples):
    ids = torch.tensor([[int(sample.id)] for sample in samples])
    batch = PromptBatch(ids, torch.ones_like(ids), {}, tuple(samples))
    return EvaluationBatch(batch, batch)


def loader(bad=(), most=100, indices=range(10), **options):
    ledger = BadSampleLedger("skip", most, "validation", 10)
    return EvaluationLoader(Samples(bad), options.pop("collate", collate), indices, 4, ledger=ledger, **options)


def served(source):
    batches = list(source)
    ids = [[int(sample.id) for sample in batch.prompts.samples] for batch in batches]
    return ids, [[int(bad.origin.removeprefix("line ")) for bad in batch.complete.dropped] for batch in batches]


@pytest.mark.parametrize("workers", [0, 2])
def test_all_samples_come_in_order(workers):
    source = loader(num_workers=workers)
    assert len(source) == 3
    for _ in range(2):
        assert served(source) == ([[0, 1, 2, 3], [4, 5, 6, 7], [8, 9]], [[], [], []])
    assert served(loader(indices=range(1, 10, 3)))[0] == [[1, 4, 7]]


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("bad", [(5,), (0, 1, 2, 3), (4, 5, 6, 7), (8, 9), (0, 1, 2, 3, 8, 9), (0, 1, 2, 3, 4, 6, 9)])
def test_every_sample_is_served_or_named_once(bad, workers):
    ids, dropped = served(loader(bad, num_workers=workers))
    assert sum(ids, []) == [index for index in range(10) if index not in bad]
    assert sorted(sum(dropped, [])) == sorted(bad)
    assert all(ids)


def test_an_evaluation_of_bad_samples_alone_is_refused():
    with pytest.raises(TooManyBadSamplesError, match="not one sample of this evaluation can be used; line 0: it is no"):
        list(loader(range(10)))
    assert list(loader(indices=range(0))) == []


def test_the_limit_holds_over_repeated_evaluations():
    source = loader((2, 8), most=2)
    for _ in range(3):
        served(source)
    with pytest.raises(TooManyBadSamplesError, match="2 of 10 samples of the validation split are bad"):
        served(loader((2, 8), most=1))


@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_the_first_bad_sample_stops_the_run(workers):
    source = EvaluationLoader(Samples((6,)), collate, range(10), 4, num_workers=workers)
    with pytest.raises(BadSampleError, match="^line 6: it is no JSON"):
        list(source)


def test_another_mistake_comes_as_it_was_raised():
    def refuse(samples):
        raise UserError("the processor does not belong to this model")

    with pytest.raises(UserError, match="^the processor does not belong to this model$"):
        list(loader(collate=refuse, num_workers=1))
