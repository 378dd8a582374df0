import json

import pytest
import torch

from lit_vlm.functional.fault_folder import FAULT, Fault, MicroBatch, bytes_of, named_tensors, read_fault, write_fault
from lit_vlm.interfaces.batches import GroupBatch, PreferenceBatch, PromptBatch, StepTotals
from lit_vlm.interfaces.errors import UserError
from tests.conftest import make_sample


def prompts(**options):
    sample = make_sample("i see 7.", "7")
    return PromptBatch(
        input_ids=torch.arange(4).reshape(1, 4),
        attention_mask=torch.ones(1, 4, dtype=torch.int64),
        visual={"pixel_values": torch.rand(3, 5), "image_grid_thw": torch.tensor([[1, 1, 3]])},
        samples=(sample,),
        **options,
    )


def completions(kind, **own):
    rows = torch.ones(2, 3, dtype=torch.int64)
    return kind(
        prompts=prompts(), token_ids=rows * 5, mask=rows, counted=rows, prompt_of=torch.zeros(2, dtype=torch.int64),
        step_totals=StepTotals(6, 1), digests=("a", "b"), **own,
    )  # fmt: skip


BATCHES = [
    prompts(labels=torch.arange(4).reshape(1, 4), weights=torch.ones(1), step_totals=StepTotals(3, 1)),
    completions(PreferenceBatch, chosen=torch.tensor([0]), rejected=torch.tensor([1]), weights=torch.ones(1)),
    completions(GroupBatch, scores=torch.tensor([0.0, 1.0]), reference=torch.tensor([1])),
]


def fault(batches, **options):
    told = tuple(
        MicroBatch(
            kind=type(batch).__name__,
            index=number,
            seed=number,
            is_finite=True,
            sample_ids=tuple(sample.id for sample in batch.samples),
            totals=(batch.step_totals.labels, batch.step_totals.sequences),
            digests=getattr(batch, "digests", ()),
        )
        for number, batch in enumerate(batches)
    )
    return Fault("why", 3, 0, 1, 2, 7, "Module", "32", told, ("a.weight",), **options)


def test_every_kind_of_batch_comes_back_as_it_was(tmp_path):
    folder = tmp_path / "step_3_rank_1"
    weights = {"a.weight": torch.rand(2, 2)}
    written = fault(BATCHES, weights_in="step_3_rank_1", versions={"torch": "2"})
    write_fault(folder, written, BATCHES, rollouts={"advantages": torch.rand(2)}, weights=weights)
    contents = read_fault(folder)
    assert contents.fault == written
    assert torch.equal(contents.weights["a.weight"], weights["a.weight"])
    assert list(contents.rollouts) == ["advantages"]
    for found, wanted in zip(contents.batches, BATCHES, strict=True):
        assert type(found) is type(wanted)
        assert found.step_totals == wanted.step_totals
        assert getattr(found, "digests", ()) == getattr(wanted, "digests", ())
        held, meant = dict(named_tensors(found)), dict(named_tensors(wanted))
        assert held.keys() == meant.keys()
        assert all(torch.equal(held[name], meant[name]) for name in meant)
        assert [sample.messages for sample in found.samples] == [sample.messages for sample in wanted.samples]
        # Images come back as what they show.
        assert found.samples[0].images[0].path is not None


def test_tensors_that_were_not_kept_leave_their_batch_out(tmp_path):
    from dataclasses import replace

    written = fault(BATCHES[:2])
    first, second = written.micro_batches
    written = replace(written, micro_batches=(first, replace(second, has_tensors=False)))
    write_fault(tmp_path, written, BATCHES[:2])
    assert [type(batch) for batch in read_fault(tmp_path).batches] == [PromptBatch]
    assert not (tmp_path / "batch_1.safetensors").exists()


def test_bytes_count_every_tensor():
    tensors = [BATCHES[0].input_ids, BATCHES[0].attention_mask, BATCHES[0].labels, BATCHES[0].weights]
    tensors += BATCHES[0].visual.values()
    assert bytes_of(BATCHES[0]) == sum(tensor.nbytes for tensor in tensors)


@pytest.mark.parametrize(
    "change",
    [
        lambda content: content.update(weights_in="../elsewhere"),
        lambda content: content["micro_batches"][0].update(kind="Popen"),
        lambda content: content.pop("step"),
        lambda content: content.update(more=1),
    ],
)
def test_a_folder_that_was_changed_is_refused(tmp_path, change):
    write_fault(tmp_path, fault(BATCHES[:1]), BATCHES[:1])
    content = json.loads((tmp_path / FAULT).read_text())
    change(content)
    (tmp_path / FAULT).write_text(json.dumps(content))
    with pytest.raises(UserError, match=str(tmp_path)):
        read_fault(tmp_path)


def test_a_folder_without_its_description_is_none(tmp_path):
    with pytest.raises(UserError, match="is no folder of a fault"):
        read_fault(tmp_path)
