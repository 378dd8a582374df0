import pytest

from lit_vlm.merging.mixed_donors import MixedDonors, summands
from tests.merging.merge_tensors import mixed, random_mix, same_bits


def test_weights_are_added_up_by_their_shares():
    tensors = mixed([9.0, 9.0], [[1.0, 2.0], [3.0, -2.0]])
    assert MixedDonors(of="values", shares=(1.0, 0.5))(tensors).tolist() == [2.5, 1.0]


def test_differences_are_added_to_the_target():
    tensors = mixed([1.0, 1.0], [[2.0, 1.0], [1.0, 3.0]])
    assert MixedDonors(of="deltas", shares=(0.5, 2.0))(tensors).tolist() == [1.5, 5.0]


@pytest.mark.parametrize("of", ["values", "deltas"])
def test_a_share_of_0_leaves_its_donor_out_whatever_it_holds(of):
    tensors = random_mix(count=2)
    summands(tensors, of)[1].fill_(float("nan"))
    found = MixedDonors(of=of, shares=(1.0, 0.0))(tensors)
    assert same_bits(found, tensors.values[0]) if of == "values" else found.isfinite().all()


def test_no_share_at_all_gives_0_or_the_target():
    tensors = random_mix(count=2)
    assert not MixedDonors(of="values", shares=(0.0, 0.0))(tensors).any()
    assert same_bits(MixedDonors(of="deltas", shares=(0.0, 0.0))(tensors), tensors.target)
