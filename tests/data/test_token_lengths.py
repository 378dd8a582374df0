import pytest
from torch.utils.data import Dataset

from lit_vlm.data.token_lengths import TokenLengths, count_lengths
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, Sample, SampleMeta, TokenCount

pytestmark = pytest.mark.filterwarnings("ignore:This DataLoader will create")


class Samples(Dataset):
    """Sample ``i`` stands in line ``i``; every 50th cannot be read."""

    def __init__(self, size):
        self.size = size

    def __len__(self):
        return self.size

    def __getitem__(self, index):
        if index % 50 == 49:
            raise BadSampleError(f"line {index}", "it is no JSON")
        return Sample(str(index), (), meta=SampleMeta(origin=f"line {index}"))


class Counter:
    """Sample ``i`` has ``i`` tokens of text and 3 of media; some cannot be counted."""

    def __init__(self, refused=None):
        self.refused = refused

    def count_tokens(self, sample):
        if sample.id == self.refused:
            raise UserError("the processor has no image tokens")
        if int(sample.id) % 70 == 69:
            raise BadSampleError(f"line {sample.id}", "its image has no size")
        return TokenCount(int(sample.id), 3)


def quiet(line):
    pass


@pytest.mark.parametrize("workers", [0, 1, 3])
def test_lengths_count_media_and_do_not_depend_on_the_workers(workers):
    counted = count_lengths(Samples(300), Counter().count_tokens, num_workers=workers, tell=quiet)
    bad = [index for index in range(300) if index % 50 == 49 or index % 70 == 69]
    assert counted.lengths == tuple(None if index in bad else index + 3 for index in range(300))
    assert [sample.origin for sample in counted.bad_samples] == [f"line {index}" for index in bad]


@pytest.mark.parametrize("workers", [0, 1])
def test_a_mistake_that_is_not_one_samples_own_is_raised_as_it_is(workers):
    with pytest.raises(UserError) as raised:
        count_lengths(Samples(100), Counter(refused="77").count_tokens, num_workers=workers, tell=quiet)
    assert str(raised.value) == "the processor has no image tokens"


def test_progress_is_told():
    lines = []
    count_lengths(Samples(3), Counter().count_tokens, tell=lines.append)
    (line,) = lines
    assert line.startswith("counted the tokens of 3 samples in ")


def test_samples_above_the_limit_are_refused_with_both_numbers():
    known = TokenLengths((5, 11, None, 10), (BadSample("line 2", "it is no JSON"),))
    limited = known.limited(10, Samples(4))
    assert limited.lengths == (5, None, None, 10)
    first, second = limited.bad_samples
    assert first.origin == "line 2"
    assert second.origin == "line 1"
    assert second.reason.startswith("it has 11 tokens, more than data.max_batch_tokens=10")


def test_the_real_encoder_counts_the_tokens_that_a_batch_has(make_sample, random_tiny_encoder):
    samples = [make_sample("i see 7.", "7", images=images) for images in (0, 1, 2)]
    counted = count_lengths(samples, random_tiny_encoder.count_tokens, tell=quiet)
    assert counted.lengths == tuple(random_tiny_encoder.encode(samples).attention_mask.sum(1).tolist())
    prompts = count_lengths(samples, random_tiny_encoder.count_prompt_tokens, tell=quiet)
    assert prompts.lengths == tuple(random_tiny_encoder.encode_prompts(samples).attention_mask.sum(1).tolist())
