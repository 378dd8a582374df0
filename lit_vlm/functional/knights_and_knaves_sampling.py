"""Draws Knights-and-Knaves puzzles with exactly one solution.

The grammar is that of ``knights_and_knaves``.

Source:
    Xie et al., On Memorization of Large Language Models in Logical Reasoning (2024), section 2 and released generator:
    the die, the depth and width and the different parts are theirs.
"""

import random
from collections.abc import Callable

from lit_vlm.functional.knights_and_knaves import LEAVES, OPERATORS, Puzzle, Solution, Statement, solve
from lit_vlm.interfaces.errors import UserError


def check_sizes(people: int, depth: int, width: int) -> None:
    """Checks that there are puzzles of these sizes with exactly one solution.

    Raises:
        UserError: There are none, or statements could not be drawn.
    """
    if people < 2:
        raise UserError(f"people is {people}; a puzzle needs at least 2")
    if depth < 2:
        # "B is a knight" and "B is a knave" tie two people together or apart, and no more: swapping all roles
        # keeps every such tie, so the solutions come in pairs.
        raise UserError(f"depth is {depth}; puzzles without operators never have exactly one solution, give at least 2")
    if not 2 <= width <= 2 * people - 1:
        raise UserError(
            f"width is {width}; give 2 to {2 * people - 1}, as a speaker among {people} people has {2 * people - 1} "
            "different simple things to say"
        )


def sample_leaf(speaker: int, people: int, stream: random.Random) -> Statement:
    """Draws "person i is a knight" or "… a knave", but never "I am a knave", which nobody can say."""
    while True:
        leaf = (stream.choice(LEAVES), stream.randrange(people))
        if leaf != ("lying", speaker):
            return leaf


def sample_statement(speaker: int, people: int, depth: int, width: int, stream: random.Random) -> Statement:
    """Draws a statement by a die: 0 a leaf, 1 not, 2 and, 3 or, 4 implies, 5 if and only if.

    Args:
        speaker: Who says it.
        people: How many people it may be about.
        depth: Most levels; at 1 only leaves are left.
        width: Most parts of "and" and "or", their number drawn from 2 to ``width``; the parts differ.
        stream: Source of randomness.
    """
    die = stream.randrange(6)
    if depth == 1 or die == 0:
        return sample_leaf(speaker, people, stream)
    count = 1 if die == 1 else stream.randint(2, width) if die < 4 else 2
    parts: list[Statement] = []
    while len(parts) < count:
        part = sample_statement(speaker, people, depth - 1, width, stream)
        if part not in parts:
            parts.append(part)
    return (OPERATORS[die - 1], *parts)


def sample_puzzle(
    people: int,
    depth: int,
    width: int,
    stream: random.Random,
    accepts: Callable[[Puzzle], bool] = lambda puzzle: True,
    tries: int = 100_000,
) -> tuple[Puzzle, Solution]:
    """Draws puzzles until one has exactly one solution and is accepted.

    Returns:
        The puzzle and its solution.

    Raises:
        UserError: The sizes allow no puzzle, or none was found in ``tries`` draws.
    """
    check_sizes(people, depth, width)
    for _ in range(tries):
        puzzle = tuple(sample_statement(speaker, people, depth, width, stream) for speaker in range(people))
        solutions = solve(puzzle)
        if len(solutions) == 1 and accepts(puzzle):
            return puzzle, solutions[0]
    raise UserError(
        f"found no further puzzle of {people} people, depth {depth} and width {width} in {tries} draws; "
        "ask for fewer, or allow more people, depth or width"
    )


def sample_puzzles(
    count: int, people: int, depth: int, width: int, stream: random.Random, tries: int = 100_000
) -> list[tuple[Puzzle, Solution]]:
    """Draws different puzzles, each with exactly one solution.

    Raises:
        UserError: There are not so many puzzles of these sizes, or they are too rare for ``tries`` draws each.
    """
    found: dict[Puzzle, Solution] = {}
    for _ in range(count):
        puzzle, solution = sample_puzzle(people, depth, width, stream, lambda drawn: drawn not in found, tries)
        found[puzzle] = solution
    return list(found.items())
