from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import ClassVar

import pytest
import torch

from lit_vlm.functional import task_vectors
from lit_vlm.functional.piece_threads import PieceThreads
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.roles import Merge
from lit_vlm.merging.linear import Linear
from lit_vlm.merging.merge_plan import plan_merge
from lit_vlm.merging.merge_run import bytes_read, fitted_operation, merged_weights
from lit_vlm.merging.merge_settings import Donor, MergeSettings
from lit_vlm.merging.model_stock import ModelStock
from lit_vlm.merging.nuslerp import NuSlerp, NuSlerpDifferences
from lit_vlm.merging.slerp import Slerp
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from lit_vlm.merging.ties import TIES
from tests.merging.material import MemorySource, opener, text_model

NORM = "model.norm.weight"
QUERY = "model.layers.1.self_attn.q_proj.weight"


def models(*names, **options):
    return [text_model(name, seed, **options) for seed, name in enumerate(names)]


def planned(sources, operation, donors, **options):
    return plan_merge(MergeSettings(operation, donors, **options), opener(*sources))


def run(plan, *arguments, **options):
    return {weight.planned.place.name: weight for weight in merged_weights(plan, *arguments, **options)}


@dataclass(frozen=True)
class Shift(Merge):
    """Adds a number that is found out first."""

    elementwise: ClassVar[bool] = True
    needs_deltas: ClassVar[bool] = False
    needs_values: ClassVar[bool] = True
    by: float = 0.0

    def fitted(self, tensors: Iterable):
        return replace(self, by=float(sum(1 for _ in tensors)))

    def __call__(self, tensors):
        return tensors.target + self.by


def test_the_worked_sum():
    # base [1,2,3], donors [1.5,2,2] at 0.4 and [1,1,4] at 1 -> [1.2, 1, 3.6]
    rows = {"base": [1.0, 2, 3], "a": [1.5, 2, 2], "b": [1.0, 1, 4]}
    sources = [MemorySource(name, {NORM: torch.tensor(row)}) for name, row in rows.items()]
    plan = planned(sources, TaskArithmetic(), [Donor("a", weight=0.4), Donor("b")], base="base")
    torch.testing.assert_close(run(plan)[NORM].tensor, torch.tensor([1.2, 1.0, 3.6]))


def test_the_worked_instruction_residual():
    # base [1,1], instruct [1.3,0.7], continued [0.9,1.2] -> [1.2, 0.9]
    rows = {"base": [1.0, 1], "instruct": [1.3, 0.7], "continued": [0.9, 1.2]}
    sources = [MemorySource(name, {NORM: torch.tensor(row)}) for name, row in rows.items()]
    plan = planned(sources, TaskArithmetic(), [Donor("instruct")], base="base", target="continued")
    torch.testing.assert_close(run(plan)[NORM].tensor, torch.tensor([1.2, 0.9]))


def test_weights_come_in_the_targets_order_and_kept_ones_are_its_own():
    sources = models("base", "a")
    plan = planned(sources, TaskArithmetic(), [Donor("a")], base="base")
    found = run(plan)
    assert list(found) == list(sources[0].tensors)
    embedding = found["model.embed_tokens.weight"]
    assert torch.equal(embedding.tensor, sources[0].tensors["model.embed_tokens.weight"])
    assert (embedding.figures.merged, embedding.figures.reason) == (False, "coefficient 0")


def test_zero_coefficients_give_the_target_bit_for_bit():
    sources = models("base", "a", dtype=torch.bfloat16)
    found = run(planned(sources, TaskArithmetic(), [Donor("a", weight=0.0)], base="base"))
    assert all(torch.equal(found[name].tensor, tensor) for name, tensor in sources[0].tensors.items())


@pytest.mark.parametrize("operation", [TaskArithmetic(), Linear(), TIES()])
def test_pieces_give_what_the_whole_gives(operation, monkeypatch):
    sources = models("base", "a", "b")
    density = 0.5 if operation.prunes else 1.0
    donors = [Donor("a", weight=0.3, density=density), Donor("b", weight=0.6, density=density)]
    plan = planned(sources, operation, donors, base="base")
    whole = run(plan)
    monkeypatch.setattr("lit_vlm.merging.merge_run.PIECE", 3)
    monkeypatch.setattr(task_vectors, "PIECE", 3)
    cut = run(plan)
    for name, weight in whole.items():
        assert torch.equal(weight.tensor, cut[name].tensor)
        if weight.figures.merged:
            assert cut[name].figures.change == pytest.approx(weight.figures.change, rel=1e-5)


def test_figures_tell_the_coefficient_and_the_sizes_of_each_weight():
    base, a, b = models("base", "a", "b")
    plan = planned([base, a, b], TaskArithmetic(), [Donor("a", weight=[0.0, 1.0]), Donor("b", weight=0.5)], base="base")
    found = run(plan)
    figures = found[QUERY].figures
    first, second = (source.tensors[QUERY].double() - base.tensors[QUERY].double() for source in (a, b))
    assert figures.coefficients == (1.0, 0.5)
    assert figures.deltas[0] == pytest.approx(float(first.norm() / base.tensors[QUERY].norm()), rel=1e-5)
    assert figures.cosines[0] == pytest.approx(float((first * second).sum() / (first.norm() * second.norm())), rel=1e-4)
    # In the first layer donor 1 has coefficient 0 and is not read.
    shallow = found[QUERY.replace("1", "0", 1)].figures
    assert shallow.donors == (1,)
    assert shallow.coefficients == (0.5,)


def test_only_what_is_wanted_is_read():
    base, a = models("base", "a")
    plan = planned([base, a], TaskArithmetic(), [Donor("a")], base="base")
    a.was_read.clear()
    assert list(run(plan, only={QUERY})) == [QUERY]
    assert a.was_read == [QUERY]


class PieceSource(MemorySource):
    """A checkpoint that gives stretches of its weights; notes the longest."""

    longest = 0

    def pieces(self, name):
        flat = self.tensors[name].flatten()

        def piece(start, stop):
            self.longest = max(self.longest, stop - start)
            return flat[start:stop].clone()

        return piece


WITHOUT_WHOLE_WEIGHTS = [
    (TaskArithmetic(), 1, "base"),
    (Slerp(t=0.3), 2, None),
    (NuSlerp(), 2, None),
    (NuSlerpDifferences(), 2, "base"),
    (ModelStock(), 2, "base"),
]


@pytest.mark.parametrize(("operation", "count", "base"), WITHOUT_WHOLE_WEIGHTS, ids=lambda value: type(value).__name__)
def test_no_whole_weight_is_read_where_pieces_do(operation, count, base, monkeypatch):
    sources = models("base", *"ab"[:count], dtype=torch.bfloat16)
    donors = [Donor(name) for name in "ab"[:count]]
    wanted = run(planned(sources, operation, donors, base=base, target="base"))
    cut = [PieceSource(source.label, source.tensors) for source in sources]
    plan = planned(cut, operation, donors, base=base, target="base")
    for source in cut:
        source.was_read.clear()
    monkeypatch.setattr("lit_vlm.merging.merge_run.PIECE", 5)
    monkeypatch.setattr(PieceThreads.over, "__kwdefaults__", {"step": 5})
    found = run(plan)
    assert not any(source.was_read for source in cut)
    assert {source.longest for source in cut} == {5}
    for name, weight in wanted.items():
        # Sums over other pieces may move what is found from them by a unit in the last place of bfloat16.
        torch.testing.assert_close(found[name].tensor, weight.tensor, rtol=2**-7 if count == 2 else 0, atol=0)


def test_an_operation_is_fitted_once_to_all_merged_weights():
    base, a = models("base", "a")
    plan = planned([base, a], Shift(), [Donor("a")], target="base")
    count = sum(weight.merged for weight in plan.outputs)
    operation = fitted_operation(plan)
    assert operation.by == count
    torch.testing.assert_close(run(plan)[QUERY].tensor, base.tensors[QUERY] + count)
    torch.testing.assert_close(run(plan, Shift(0.5))[QUERY].tensor, base.tensors[QUERY] + 0.5)


def test_differences_are_told_before_the_type_rounds_them():
    base, a = models("base", "a", dtype=torch.bfloat16)
    plan = planned([base, a], TaskArithmetic(), [Donor("a", weight=1e-4)], base="base")
    weight = run(plan, differences=True)[QUERY]
    wanted = 1e-4 * (a.tensors[QUERY].float() - base.tensors[QUERY].float())
    torch.testing.assert_close(weight.difference, wanted, rtol=1e-2, atol=1e-6)


def test_nan_is_refused_with_weight_and_donor():
    base, a = models("base", "a")
    a.tensors[QUERY][0, 0] = float("nan")
    plan = planned([base, a], TaskArithmetic(), [Donor("a")], base="base")
    with pytest.raises(UserError, match=rf"{QUERY}.*donor 1 \(a\).*NaN"):
        run(plan)


def test_a_donor_without_any_difference_is_refused_at_the_end():
    base, a = models("base", "a")
    same = MemorySource("same", dict(reversed(base.tensors.items())))
    plan = planned([base, a, same], TaskArithmetic(), [Donor("a"), Donor("same")], base="base")
    with pytest.raises(UserError, match=r"donor 2 \(same\): all differences to the base are zero"):
        run(plan)
    assert run(plan, only={QUERY})[QUERY].figures.deltas[1] == 0


def test_bytes_count_every_weight_once():
    base, a, b = models("base", "a", "b", dtype=torch.bfloat16)
    plan = planned([base, a, b], TaskArithmetic(), [Donor("a"), Donor("b")], base="base")
    size = base.tensors[QUERY].nbytes
    counted = {weight.place.name: bytes_read(plan, weight) for weight in plan.outputs}
    assert counted[QUERY] == 3 * size  # the base is the target
    assert counted["model.embed_tokens.weight"] == base.tensors["model.embed_tokens.weight"].nbytes
