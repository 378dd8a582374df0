"""Settings of a merge: which models they name, and what is refused."""

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from lit_vlm.merging.merge_settings import Donor, MergeSettings, NamePair
from lit_vlm.merging.task_arithmetic import TaskArithmetic
from tests.merging.material import Added, Middle

ADAPTED = ModelReference("start", adapter="adapter", revision="v1")


def test_the_target_is_the_base_unless_it_is_named() -> None:
    donor = Donor("donor")
    assert MergeSettings(Added(), [donor], base="base").target_reference == ModelReference("base")
    assert MergeSettings(Added(), [donor], base="base", target="other").target_reference == ModelReference("other")
    assert MergeSettings(Added(), [donor]).target_reference == ModelReference("donor")


def test_a_donor_has_its_own_base_or_the_merge_s() -> None:
    own = Donor("donor", base=ModelReference("own"))
    settings = MergeSettings(Added(), [own, Donor("other")], base="base")
    assert [settings.base_reference(donor) for donor in settings.donors] == [
        ModelReference("own"),
        ModelReference("base"),
    ]
    assert MergeSettings(Added(), [Donor("donor")]).base_reference(Donor("donor")) is None


def test_an_adapter_s_base_is_the_model_without_it() -> None:
    donor = Donor(ADAPTED)
    assert MergeSettings(Added(), [donor]).base_reference(donor) == ModelReference("start", revision="v1")
    assert MergeSettings(Added(), [donor], base="base").base_reference(donor) == ModelReference("base")


def test_a_vector_has_no_base() -> None:
    vector = Donor(vector="vector")
    assert MergeSettings(Added(), [vector], base="base").base_reference(vector) is None


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Donor(), "either a model or a vector"),
        (lambda: Donor("model", vector="vector"), "either a model or a vector"),
        (lambda: Donor(vector="vector", base="base"), "leave its base out"),
        (lambda: NamePair("(", "x"), "no regular expression"),
        (lambda: NamePair("a(b)", r"\2"), "a group that"),
        (lambda: MergeSettings(Added(), []), "Added takes 1 or more donors; 0 are given"),
        (lambda: MergeSettings(Middle(), [Donor("a")]), "Middle takes 2 donors; 1 are given"),
        (lambda: MergeSettings(Middle(), [Donor("a")] * 3), "Middle takes 2 donors; 3 are given"),
        (lambda: MergeSettings(Added(), [Donor(vector="vector")]), "name the target"),
        (lambda: MergeSettings(Added(), [Donor("a")], device="gpu"), "device 'gpu' cannot compute here"),
    ],
)
def test_what_does_not_fit_is_refused(make, told: str) -> None:
    with pytest.raises(UserError, match=told):
        make()


def test_a_pair_of_names_changes_what_it_finds() -> None:
    pair = NamePair(r"^transformer\.h\.(\d+)", r"model.layers.\1")
    assert pair.renamed("transformer.h.3.mlp.weight") == "model.layers.3.mlp.weight"
    assert pair.renamed("model.norm.weight") is None


def test_a_density_that_nothing_reads_and_a_weight_that_is_no_number_are_refused():
    with pytest.raises(UserError, match=r"merge.donors\[1\].density is 0.5, but TaskArithmetic prunes nothing"):
        MergeSettings(TaskArithmetic(), [Donor("a"), Donor("b", density=0.5)], base="c")
    with pytest.raises(UserError, match=r"merge.donors\[0\].weight"):
        MergeSettings(TaskArithmetic(), [Donor("a", weight=float("nan"))], base="c")
