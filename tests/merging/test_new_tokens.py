import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.merge_plan import plan_merge
from lit_vlm.merging.merge_run import merged_weights
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from tests.merging.material import opener, text_model

EMBEDDING, HEAD = "model.embed_tokens.weight", "lm_head.weight"
OWN = {"a": 0, "b": 1, "c": 2, "<think>": 3}
TURNED = {"<think>": 0, "b": 1, "c": 2, "a": 3}


def merged(*donors, tokens=("<think>",), tied=False, weight=0.0, **target):
    base = text_model("base", 0, rows=4, tied=tied, tokens={"a": 0, "b": 1, "c": 2})
    target = text_model("target", 1, **{"rows": 5, "tied": tied, "tokens": OWN, **target})
    settings = MergeSettings(
        TaskArithmetic(),
        [Donor(donor.label, weight=weight) for donor in donors],
        target="target",
        base="base",
        vocabulary="by_token",
        new_tokens=list(tokens),
    )
    plan = plan_merge(settings, opener(base, target, *donors))
    return target, {weight.planned.place.name: weight.tensor for weight in merged_weights(plan)}


def test_a_single_donors_row_is_copied_and_nothing_else_changes():
    donor = text_model("donor", 2, rows=4, tokens=TURNED)
    target, found = merged(donor)
    for name in (EMBEDDING, HEAD):
        assert torch.equal(found[name][3], donor.tensors[name][0])
        others = [0, 1, 2, 4]
        assert torch.equal(found[name][others], target.tensors[name][others])
    assert all(torch.equal(found[name], target.tensors[name]) for name in found if name not in (EMBEDDING, HEAD))


def test_several_donors_give_the_mean_of_those_that_have_the_token():
    first, second = text_model("x", 2, rows=4, tokens=TURNED), text_model("y", 3, rows=4, tokens=OWN)
    third = text_model("z", 4, rows=4, tokens={"a": 0, "b": 1, "c": 2})
    _, found = merged(first, second, third)
    torch.testing.assert_close(found[EMBEDDING][3], (first.tensors[EMBEDDING][0] + second.tensors[EMBEDDING][3]) / 2)


def test_a_tied_head_has_the_row_by_its_embedding():
    donor = text_model("donor", 2, rows=4, tokens=TURNED, tied=True)
    _, found = merged(donor, tied=True)
    assert HEAD not in found
    assert torch.equal(found[EMBEDDING][3], donor.tensors[EMBEDDING][0])


def test_a_token_that_the_target_lacks_is_refused_with_the_mend():
    donor = text_model("donor", 2, rows=4, tokens=TURNED)
    with pytest.raises(UserError, match=r"target \(target\) has no row for '<answer>'; add the tokens"):
        merged(donor, tokens=("<think>", "<answer>"))
    with pytest.raises(UserError, match="has no row for '<think>'"):
        merged(donor, rows=3)


def test_a_token_that_no_donor_has_is_refused():
    donor = text_model("donor", 2, rows=4, tokens={"a": 0, "b": 1, "c": 2})
    with pytest.raises(UserError, match="no donor has a row for '<think>'"):
        merged(donor)
