from types import SimpleNamespace

import pytest
import torch
from torch.utils.data import Dataset

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.errors import BadSampleError, TooManyBadSamplesError, UserError
from lit_vlm.interfaces.records import Message, Sample, SampleMeta, TextPart, TokenCount, user_message
from lit_vlm.interfaces.roles import SampleEncoder

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Fixed(Dataset):
    """The same sample ten times."""

    def __init__(self, sample):
        self.sample = sample

    def __len__(self):
        return 10

    def __getitem__(self, index):
        return self.sample


class FixedData(VLMDataModule):
    """Serves the fixed samples in every split."""

    def __init__(self, sample, encoder, **options):
        super().__init__(encoder, **{"num_workers": 0, "batch_size": 4, "evaluation_batch_size": 4, **options})
        self.sample = sample

    @property
    def tasks(self):
        return ("read",)

    def samples(self, split):
        return Fixed(self.sample)


def test_training_leaves_out_what_fills_no_batch_and_evaluation_serves_all(image_sample, random_tiny_encoder):
    data = FixedData(image_sample, random_tiny_encoder)
    assert [len(batch) for batch in data.train_dataloader()] == [4, 4]
    assert data.train_batches(world_size=1) == 2
    assert data.train_batches(world_size=2) == 1
    assert [len(batch) for batch in data.val_dataloader()] == [4, 4, 2]


def test_ranks_share_the_evaluation(image_sample, random_tiny_encoder):
    sizes = []
    for rank in range(3):
        data = FixedData(image_sample, random_tiny_encoder)
        device = SimpleNamespace(root_device=SimpleNamespace(type="cpu"))
        data.trainer = SimpleNamespace(global_rank=rank, world_size=3, strategy=device, lightning_module=None)
        sizes.append(sum(len(batch) for batch in data.test_dataloader()))
    assert sizes == [4, 3, 3]


def test_a_system_turn_of_the_sample_is_kept(image_sample, random_tiny_encoder):
    from dataclasses import replace

    own = Message("system", (TextPart("own words"),))
    data = FixedData(
        replace(image_sample, messages=(own, *image_sample.messages)), random_tiny_encoder, system_prompt="theirs"
    )
    (first, *_) = next(iter(data.train_dataloader())).samples
    assert [message.text for message in first.messages if message.role == "system"] == ["own words"]


def test_a_second_sampler_under_several_processes_is_refused(image_sample, random_tiny_encoder):
    data = FixedData(image_sample, random_tiny_encoder)
    connector = SimpleNamespace(use_distributed_sampler=True)
    data.trainer = SimpleNamespace(world_size=2, _accelerator_connector=connector)
    with pytest.raises(UserError, match="use_distributed_sampler to false"):
        data.setup("fit")
    data.trainer.world_size = 1
    data.setup("fit")


def test_impossible_settings_are_refused(image_sample):
    with pytest.raises(UserError, match=r"data\.num_workers is -1"):
        FixedData(image_sample, None, num_workers=-1)


SIZE = 40
BAD, BROKEN = 13, 22


class Lines(Dataset):
    """Sample ``i`` has ``10 + i`` tokens; one cannot be read."""

    def __len__(self):
        return SIZE

    def __getitem__(self, index):
        if index == BAD:
            raise BadSampleError(f"line {index}", "it is no JSON")
        return Sample(str(index), (user_message("?"),), meta=SampleMeta(origin=f"line {index}"))


class LineEncoder(SampleEncoder):
    """Encodes sample ``i`` as ``10 + i`` tokens, some of them an image's; one has a broken image."""

    def __init__(self):
        self.counted = 0

    def encode(self, samples):
        if any(sample.id == str(BROKEN) for sample in samples):
            raise BadSampleError(f"line {BROKEN}", "its image is broken")
        lengths = [10 + int(sample.id) for sample in samples] or [1]
        ids = torch.zeros(len(lengths), max(lengths), dtype=torch.long)
        mask = torch.tensor([[1] * length + [0] * (max(lengths) - length) for length in lengths])
        return PromptBatch(ids, mask, {}, tuple(samples), mask if samples else torch.full_like(mask, -100))

    def encode_prompts(self, samples):
        return self.encode(samples)

    def encode_evaluation(self, samples):
        return EvaluationBatch(self.encode(samples), self.encode_prompts(samples))

    def describe_prompt(self, sample):
        return sample.id

    def count_tokens(self, sample):
        self.counted += 1
        return TokenCount(4, 6 + int(sample.id))

    def count_prompt_tokens(self, sample):
        raise NotImplementedError("this is a test of completions")

    encode_pairs = encode_groups = count_comparison_tokens = None

    def tokenise(self, text):
        return []

    def decode(self, token_ids):
        return ""


class LineData(VLMDataModule):
    """Serves the lines in every split."""

    def __init__(self, **options):
        super().__init__(LineEncoder(), **{"num_workers": 0, "batch_size": 4, "evaluation_batch_size": 4, **options})

    @property
    def tasks(self):
        return ("read",)

    def samples(self, split):
        return Lines()


def skipping(**options):
    return LineData(bad_samples="skip", **options)


BUDGET = {"batching": "token_budget", "max_batch_tokens": 100, "batch_size": None}
BATCHINGS = pytest.mark.parametrize("options", [{}, {"batching": "length_grouped"}, BUDGET])


def contents(loader):
    return [(tuple(sample.id for sample in batch.samples), batch.dropped, batch.step_totals) for batch in loader]


@BATCHINGS
@pytest.mark.parametrize("workers", [1, 3])
def test_batches_do_not_depend_on_the_workers(options, workers):
    alone = contents(skipping(**options).train_dataloader())
    assert contents(skipping(num_workers=workers, prefetch_bytes=1, **options).train_dataloader()) == alone


@BATCHINGS
def test_an_epoch_has_as_many_batches_as_was_said_and_names_what_it_leaves_out(options):
    data = skipping(**options)
    expected = data.train_batches(world_size=1)
    loader = data.train_dataloader()
    for epoch in range(2):
        batches = list(loader)
        assert len(batches) == len(loader) == expected
        served = [sample.id for batch in batches for sample in batch.samples]
        assert len(set(served)) == len(served) >= SIZE - 2 - 4
        assert not {str(BAD), str(BROKEN)} & set(served)
        named = {bad.origin for batch in batches for bad in batch.dropped}
        # What has no length is named by the first batch of all, what cannot be encoded whenever it is met.
        assert named <= {f"line {BAD}", f"line {BROKEN}"}
        assert not options or (f"line {BAD}" in named) is (epoch == 0)
    assert data.train_batches(world_size=2) == len(batches) // 2


def test_lengths_are_counted_once_and_only_where_the_plan_needs_them():
    for options, counted in (({}, 0), ({"batching": "length_grouped"}, SIZE - 1), (BUDGET, SIZE - 1)):
        data = skipping(**options)
        for _ in range(2):
            data.train_batches(world_size=2)
            data.train_dataloader()
        assert data.encoder.counted == counted


def test_a_token_budget_counts_padding_and_images():
    batches = [batch for batch in skipping(**BUDGET).train_dataloader() if batch.samples]
    assert all(batch.attention_mask.numel() <= 100 for batch in batches)
    assert max(len(batch) for batch in batches) > 4
    capped = skipping(**{**BUDGET, "batch_size": 3}).train_dataloader()
    assert max(len(batch) for batch in capped) == 3


def test_a_sample_longer_than_the_budget_is_bad():
    (first, *_) = skipping(**{**BUDGET, "max_batch_tokens": 47}, bad_samples_limit=4).train_dataloader()
    reasons = {bad.origin: bad.reason for bad in first.dropped}
    assert reasons["line 39"].startswith("it has 49 tokens, more than data.max_batch_tokens=47")
    assert {"line 38", "line 39", f"line {BAD}"} <= set(reasons)
    with pytest.raises(BadSampleError, match="line 13: it is no JSON"):
        LineData(**BUDGET).train_batches(world_size=1)


@BATCHINGS
@pytest.mark.parametrize("workers", [0, 1])
def test_by_default_the_first_bad_sample_stops_the_run(options, workers):
    data = LineData(num_workers=workers, **options)
    with pytest.raises(BadSampleError, match=r"^line (13|22): it"):
        list(data.train_dataloader())
    for loader in (data.val_dataloader(), data.test_dataloader(), data.predict_dataloader()):
        with pytest.raises(BadSampleError, match=r"^line 13: it is no JSON \(data.bad_samples=skip"):
            list(loader)


def test_every_loader_keeps_to_the_limit():
    data = skipping(bad_samples_limit=1)
    for loader in (data.train_dataloader, data.val_dataloader, data.test_dataloader, data.predict_dataloader):
        with pytest.raises(TooManyBadSamplesError, match=r"2 of 40 .* data.bad_samples_limit=1"):
            list(loader())
    data = skipping(bad_samples_limit=0.05)
    dropped = [bad.origin for batch in data.val_dataloader() for bad in batch.complete.dropped]
    assert dropped == [f"line {BAD}", f"line {BROKEN}"]
    # The count is the split's own and outlives a loader.
    list(data.train_dataloader())
    list(data.train_dataloader())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"batching": "token_budget"}, "say how many tokens a batch may have in data.max_batch_tokens"),
        ({"max_batch_tokens": 9}, "data.max_batch_tokens is 9, but data.batching is fixed"),
        ({"batching": "token_budget", "max_batch_tokens": 0}, "data.max_batch_tokens is 0; give at least 1"),
        ({"batching": "length_grouped", "batch_size": None}, "data.batch_size is null, but data.batching is length_gr"),
        ({"bad_samples_limit": -1}, "data.bad_samples_limit is -1"),
        ({"prefetch_bytes": 0}, "data.prefetch_bytes is 0; give at least 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        LineData(**options)


@pytest.fixture
def placed():
    """Gives a data module the place of one rank, without a trainer."""

    def place(data, rank=0, world_size=1):
        data.trainer = SimpleNamespace(
            global_rank=rank,
            world_size=world_size,
            strategy=SimpleNamespace(root_device=SimpleNamespace(type="cpu")),
            lightning_module=None,
            accumulate_grad_batches=1,
            num_training_batches=float("inf"),
        )
        return data

    return place


def epochs(loader, count=2):
    return [[{sample.id for sample in batch.samples} for batch in loader] for _ in range(count)]


@pytest.mark.parametrize("batching", ["fixed", "length_grouped"])
def test_two_ranks_share_what_one_would_read_and_no_epoch_repeats_another(batching, placed):
    alone = epochs(placed(skipping(batching=batching, batch_size=4)).train_dataloader())
    pair = [epochs(placed(skipping(batching=batching, batch_size=2), rank, 2).train_dataloader()) for rank in range(2)]
    for epoch in range(2):
        for whole, first, second in zip(alone[epoch], pair[0][epoch], pair[1][epoch], strict=True):
            assert whole == first | second
            assert not first & second
    assert alone[0] != alone[1]


def test_token_budgets_leave_ranks_disjoint_samples(placed):
    first, second = (epochs(placed(skipping(**BUDGET), rank, 2).train_dataloader()) for rank in range(2))
    for epoch in range(2):
        assert len(first[epoch]) == len(second[epoch])
        served = [set().union(*rank[epoch]) for rank in (first, second)]
        assert all(served)
        assert not served[0] & served[1]


@BATCHINGS
@pytest.mark.parametrize("workers", [0, 2])
def test_a_run_resumed_in_the_middle_of_an_epoch_serves_the_rest(options, workers, placed):
    def batches(loader):
        return [(tuple(sample.id for sample in batch.samples), batch.step_totals) for batch in loader]

    whole = placed(skipping(**options)).train_dataloader()
    expected = [batches(whole) for _ in range(2)]
    for stop in (1, len(expected[0]) - 1):
        first = placed(skipping(num_workers=workers, **options)).train_dataloader()
        source = iter(first)
        for _ in range(stop):
            next(source)
        state = first.state_dict()
        source.close()
        second = placed(skipping(num_workers=workers, **options)).train_dataloader()
        second.load_state_dict(state)
        assert batches(second) == expected[0][stop:]
        assert batches(second) == expected[1]


class SeedEncoder(LineEncoder):
    """Makes a batch of what the worker is seeded with."""

    def encode(self, samples):
        seed = torch.tensor([[torch.initial_seed()]])
        return PromptBatch(seed, torch.ones_like(seed), {}, labels=seed)


def test_workers_are_seeded_by_rank_and_number(placed):
    def seeds(rank):
        data = placed(skipping(num_workers=2), rank, 2)
        data._encoder = SeedEncoder()
        return {int(batch.input_ids) for batch in data.train_dataloader()}

    first, second = seeds(0), seeds(1)
    assert len(first) == len(second) == 2
    assert not first & second
    assert seeds(1) == second


def test_without_a_trainer_the_module_is_told(image_sample, random_tiny_encoder):
    data = FixedData(image_sample, random_tiny_encoder)
    assert not data.serves_prompts
    sampler = SimpleNamespace(
        coefficients={}, encoder=random_tiny_encoder, group_size=2, sampling_temperature=1.0, unfinished_batches=0
    )
    data.serve(sampler)
    assert data.serves_prompts
    assert next(iter(data.train_dataloader())).labels is None


@pytest.mark.parametrize("passes", [1, 3])
def test_a_module_that_tests_repeatedly_is_given_a_loader_for_each_pass(image_sample, random_tiny_encoder, passes):
    data = FixedData(image_sample, random_tiny_encoder)
    data.serve(SimpleNamespace(test_passes=passes))
    served = data.test_dataloader()
    loaders = served if isinstance(served, list) else [served]
    assert isinstance(served, list) == (passes > 1)
    assert [[len(batch) for batch in loader] for loader in loaders] == [[4, 4, 2]] * passes
    assert [len(batch) for batch in data.val_dataloader()] == [4, 4, 2]
    assert [len(batch) for batch in data.predict_dataloader()] == [4, 4, 2]
