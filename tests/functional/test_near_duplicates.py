import random

import pytest

from lit_vlm.functional.near_duplicates import first_similar, jaccard, shingles


def plain(sets, threshold):
    """The same by comparing every two."""
    staying, found = [], []
    for place, members in enumerate(sets):
        like = next((other for other in staying if jaccard(sets[other], members) >= threshold - 1e-9), None)
        found.append(like)
        if like is None:
            staying.append(place)
    return found


@pytest.mark.parametrize("threshold", [0.05, 0.3, 0.5, 2 / 3, 0.8, 1.0])
def test_it_finds_what_comparing_every_two_finds(threshold):
    stream = random.Random(0)
    for _ in range(60):
        sets = [frozenset(stream.choices("abcdefghij", k=stream.randint(0, 9))) for _ in range(25)]
        assert first_similar(sets, threshold) == plain(sets, threshold)


def test_similarity_is_the_share_in_common():
    # {a, b, c} and {b, c, d} share 2 of 4.
    assert jaccard(frozenset("abc"), frozenset("bcd")) == 0.5
    assert jaccard(frozenset(), frozenset()) == 1.0
    assert jaccard(frozenset("a"), frozenset()) == 0.0


def test_a_threshold_is_reached_on_paper():
    # 2 of 3: 0.666... in floating point, whichever way it is rounded.
    assert first_similar([frozenset("ab"), frozenset("abc")], 2 / 3) == [None, 0]
    assert first_similar([frozenset("ab"), frozenset("abc")], 0.67) == [None, None]


def test_those_that_stay_are_not_alike():
    stream = random.Random(1)
    sets = [frozenset(stream.choices("abcdefgh", k=5)) for _ in range(80)]
    found = first_similar(sets, 0.5)
    staying = [members for members, like in zip(sets, found, strict=True) if like is None]
    assert 1 < len(staying) < 80
    assert first_similar(staying, 0.5) == [None] * len(staying)


def test_nothing_gives_nothing():
    assert first_similar([], 0.5) == []
    assert first_similar([frozenset(), frozenset("a"), frozenset()], 0.5) == [None, None, 0]


def test_runs_of_characters_are_evened_out():
    assert shingles("Ab\n c", 3) == {"ab ", "b c"}
    assert shingles("ab", 3) == {"ab"}
    assert shingles(" \n", 3) == frozenset()


def test_the_work_grows_with_the_texts(assert_linear):
    def work(size):
        stream = random.Random(2)
        texts = ["".join(stream.choices("abcdefghijklmnopqrstuvwxyz", k=30)) for _ in range(size)]
        first_similar([shingles(text, 5) for text in texts], 0.8)

    assert_linear(work, 4000)
