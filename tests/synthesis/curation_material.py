"""Random sets of samples with candidates, and what must hold of every operator over them."""

import random
from dataclasses import replace

from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.records import Answer, Candidate, Sample, SampleMeta, assistant_message, user_message

WORDS = ("one", "two", "three", "wait", "so")


def random_sample(stream: random.Random, number: int) -> Sample:
    """A question with graded and judged candidates, many of which repeat one another."""
    judged = [None, "right", "wrong"]
    candidates = []
    for _ in range(stream.randint(1, 5)):
        text = " ".join(stream.choices(WORDS, k=stream.randint(1, 4)))
        critique = Critique("?", text, verdict=stream.choice(judged), score=stream.choice([None, 0.2, 0.9]))
        scores = {"correct": float(stream.random() < 0.5), "length": float(len(text))}
        candidates.append(
            Candidate((assistant_message(text),), scores, critique=stream.choice([None, critique, critique]))
        )
    return Sample(
        id=f"s{number}",
        messages=(user_message(" ".join(stream.choices(WORDS, k=stream.randint(1, 5)))),),
        answer=Answer("number", stream.choice("78")),
        meta=SampleMeta(source="set", category=stream.choice("ab"), difficulty=stream.randint(1, 2)),
        candidates=tuple(candidates),
    )


def random_sets(count: int = 25) -> list[list[Sample]]:
    """Sets of several sizes, one of them empty; every other one all of one sort of candidates judged."""
    stream = random.Random(7)
    sets = [[random_sample(stream, number) for number in range(stream.randint(2, 30))] for _ in range(count)]
    return [[], *sets]


def check_properties(operator, samples, *, again_same=True):
    """Checks an operator on one set: what it keeps is given, in the order given; again it gives the same."""
    before = list(samples)
    kept, reasons = operator.with_reasons(samples)
    assert samples == before
    assert operator(samples) == kept
    if again_same:
        assert operator(kept) == kept
    places = {sample.id: place for place, sample in enumerate(samples)}
    order = [places[sample.id] for sample in kept]
    assert order == sorted(set(order))
    lost = 0
    for sample in kept:
        given = samples[places[sample.id]]
        assert replace(sample, candidates=(), meta=given.meta) == replace(given, candidates=())
        remaining = iter(given.candidates)
        assert all(any(candidate is other for other in remaining) for candidate in sample.candidates)
        lost += len(given.candidates) - len(sample.candidates)
    counted = {kind: sum(n for reason, n in reasons.items() if reason.startswith(kind)) for kind in ("samples", "cand")}
    assert counted["samples"] + sum(n for reason, n in reasons.items() if reason.startswith("questions")) == len(
        samples
    ) - len(kept)
    emptied = [sample for sample in samples if sample.id not in {one.id for one in kept}]
    most = lost + sum(len(sample.candidates) for sample in emptied)
    assert lost <= counted["cand"] <= most
    return kept
