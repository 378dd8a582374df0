import random
import re

import pytest

from lit_vlm.functional.knights_and_knaves import evaluate
from lit_vlm.functional.knights_and_knaves_sampling import sample_puzzle
from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing.knights_and_knaves import Roles
from lit_vlm.parsing.knights_and_knaves_thought import derive

NAMES = ("Ella", "Bo", "Max", "Ivy")
TRUTH = {"true": True, "false": False}
OPERATIONS = {
    "and": lambda left, right: left and right,
    "or": lambda left, right: left or right,
    "then": lambda left, right: right if left else True,
    "iff": lambda left, right: left is right,
}


def recompute(value):
    """Works a value out from the truths it starts with, checking every result written on the way."""
    inner = re.search(r"\(([^()]*)\)", value)
    while inner:
        value = value[: inner.start()] + ("true" if recompute(inner[1]) else "false") + value[inner.end() :]
        inner = re.search(r"\(([^()]*)\)", value)
    working, _, result = value.partition(" = ")
    first, *rest = working.split()
    if not result:
        assert not rest
        return TRUTH[first]
    if first == "not":
        (part,) = rest
        truth = not TRUTH[part]
    else:
        truth = TRUTH[first]
        for link, part in zip(rest[::2], rest[1::2], strict=True):
            truth = OPERATIONS[link](truth, TRUTH[part])
    assert truth is TRUTH[result]
    return truth


def truths_of_leaves(statement, roles):
    if statement[0] in ("telling-truth", "lying"):
        return [roles[statement[1]] is (statement[0] == "telling-truth")]
    return [truth for part in statement[1:] for truth in truths_of_leaves(part, roles)]


def verify(thought, puzzle, names, solution, truthful="knight"):
    attempts = re.findall(r"([^:.]+): ([^.]+)\.", thought)
    assert " ".join(f"{head.strip()}: {checks}." for head, checks in attempts) == thought
    tried = []
    for number, (head, checks) in enumerate(attempts):
        words = head.split()
        assert words[::2] == list(names)
        roles = [role == truthful for role in words[1::2]]
        tried.append(roles)
        verdicts = []
        for speaker, check in enumerate(checks.split(", ")):
            name, value, verdict = re.fullmatch(r"(\w+) (.*) (ok|no)", check).groups()
            assert name == names[speaker]
            # The leaves are as assumed; results are written after "=".
            started = re.sub(r"= (true|false)", "", value)
            assert [TRUTH[word] for word in re.findall("true|false", started)] == truths_of_leaves(
                puzzle[speaker], roles
            )
            assert recompute(value) is evaluate(puzzle[speaker], roles)
            assert (verdict == "ok") is (recompute(value) is roles[speaker])
            verdicts.append(verdict)
        is_last = number == len(attempts) - 1
        assert verdicts == ["ok"] * len(names) if is_last else verdicts == ["ok"] * (len(verdicts) - 1) + ["no"]
    assert tuple(tried[-1]) == solution
    binary = [sum((not role) << place for place, role in enumerate(reversed(roles))) for roles in tried]
    assert binary == list(range(len(tried)))


def test_a_derivation_worked_by_hand():
    # Ella: "Bo is a knave"; Bo: "both of us are knaves".
    puzzle = (("lying", 1), ("and", ("lying", 0), ("lying", 1)))
    assert derive(puzzle, NAMES[:2]) == (
        "Ella knight Bo knight: Ella false no. Ella knight Bo knave: Ella true ok, Bo false and true = false ok."
    )


def test_parts_are_worked_out_before_the_whole():
    puzzle = (("not", ("->", ("telling-truth", 0), ("not", ("lying", 1)))), ("telling-truth", 1))
    assert derive(puzzle, NAMES[:2]).startswith(
        "Ella knight Bo knight: Ella not (true then (not false = true) = true) = false no. "
        "Ella knight Bo knave: Ella not (true then (not true = false) = false) = true ok, Bo false ok."
    )


@pytest.mark.parametrize(
    ("people", "depth", "width", "count"), [(2, 2, 2, 150), (3, 2, 2, 100), (3, 4, 3, 40), (4, 2, 2, 30)]
)
def test_every_step_of_a_derivation_can_be_verified(people, depth, width, count):
    stream = random.Random(0)
    for _ in range(count):
        puzzle, solution = sample_puzzle(people, depth, width, stream)
        names = NAMES[:people]
        verify(derive(puzzle, names), puzzle, names, solution)


def test_a_derivation_uses_the_roles_given():
    puzzle, solution = sample_puzzle(2, 2, 2, random.Random(0))
    thought = derive(puzzle, NAMES[:2], Roles("knave", "knight"))
    verify(thought, puzzle, NAMES[:2], solution, truthful="knave")


def test_a_derivation_for_two_people_is_short():
    stream = random.Random(0)
    lengths = [len(derive(sample_puzzle(2, 2, 2, stream)[0], NAMES[:2]).split()) for _ in range(200)]
    assert sum(lengths) / len(lengths) < 45
    assert max(lengths) <= 72  # Four attempts of four assumed words, and two checks of seven words each.


def test_a_puzzle_without_solution_cannot_be_derived():
    with pytest.raises(UserError, match="has no solution"):
        derive((("lying", 0), ("telling-truth", 0)), NAMES[:2])
