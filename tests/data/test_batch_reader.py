import pytest
import torch
from PIL import Image
from torch.utils.data import Dataset

from lit_vlm.data.batch_reader import BatchReader, dropped_of, size_of, with_dropped
from lit_vlm.interfaces.batches import EvaluationBatch, PromptBatch
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import BadSample, MediaRef, Sample, VideoRef

UNREADABLE, UNENCODABLE, TOO_LONG = 13, 17, 19


class Samples(Dataset):
    """Sample ``i`` has id ``i``; some cannot be read."""

    def __getitem__(self, index):
        if index % UNREADABLE == 0:
            raise BadSampleError(f"line {index}", "it is no JSON")
        return Sample(id=str(index), messages=())


def encode(samples):
    """A row of each sample's number; some cannot be encoded, some are dropped by the encoder itself."""
    for sample in samples:
        if int(sample.id) % UNENCODABLE == 0:
            raise BadSampleError(f"line {sample.id}", "its image is broken")
    kept = [sample for sample in samples if int(sample.id) % TOO_LONG]
    dropped = tuple(BadSample(f"line {sample.id}", "too long") for sample in samples if sample not in kept)
    ids = torch.tensor([[int(sample.id)] for sample in kept] or [[0]])
    return PromptBatch(ids, torch.ones_like(ids), {}, tuple(kept), torch.full_like(ids, -100), dropped=dropped)


def read(indices, collate=encode):
    return BatchReader(Samples(), collate)[0, indices]


def test_good_samples_stay_in_order_and_each_bad_one_is_named_once():
    indices = list(range(1, 60))
    reading = read(indices)
    good = [i for i in indices if i % UNREADABLE and i % UNENCODABLE and i % TOO_LONG]
    assert reading.batch.input_ids[:, 0].tolist() == good
    assert [int(sample.id) for sample in reading.batch.samples] == good
    named = [int(bad.origin.removeprefix("line ")) for bad in reading.dropped]
    assert sorted([*named, *good]) == indices
    assert reading.batch.dropped == reading.dropped


@pytest.mark.parametrize(
    ("index", "reason"), [(UNREADABLE, "it is no JSON"), (UNENCODABLE, "its image is broken"), (TOO_LONG, "too long")]
)
def test_a_batch_of_one_bad_sample_names_it(index, reason):
    reading = read([index])
    assert reading.dropped == (BadSample(f"line {index}", reason),)
    assert reading.fault is None


def test_where_all_are_bad_there_is_no_batch():
    reading = read([13, 17, 34, 26])
    assert reading.batch is None
    assert len(reading.dropped) == 4


def test_a_good_batch_is_encoded_once():
    calls = []
    read([1, 2, 3], lambda samples: calls.append(len(samples)) or encode(samples))
    assert calls == [3]


def test_a_mistake_that_is_not_one_samples_own_is_returned():
    def refuse(samples):
        raise UserError("the processor does not belong to this model")

    reading = read([1, 2], refuse)
    assert str(reading.fault) == "the processor does not belong to this model"
    assert reading.batch is None


def test_a_fault_of_the_program_is_raised():
    with pytest.raises(ZeroDivisionError):
        read([1], lambda samples: 1 // 0)


def test_a_fault_of_the_whole_batch_is_not_hidden():
    def refuse_pairs(samples):
        if len(samples) > 1:
            raise BadSampleError("line 1", "it does not go with the others")
        return encode(samples)

    assert str(read([1, 2], refuse_pairs).fault) == "line 1: it does not go with the others"


def test_evaluation_batches_name_what_was_dropped_in_their_complete_form():
    bad = (BadSample("a", "b"),)
    batch = EvaluationBatch(encode([Sample("1", ())]), encode([Sample("1", ())]))
    assert dropped_of(batch) == ()
    assert dropped_of(with_dropped(batch, bad)) == bad
    assert dropped_of(with_dropped(batch.complete, bad)) == bad


def test_bytes_are_those_of_tensors_and_media_each_counted_once():
    pixels = torch.zeros(5, 10)  # 200 bytes
    ids = torch.zeros(2, 3, dtype=torch.long)  # 48 bytes
    image = MediaRef(pil=Image.new("RGB", (4, 5)))  # 60 bytes
    video = VideoRef(frames=(MediaRef(bytes=b"1234567"), MediaRef(path="frame.png")))  # 7 bytes
    sample = Sample("1", (), images=(image,), videos=(video,))
    complete = PromptBatch(ids, ids.clone(), {"pixels": pixels}, (sample,), ids.clone())
    assert size_of(complete) == 3 * 48 + 200 + 60 + 7
    prompts = PromptBatch(ids.clone(), ids.clone(), {"pixels": pixels}, (sample,))
    assert size_of(EvaluationBatch(complete, prompts)) == 5 * 48 + 200 + 60 + 7


def test_the_real_encoder_leaves_out_a_broken_image_and_makes_a_neutral_batch_of_nothing(
    make_sample, random_tiny_encoder, tmp_path
):
    from dataclasses import replace

    broken = replace(make_sample("i see 7.", "7", sample_id="b"), images=(MediaRef(bytes=b"no image"),))
    items = [make_sample("i see 7.", "7", sample_id="a"), broken]
    reading = BatchReader(items, random_tiny_encoder.encode)[0, [0, 1]]
    assert [sample.id for sample in reading.batch.samples] == ["a"]
    (bad,) = reading.dropped
    assert bad.origin == "b"
    whole = random_tiny_encoder.encode(items[:1])
    assert torch.equal(reading.batch.input_ids, whole.input_ids)
    assert torch.equal(reading.batch.visual["pixel_values"], whole.visual["pixel_values"])
    nothing = random_tiny_encoder.encode([])
    assert nothing.count().labels == 0
    assert nothing.input_ids.shape == (1, 1)


def test_a_file_that_vanishes_during_the_run_is_named(tmp_path):
    from lit_vlm.data.records.record_files import open_file

    file = tmp_path / "train.jsonl"
    file.write_text('{"a": 1}\n{"a": 2}\n')
    records = open_file(file)
    assert records[1].values == {"a": 2}

    class Read(Dataset):
        def __getitem__(self, index):
            return Sample(id=str(records[index].values["a"]), messages=())

    reader = BatchReader(Read(), encode)
    assert reader[0, [0]].batch is not None
    file.unlink()
    reading = reader[1, [1]]
    assert reading.batch is None
    assert str(reading.fault) == (
        f"{file} cannot be read any more: No such file or directory; put it back as it was, and resume with "
        "--ckpt_path last"
    )
