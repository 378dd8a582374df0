import itertools
import json
from collections import Counter
from dataclasses import replace

import pytest

from lit_vlm.data.knights_and_knaves import (
    PERTURBATIONS,
    ROLE_PAIRS,
    UNCOMMON_NAMES,
    KnightsAndKnavesGenerator,
    split_of,
)
from lit_vlm.functional.knights_and_knaves import LEAVES, canonical_form, evaluate, relabel_puzzle, solve
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer
from lit_vlm.parsing.answers import check_answer
from lit_vlm.parsing.knights_and_knaves import Roles, describe_puzzle, read_claims

SPLITS = ("train", "validation", "test")
WORDINGS = ("random_pair", "flip_role", "uncommon_name", "reorder_statement")


def samples(count=100, split="train", **settings):
    generator = KnightsAndKnavesGenerator(**settings)
    return [generator.sample(split, index) for index in range(count)]


def puzzle_of(sample):
    return sample.meta.extra["statements"]


def puzzles_of_two_people():
    """Lists what the default sizes can say, for two people."""
    said = []
    for speaker in range(2):
        leaves = [(kind, person) for kind in LEAVES for person in range(2) if (kind, person) != ("lying", speaker)]
        compound = [(kind, *pair) for kind in ("and", "or", "->", "<=>") for pair in itertools.permutations(leaves, 2)]
        said.append([*leaves, *(("not", leaf) for leaf in leaves), *compound])
    return [puzzle for puzzle in itertools.product(*said) if len(solve(puzzle)) == 1]


def test_the_answer_is_the_one_consistent_assignment():
    for split in SPLITS:
        for sample in samples(split=split):
            names, roles = sample.meta.extra["names"], list(sample.answer.value.values())
            truth = [role == "knight" for role in roles]
            consistent = [
                list(assumed)
                for assumed in itertools.product((True, False), repeat=len(names))
                if all(evaluate(said, assumed) is one for said, one in zip(puzzle_of(sample), assumed, strict=True))
            ]
            assert consistent == [truth] == [sample.meta.extra["solution"]]
            assert list(sample.answer.value) == names
            assert sample.question == describe_puzzle(puzzle_of(sample), names)


def test_the_assistant_turn_is_judged_right_and_a_flipped_one_wrong():
    for sample in samples(50):
        text = sample.messages[-1].text
        verdict = check_answer(text, sample.answer)
        assert verdict.correct
        assert verdict.formatted
        flipped = {name: "knave" if role == "knight" else "knight" for name, role in sample.answer.value.items()}
        assert not check_answer(text, Answer("assignment", flipped)).correct


def test_the_thought_ends_with_the_assumptions_that_the_answer_states():
    for sample in samples(50):
        thought, _, answer = sample.messages[-1].text.partition("</think>")
        last = thought.rstrip(".").rsplit(". ", 1)[-1].removeprefix("<think>").partition(":")[0].split()
        assert dict(zip(last[::2], last[1::2], strict=True)) == sample.answer.value
        assert [(name, role == "knight") for name, role in sample.answer.value.items()] == read_claims(
            answer, list(sample.answer.value)
        )


def test_a_sample_tells_its_kind():
    sample = KnightsAndKnavesGenerator(seed=3, people=(4,)).sample("test", 7)
    assert sample.id == "knights_and_knaves/test/3/7"
    assert sample.meta.source == "knights_and_knaves"
    assert (sample.meta.split, sample.meta.category, sample.meta.difficulty) == ("test", "people4", 4)
    assert sample.images == ()
    assert [message.role for message in sample.messages] == ["user", "assistant"]


def test_a_sample_depends_on_seed_split_and_index_alone():
    assert samples(20) == samples(20)
    assert samples(20)[7] == KnightsAndKnavesGenerator().sample("train", 7)
    texts = [[sample.question for sample in samples(20, split, seed=seed)] for seed in (0, 1) for split in SPLITS]
    for first, second in itertools.combinations(texts, 2):
        assert len(set(first) & set(second)) < 3


def test_every_number_of_people_is_asked():
    generator = KnightsAndKnavesGenerator(people=(3, 2))
    assert generator.tasks == ("people3", "people2")
    counts = Counter(sample.meta.category for sample in samples(200, people=(3, 2)))
    assert set(counts) == {"people2", "people3"}
    assert min(counts.values()) > 70
    assert len(KnightsAndKnavesGenerator(people=(8,)).sample("test", 0).answer.value) == 8


def test_no_puzzle_is_in_two_splits_whatever_seed_names_or_order():
    forms = {
        split: {canonical_form(puzzle_of(sample)) for seed in (0, 1) for sample in samples(150, split, seed=seed)}
        for split in SPLITS
    }
    for first, second in itertools.combinations(SPLITS, 2):
        assert not forms[first] & forms[second]
    for puzzle in puzzles_of_two_people():
        assert split_of(puzzle) == split_of(relabel_puzzle(puzzle, (1, 0)))


def test_every_split_has_puzzles_of_two_people():
    forms = {canonical_form(puzzle): split_of(puzzle) for puzzle in puzzles_of_two_people()}
    assert len(forms) == 95
    assert Counter(forms.values()) == {"train": 74, "validation": 9, "test": 12}


@pytest.mark.parametrize("kind", ["statement", "leaf"])
@pytest.mark.parametrize("split", ["train", "test"])
def test_a_changed_twin_has_another_solution_and_is_no_training_puzzle(kind, split):
    generator = KnightsAndKnavesGenerator(people=(3, 4))
    pairs = [(sample, generator.twin(sample, kind)) for sample in samples(40, split, people=(3, 4))]
    pairs = [(sample, twin) for sample, twin in pairs if twin is not None]
    assert len(pairs) > 5
    for sample, twin in pairs:
        changed = sum(left != right for left, right in zip(puzzle_of(sample), puzzle_of(twin), strict=True))
        assert changed == 1
        assert [tuple(twin.meta.extra["solution"])] == solve(puzzle_of(twin))
        assert twin.answer.value != sample.answer.value
        assert list(twin.answer.value) == list(sample.answer.value)
        assert twin.meta.split == split_of(puzzle_of(twin))
        assert twin.meta.split in (("validation", "test") if split == "train" else (split,))
        assert check_answer(twin.messages[-1].text, twin.answer).correct


@pytest.mark.parametrize("kind", WORDINGS)
def test_a_reworded_twin_is_the_same_puzzle_with_the_same_solution(kind):
    generator = KnightsAndKnavesGenerator()
    for sample in samples(30):
        twin = generator.twin(sample, kind)
        assert twin.question != sample.question
        assert canonical_form(puzzle_of(twin)) == canonical_form(puzzle_of(sample))
        assert twin.meta.split == "train"
        assert sorted(twin.meta.extra["solution"]) == sorted(sample.meta.extra["solution"])
        assert check_answer(twin.messages[-1].text, twin.answer).correct
        assert twin.meta.extra["perturbation"] == kind
        assert twin.id == f"{sample.id}/{kind}"


def test_each_rewording_changes_what_it_names():
    generator = KnightsAndKnavesGenerator()
    sample = generator.sample("train", 0)
    truth = sample.answer.value
    swapped = {"knight": "knave", "knave": "knight"}

    reordered = generator.twin(sample, "reorder_statement")
    assert reordered.answer.value == truth
    assert list(reordered.answer.value) != list(truth)
    assert sorted(reordered.question.split(". ")) == sorted(sample.question.split(". "))

    flipped = generator.twin(sample, "flip_role")
    assert flipped.answer.value == {name: swapped[role] for name, role in truth.items()}
    assert flipped.question.startswith("Knaves tell the truth, knights lie.")
    assert puzzle_of(flipped) == puzzle_of(sample)

    paired = generator.twin(sample, "random_pair")
    roles = Roles(*paired.meta.extra["roles"])
    assert roles in ROLE_PAIRS
    assert paired.answer.value == {name: roles.of(role == "knight") for name, role in truth.items()}
    assert "kn" not in paired.question.casefold()

    renamed = generator.twin(sample, "uncommon_name")
    assert set(renamed.answer.value) <= set(UNCOMMON_NAMES)
    assert list(renamed.answer.value.values()) == list(truth.values())


def test_a_twin_is_the_same_at_each_call_and_after_a_round_trip_through_json():
    generator = KnightsAndKnavesGenerator()
    for index, kind in enumerate(PERTURBATIONS):
        sample = generator.sample("train", index)
        stored = replace(sample, meta=replace(sample.meta, extra=json.loads(json.dumps(sample.meta.extra))))
        assert generator.twin(sample, kind) == generator.twin(sample, kind) == generator.twin(stored, kind)


def test_twins_of_twins_keep_what_was_changed():
    generator = KnightsAndKnavesGenerator()
    twin = generator.twin(generator.twin(generator.sample("train", 0), "random_pair"), "flip_role")
    truthful, lying = twin.meta.extra["roles"]
    assert Roles(lying, truthful) in ROLE_PAIRS


def test_some_puzzles_have_no_twin():
    generator = KnightsAndKnavesGenerator(people=(2,))
    assert None in [generator.twin(generator.sample("test", index), "leaf") for index in range(10)]


@pytest.mark.parametrize("kind", PERTURBATIONS)
@pytest.mark.parametrize("split", SPLITS)
def test_a_perturbing_generator_asks_twins_of_the_split(kind, split):
    for sample in samples(4, split, perturbation=kind):
        assert sample.meta.split == split == split_of(puzzle_of(sample))
        assert sample.meta.extra["perturbation"] == kind
        assert sample.id.endswith(f"/{kind}")
        assert check_answer(sample.messages[-1].text, sample.answer).correct


def test_a_perturbing_generator_rewords_the_puzzles_of_the_plain_one():
    for plain, reworded in zip(samples(20), samples(20, perturbation="flip_role"), strict=True):
        assert puzzle_of(reworded) == puzzle_of(plain)
        assert reworded.meta.extra["names"] == plain.meta.extra["names"]


def test_the_sizes_of_statements_are_settings():
    questions = " ".join(sample.question for sample in samples(30, depth=3, width=3))
    assert "(" in questions
    assert "(" not in " ".join(sample.question for sample in samples(100))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"people": ()}, r"people is \[\]; choose one or more"),
        ({"people": (1,)}, r"people is \[1\]"),
        ({"people": (2, 9)}, r"people is \[2, 9\]"),
        ({"people": (3, 3)}, "each once"),
        ({"depth": 1}, "depth is 1; puzzles without operators never have exactly one solution"),
        ({"people": (2,), "width": 1}, "width is 1; give 2 to 3"),
        (
            {"people": (2,), "width": 4},
            "width is 4; give 2 to 3, as a speaker among 2 people has 3 different simple things to say",
        ),
        ({"perturbation": "typo"}, "unknown perturbation 'typo'; there are statement, leaf, random_pair"),
    ],
)
def test_settings_that_cannot_be_served_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        KnightsAndKnavesGenerator(**settings)


def test_an_unknown_split_is_refused():
    with pytest.raises(UserError, match="unknown split 'dev'; there are train, validation, test"):
        KnightsAndKnavesGenerator().sample("dev", 0)


def test_twins_of_unknown_kinds_and_of_other_sources_are_refused(image_sample):
    generator = KnightsAndKnavesGenerator()
    with pytest.raises(UserError, match="unknown perturbation 'typo'"):
        generator.twin(generator.sample("train", 0), "typo")
    with pytest.raises(UserError, match="is from 'test'; only 'knights_and_knaves' have twins here"):
        generator.twin(image_sample, "leaf")


def test_the_data_module_serves_the_generator():
    from lit_vlm.data.knights_and_knaves import KnightsAndKnaves

    data = KnightsAndKnaves(people=[3], train_size=3, seed=4)
    assert data.tasks == ("people3",)
    assert data.samples("train")[1].messages == KnightsAndKnavesGenerator(4, (3,)).sample("train", 1).messages
