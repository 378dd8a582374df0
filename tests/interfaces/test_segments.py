from dataclasses import replace
from typing import Any

import pytest

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Sample, SampleMeta
from lit_vlm.interfaces.segments import HALLUCINATIONS, SEGMENT_CLASSES, segment_classes


def sample(labels: Any) -> Sample:
    return Sample("s", (), meta=SampleMeta(origin="file, line 3", extra={"segment_labels": labels}))


def test_labels_become_the_numbers_of_their_classes() -> None:
    found = segment_classes(sample({"relation": [-1, 0, 1]}), "relation")
    assert found == (0, 1, 2)
    assert [SEGMENT_CLASSES[number] for number in found] == ["hallucinated", "not_mentioned", "faithful"]
    assert segment_classes(sample({"relation": []}), "relation") == ()
    assert len(HALLUCINATIONS) == len(SEGMENT_CLASSES) == 3


@pytest.mark.parametrize("labels", [None, [], {"existence": [1]}, {"relation": None}, {"relation": "11"}])
def test_a_sample_without_labels_is_refused(labels: Any) -> None:
    with pytest.raises(BadSampleError, match=r"file, line 3: it has no list segment_labels\.relation; give one of -1"):
        segment_classes(sample(labels), "relation")


@pytest.mark.parametrize("wrong", [2, -2, 0.5, 1.0, True, "1", None])
def test_a_label_of_another_value_is_refused(wrong: Any) -> None:
    with pytest.raises(BadSampleError, match="give only -1, 0 and 1"):
        segment_classes(sample({"relation": [1, wrong]}), "relation")


def test_a_sample_without_an_origin_is_named_by_its_id() -> None:
    with pytest.raises(BadSampleError, match="^s: "):
        segment_classes(replace(sample({}), meta=SampleMeta()), "existence")
