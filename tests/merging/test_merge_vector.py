import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.merge_plan import plan_merge
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.merging.merge_vector import write_merged_vector
from lit_vlm.merging.saved_vector import open_vector
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from tests.merging.material import MemorySource, opener, text_model

QUERY = "model.layers.1.self_attn.q_proj.weight"


def plan_of(*models, **options):
    donors = [Donor(model.label, weight=options.pop("weight", 0.5)) for model in models[1:]]
    return plan_merge(MergeSettings(TaskArithmetic(), donors, base="base", **options), opener(*models))


def test_the_vector_holds_the_mixed_difference_of_merged_weights(tmp_path):
    base, a = text_model("base", 0), text_model("a", 1)
    plan = plan_of(base, a)
    seen = []
    summary = write_merged_vector(plan, tmp_path / "out", "merge: {}", seen.append)
    vector = open_vector(tmp_path / "out")
    merged = [weight.place.name for weight in plan.outputs if weight.merged]
    assert sorted(vector.names) == sorted(merged)
    assert summary.weights == len(merged) == len(seen)
    torch.testing.assert_close(vector.read(QUERY), 0.5 * (a.tensors[QUERY] - base.tensors[QUERY]))
    assert vector.description.layers == 2
    assert vector.description.minus == "base"
    assert vector.description.further["recipe"] == "merge: {}"


def test_its_type_is_float32_unless_another_is_asked_for(tmp_path):
    models = text_model("base", 0, dtype=torch.bfloat16), text_model("a", 1, dtype=torch.bfloat16)
    write_merged_vector(plan_of(*models), tmp_path / "wide", "")
    write_merged_vector(plan_of(*models, dtype="bfloat16"), tmp_path / "narrow", "")
    assert open_vector(tmp_path / "wide").dtype(QUERY) == torch.float32
    assert open_vector(tmp_path / "narrow").dtype(QUERY) == torch.bfloat16


def test_a_merge_of_nothing_has_no_vector(tmp_path):
    with pytest.raises(UserError, match="nothing is merged"):
        write_merged_vector(plan_of(text_model("base"), text_model("a", 1), weight=0.0), tmp_path / "out", "")


def test_a_donor_without_a_difference_is_refused(tmp_path):
    base, a = text_model("base", 0), text_model("a", 1)
    same = MemorySource("same", dict(reversed(base.tensors.items())))
    with pytest.raises(UserError, match="differences to the base are zero"):
        write_merged_vector(plan_of(base, a, same), tmp_path / "out", "")
    assert not (tmp_path / "out").exists()


def test_new_rows_of_weights_that_are_not_merged_are_refused(tmp_path):
    models = text_model("base", 0), text_model("a", 1)
    with pytest.raises(UserError, match="new_tokens changes rows of weights that are not merged"):
        write_merged_vector(plan_of(*models, new_tokens=["b"]), tmp_path / "out", "")
    assert not (tmp_path / "out").exists()
