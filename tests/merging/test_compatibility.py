"""Ancestors of models, and messages about all that does not fit."""

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.merging.compatibility import Mismatches, has_other_ancestor


@pytest.mark.parametrize(
    ("donor", "base", "label", "other"),
    [
        ("sft", "start", "sft", False),
        ("sft/", "start", "sft", False),
        ("start", "start", "sft", False),
        ("elsewhere", "start", "sft", True),
        (None, "start", "sft", False),
        ("elsewhere", None, "sft", False),
    ],
)
def test_a_donor_names_its_ancestor(donor: str | None, base: str | None, label: str, other: bool) -> None:
    assert has_other_ancestor({"_name_or_path": donor}, {"_name_or_path": base}, label) is other


def test_all_mismatches_are_listed_by_kind() -> None:
    mismatches = Mismatches()
    mismatches.refuse()
    assert not mismatches
    mismatches.add("it rains")
    for number in range(12):
        mismatches.add("shapes differ", f"w{number}")
        mismatches.add("shapes differ", f"w{number}")
    with pytest.raises(UserError) as caught:
        mismatches.refuse()
    shown = ", ".join(f"w{number}" for number in range(10))
    assert str(caught.value) == f"it rains; shapes differ: {shown} and 2 more"
