"""Generates Knights-and-Knaves puzzles with their solution, a derivation of it, and perturbed twins."""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lit_vlm.data.embedded import EmbeddedDataModule
from lit_vlm.functional.knights_and_knaves import (
    Puzzle,
    Solution,
    canonical_form,
    read_statement,
    relabel,
    relabel_puzzle,
)
from lit_vlm.functional.knights_and_knaves_perturbations import perturb_leaf, perturb_statement
from lit_vlm.functional.knights_and_knaves_sampling import check_sizes, sample_puzzle
from lit_vlm.functional.random_streams import random_stream, stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Sample, SampleMeta, Split, assistant_message, user_message
from lit_vlm.interfaces.roles import SampleEncoder, TaskGenerator
from lit_vlm.parsing.knights_and_knaves import KNIGHT_AND_KNAVE, Roles, describe_puzzle, describe_solution
from lit_vlm.parsing.knights_and_knaves_thought import derive

NAMES = ("Ella", "Bo", "Max", "Ivy", "Leo", "Zoe", "Sam", "Mia", "Tom", "Ada")
UNCOMMON_NAMES = (
    "Thessaly",
    "Oswin",
    "Quillon",
    "Ismene",
    "Peregrine",
    "Zebulon",
    "Eudora",
    "Ludmila",
    "Caspian",
    "Wilhelmina",
)
ROLE_PAIRS = (
    Roles("angel", "devil"),
    Roles("saint", "sinner"),
    Roles("sage", "fool"),
    Roles("noble", "rogue"),
    Roles("pilgrim", "pirate"),
)
PERTURBATIONS = ("statement", "leaf", "random_pair", "flip_role", "uncommon_name", "reorder_statement")
MOST_PEOPLE = 8
# Ten buckets of puzzles: eight for training, one each for validation and test.
_SPLIT_OF_BUCKET: tuple[Split, ...] = (*("train",) * 8, "validation", "test")
_HELD_OUT: tuple[Split, ...] = ("validation", "test")
# A puzzle of two people has a leaf twin in its own small split about once in five.
_PUZZLES_TRIED = 1000


@dataclass(frozen=True)
class _Riddle:
    """A puzzle with its words."""

    puzzle: Puzzle
    names: tuple[str, ...]
    solution: Solution
    roles: Roles = KNIGHT_AND_KNAVE


@dataclass(frozen=True)
class KnightsAndKnavesGenerator(TaskGenerator):
    """Asks who is a knight and who is a knave; every puzzle has one solution and belongs to one split, at any seed.

    Two indices may ask the same puzzle, of other people: with two people and the default sizes there are only 95
    puzzles that differ in more than names and order.
    """

    seed: int = 0
    """Names the data set: another seed gives other samples, but never moves a puzzle to another split."""
    people: tuple[int, ...] = (3,)
    """How many people there are, 2 to 8, drawn uniformly: the difficulty. The derivation's length doubles with each."""
    depth: int = 2
    """Most levels of a statement, at least 2."""
    width: int = 2
    """Most parts of "and" and "or", from 2 to one below twice the fewest people."""
    perturbation: str | None = None
    """Asks twins in place of puzzles: statement, leaf, random_pair, flip_role, uncommon_name or reorder_statement."""

    name = "knights_and_knaves"

    def __post_init__(self) -> None:
        allowed = range(2, MOST_PEOPLE + 1)
        if not self.people or len(set(self.people)) < len(self.people) or not set(self.people) <= set(allowed):
            raise UserError(f"people is {list(self.people)}; choose one or more of {list(allowed)}, each once")
        check_sizes(min(self.people), self.depth, self.width)
        if self.perturbation is not None:
            _check_perturbation(self.perturbation)

    @property
    def tasks(self) -> tuple[str, ...]:
        """One task for each number of people."""
        return tuple(f"people{people}" for people in self.people)

    def sample(self, split: Split, index: int) -> Sample:
        """Builds one puzzle of the split, or with ``perturbation`` the twin of one, itself a puzzle of the split.

        With ``perturbation`` the puzzle is that of the generator without it; where that has no twin, further puzzles
        are drawn until one has.

        Raises:
            UserError: There is no such split, or the settings allow no puzzle in it.
        """
        people, stream = self._drawn(split, index)
        sample_id = self.outline(split, index).id
        riddle = self._draw(people, split, stream)
        if self.perturbation is None:
            return self._ask(sample_id, riddle)
        for _ in range(_PUZZLES_TRIED):
            twin = self._perturb(riddle, self.perturbation, (split,), stream)
            if twin is not None:
                return self._ask(sample_id, twin, self.perturbation)
            riddle = self._draw(people, split, stream)
        raise UserError(
            f"none of {_PUZZLES_TRIED} puzzles of {people} people has a twin by {self.perturbation!r} in {split}; "
            "allow more depth or width, or more people"
        )

    def outline(self, split: Split, index: int) -> Sample:
        """Tells the id, task and difficulty of an example, without looking for a puzzle.

        Raises:
            UserError: There is no such split.
        """
        people, _ = self._drawn(split, index)
        meta = SampleMeta(source=self.name, split=split, category=f"people{people}", difficulty=people)
        ending = () if self.perturbation is None else (self.perturbation,)
        return Sample("/".join((self.name, split, str(self.seed), str(index), *ending)), messages=(), meta=meta)

    def twin(self, sample: Sample, kind: str) -> Sample | None:
        """Builds the perturbed twin of a sample of this generator, the same at each call.

        ``statement`` and ``leaf`` change the puzzle and its solution, the others only words. A changed puzzle is never
        one of training, lest a model has learnt it by heart: the twin of a training puzzle belongs to validation or
        test (see ``meta.split``), any other to the split of its original.

        Returns:
            The twin, or None where none was found: then the sample does not count for memorisation.

        Raises:
            UserError: There is no such perturbation, or the sample is of another source.

        Source:
            Xie et al., On Memorization of Large Language Models in Logical Reasoning (2024), section 2. That twins are
            held out by construction is ours, and makes leaf twins rarer: two to four puzzles in ten of 2 or 3 people.
        """
        _check_perturbation(kind)
        if sample.meta.source != self.name:
            raise UserError(f"sample {sample.id!r} is from {sample.meta.source!r}; only {self.name!r} have twins here")
        known = sample.meta.extra
        names = tuple(known["names"])
        # Read anew, since JSON turns tuples into lists.
        puzzle = tuple(read_statement(statement, len(names)) for statement in known["statements"])
        riddle = _Riddle(puzzle, names, tuple(known["solution"]), Roles(*known["roles"]))
        own = split_of(riddle.puzzle)
        stream = random_stream(self.seed, self.name, "twin", kind, sample.id)
        twin = self._perturb(riddle, kind, _HELD_OUT if own == "train" else (own,), stream)
        return None if twin is None else self._ask(f"{sample.id}/{kind}", twin, kind)

    def _drawn(self, split: Split, index: int) -> tuple[int, random.Random]:
        """Draws the number of people, and returns with it the stream that draws the rest."""
        if split not in _SPLIT_OF_BUCKET:
            raise UserError(f"unknown split {split!r}; there are {', '.join(dict.fromkeys(_SPLIT_OF_BUCKET))}")
        stream = random_stream(self.seed, self.name, split, index)
        return stream.choice(self.people), stream

    def _draw(self, people: int, split: Split, stream: random.Random) -> _Riddle:
        def accepts(puzzle: Puzzle) -> bool:
            return split_of(puzzle) == split

        puzzle, solution = sample_puzzle(people, self.depth, self.width, stream, accepts)
        return _Riddle(puzzle, tuple(stream.sample(NAMES, people)), solution)

    def _perturb(self, riddle: _Riddle, kind: str, splits: Sequence[Split], stream: random.Random) -> _Riddle | None:
        if kind in _WORDINGS:
            return _WORDINGS[kind](riddle, stream)

        def accepts(puzzle: Puzzle) -> bool:
            return split_of(puzzle) in splits

        if kind == "leaf":
            found = perturb_leaf(riddle.puzzle, stream, accepts)
        else:
            found = perturb_statement(riddle.puzzle, self.depth, self.width, stream, accepts)
        return None if found is None else replace(riddle, puzzle=found[0], solution=found[1])

    def _ask(self, sample_id: str, riddle: _Riddle, perturbation: str | None = None) -> Sample:
        puzzle, names, solution, roles = riddle.puzzle, riddle.names, riddle.solution, riddle.roles
        thought = derive(puzzle, names, roles)
        words = describe_solution(solution, names, roles)
        truth = {name: roles.of(is_truthful) for name, is_truthful in zip(names, solution, strict=True)}
        return Sample(
            id=sample_id,
            messages=(
                user_message(describe_puzzle(puzzle, names, roles)),
                assistant_message(f"<think>{thought}</think><answer>{words}</answer>"),
            ),
            answer=Answer("assignment", truth),
            meta=SampleMeta(
                source=self.name,
                split=split_of(puzzle),
                category=f"people{len(puzzle)}",
                difficulty=len(puzzle),
                extra={
                    "statements": puzzle,
                    "names": list(names),
                    "solution": list(solution),
                    "roles": list(roles),
                    "perturbation": perturbation,
                },
            ),
        )


def split_of(puzzle: Puzzle) -> Split:
    """Tells which split a puzzle belongs to, by what is said alone: not by names, roles or the order of people."""
    bucket = stream_seed("knights_and_knaves", canonical_form(puzzle)) % len(_SPLIT_OF_BUCKET)
    return _SPLIT_OF_BUCKET[bucket]


def _check_perturbation(kind: str) -> None:
    if kind not in PERTURBATIONS:
        raise UserError(f"unknown perturbation {kind!r}; there are {', '.join(PERTURBATIONS)}")


def _with_random_pair(riddle: _Riddle, stream: random.Random) -> _Riddle:
    return replace(riddle, roles=stream.choice([pair for pair in ROLE_PAIRS if pair != riddle.roles]))


def _with_flipped_roles(riddle: _Riddle, stream: random.Random) -> _Riddle:
    """Lets knights lie and knaves tell the truth: who tells the truth stays, the words change."""
    return replace(riddle, roles=Roles(riddle.roles.lying, riddle.roles.truthful))


def _with_uncommon_names(riddle: _Riddle, stream: random.Random) -> _Riddle:
    return replace(riddle, names=tuple(stream.sample(UNCOMMON_NAMES, len(riddle.names))))


def _with_reordered_statements(riddle: _Riddle, stream: random.Random) -> _Riddle:
    """Lets the same people say the same in another order."""
    order = list(range(len(riddle.names)))
    while order == sorted(order):
        stream.shuffle(order)
    return replace(
        riddle,
        puzzle=relabel_puzzle(riddle.puzzle, order),
        names=relabel(riddle.names, order),
        solution=relabel(riddle.solution, order),
    )


_WORDINGS: dict[str, Callable[[_Riddle, random.Random], _Riddle]] = {
    "random_pair": _with_random_pair,
    "flip_role": _with_flipped_roles,
    "uncommon_name": _with_uncommon_names,
    "reorder_statement": _with_reordered_statements,
}


class KnightsAndKnaves(EmbeddedDataModule):
    """Serves puzzles of knights, who tell the truth, and knaves, who lie; text only.

    Args:
        encoder: Encodes for the model; the command line fills it in from ``model``.
        people: How many people there are, 2 to 8, drawn uniformly: the difficulty.
        depth: Most levels of a statement, at least 2.
        width: Most parts of "and" and "or", from 2 to one below twice the fewest people.
        perturbation: Asks twins in place of puzzles, see ``KnightsAndKnavesGenerator``.
        seed: Names the data set.
        options: Sizes, batch sizes and workers, see ``EmbeddedDataModule``.
    """

    def __init__(
        self,
        encoder: SampleEncoder | None = None,
        *,
        people: Sequence[int] = (3,),
        depth: int = 2,
        width: int = 2,
        perturbation: str | None = None,
        seed: int = 0,
        **options: Any,
    ) -> None:
        generator = KnightsAndKnavesGenerator(seed, tuple(people), depth, width, perturbation)
        super().__init__([generator], encoder, **options)
