import pytest

from lit_vlm.data.records.conventions import Reading
from lit_vlm.data.records.mixed_record_samples import MixedRecordSamples
from lit_vlm.data.records.record_files import open_records
from lit_vlm.data.records.record_samples import RecordSamples
from lit_vlm.data.records.sample_reader import SampleReader

READER = SampleReader(Reading("question_answer", {"question": "question", "completion": "completion"}))


@pytest.mark.parametrize("wanted", [1, 3, 4, 10])
def test_all_of_the_first_and_so_many_of_the_second(tmp_path, write_lines, wanted):
    def opened(name, count):
        records = [{"question": f"{name} {n}?", "completion": "yes"} for n in range(count)]
        return RecordSamples(open_records(str(write_lines(tmp_path / f"{name}.jsonl", records)), "data.train"), READER)

    mixed = MixedRecordSamples(opened("a", 3), opened("b", 4), wanted)
    asked = [mixed[index].question for index in range(len(mixed))]
    assert asked[:3] == ["a 0?", "a 1?", "a 2?"]
    assert len(asked) == 3 + wanted
    counts = [asked.count(f"b {n}?") for n in range(4)]
    assert sum(counts) == wanted
    assert max(counts) - min(counts) <= 1
    assert mixed.origin(0).endswith("a.jsonl, line 1")
    assert mixed.origin(3).endswith("b.jsonl, line 1")
    with pytest.raises(IndexError):
        mixed[len(mixed)]
