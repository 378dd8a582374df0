"""DataModules hand out what the module asks for: pairs, groups, transformed samples; the same with workers or ranks."""

from dataclasses import dataclass, replace
from types import SimpleNamespace

import pytest
import torch

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.batches import GroupBatch, PreferenceBatch, PromptBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Candidate, Preference, assistant_message
from lit_vlm.interfaces.roles import SampleTransform
from lit_vlm.synthesis.image_corruption import ImageCorruption

SIZE = 6


class Samples(VLMDataModule):
    """Serves samples with candidates; the transform makes pairs of them."""

    tasks = ("read",)

    def __init__(self, make_sample, encoder, **options):
        super().__init__(encoder, **{"num_workers": 0, "batch_size": 2, "evaluation_batch_size": 4, **options})
        self._samples = []
        for index in range(SIZE):
            sample = make_sample(f"i see {index}", str(index), sample_id=f"s{index}", images=index % 2)
            right = Candidate(sample.messages[-1:], {"correct": 1.0})
            wrong = Candidate((assistant_message("no"),), {"correct": 0.0})
            self._samples.append(replace(sample, candidates=(right, wrong), meta=replace(sample.meta, category="read")))

    def samples(self, split):
        return self._samples


@dataclass(frozen=True)
class Pairs(SampleTransform):
    """Pairs the candidates, twice for the first sample and not at all for the second."""

    def __call__(self, sample):
        times = {"s0": 2, "s1": 0}.get(sample.id, 1)
        return [
            replace(self.for_evaluation(sample), messages=sample.prompt, id=f"{sample.id}/{n}") for n in range(times)
        ]

    def for_evaluation(self, sample):
        right, wrong = (candidate.messages for candidate in sample.candidates)
        return replace(sample, preferences=(Preference(right, wrong),))


def module(form, corruption=None):
    return SimpleNamespace(batch_form=form, corruption=corruption)


@pytest.fixture
def data(make_sample, random_tiny_encoder):
    def build(form, corruption=None, **options):
        built = Samples(make_sample, random_tiny_encoder, **options)
        built.serve(module(form, corruption))
        return built

    return build


def test_each_form_is_served(data):
    kinds = {"completions": PromptBatch, "prompts": PromptBatch, "pairs": PreferenceBatch, "groups": GroupBatch}
    for form, kind in kinds.items():
        batches = list(data(form, transform=Pairs() if form == "pairs" else None).train_dataloader())
        assert len(batches) == SIZE // 2
        assert all(type(batch) is kind for batch in batches)
        assert all((batch.step_totals is None) == (form == "prompts") for batch in batches)


def test_the_totals_of_a_step_are_those_of_its_batches(data):
    loader = data("pairs", transform=Pairs()).train_dataloader()
    for batch in loader:
        assert batch.step_totals == batch.count()
        assert batch.step_totals.sequences == 2


def test_a_transform_changes_the_number_of_samples_and_evaluation_keeps_it(data):
    transformed = data("pairs", transform=Pairs())
    assert len(transformed.prepared("train")) == SIZE
    assert len(transformed.prepared("validation")) == SIZE
    assert [transformed.prepared("train")[index].id for index in range(3)] == ["s0/0", "s0/1", "s2/0"]
    assert sum(transformed.arms("category").values()) == SIZE
    batches = list(transformed.val_dataloader())
    assert [len(batch.pairs) for batch in batches] == [4, 2]
    assert [len(batch) for batch in batches] == [4, 2]


def test_pairs_come_again_in_order_for_what_is_computed_ahead(data):
    transformed = data("pairs", transform=Pairs())
    seen = [sample.id for batch in transformed.pair_batches("train") for sample in batch.samples]
    assert seen == ["s0/0", "s0/1", "s2/0", "s3/0", "s4/0", "s5/0"]
    shares = []
    for rank in range(2):
        device = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
        transformed.trainer = SimpleNamespace(
            global_rank=rank, world_size=2, strategy=device, lightning_module=module("pairs")
        )
        shares.append([sample.id for batch in transformed.pair_batches("train") for sample in batch.samples])
    assert shares == [seen[::2], seen[1::2]]


def test_images_are_spoilt_where_the_module_asks_for_it(data):
    for batch in data("pairs", ImageCorruption("blank"), transform=Pairs()).train_dataloader():
        shown = torch.tensor([bool(batch.samples[row].images) for row in batch.prompt_of[batch.chosen]])
        assert torch.equal(batch.corrupted >= 0, shown)


@pytest.mark.parametrize("batching", ["length_grouped", "token_budget"])
@pytest.mark.parametrize("form", ["pairs", "groups"])
def test_comparisons_are_batched_by_length_too(data, batching, form):
    options = {"max_batch_tokens": 400} if batching == "token_budget" else {}
    transform = Pairs() if form == "pairs" else None
    found = data(form, transform=transform, batching=batching, **options)
    rows = [sample.id for batch in found.train_dataloader() for sample in batch.samples]
    assert len(set(rows)) >= SIZE - 1


def test_workers_change_nothing(data):
    def rows(workers):
        loader = data("pairs", ImageCorruption(), transform=Pairs(), num_workers=workers).train_dataloader()
        return [(batch.token_ids, batch.prompts.input_ids, *batch.prompts.visual.values()) for batch in loader]

    for alone, together in zip(rows(0), rows(1), strict=True):
        assert all(map(torch.equal, alone, together))


def test_a_sample_without_pairs_is_named(data):
    with pytest.raises(UserError, match="s[0-9].*no preference"):
        list(data("pairs").train_dataloader())


def test_what_is_computed_once_lies_where_the_trainer_writes(data, tmp_path):
    found = data("pairs")
    found.trainer = SimpleNamespace(default_root_dir=str(tmp_path))
    assert found.cache_file("a.bin") == tmp_path / "a.bin"
