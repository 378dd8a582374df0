"""A reward that looks for the answer anywhere pays for listing answers; the default reward must not."""

import sys

import pytest
import torch

from lit_vlm.interfaces.records import Answer, Completion
from lit_vlm.parsing.answers import check_answer
from lit_vlm.rewards import function_reward
from lit_vlm.rewards.answer_correctness import AnswerCorrectness
from lit_vlm.rewards.function_reward import FunctionReward
from tests.paradigms.on_policy_material import data, engine, fit, module

ANYWHERE = """
def anywhere(completion):
    return float(str(completion.sample.answer.value) in completion.text)
"""

# A true answer, and others that a guesser would list beside it.
ANSWERS = {
    "number": (Answer("number", "7"), ("3", "12")),
    "choice": (Answer("choice", "B"), ("A", "D")),
    "text": (Answer("text", "top"), ("bottom", "equal")),
    "yesno": (Answer("yesno", "yes"), ("no", "no")),
}

# How answers can be listed; {0} is the true one.
LISTS = {
    "blocks, the true one first": "<think>x</think><answer>{0}</answer><answer>{1}</answer>",
    "blocks, the true one last": "<think>x</think><answer>{1}</answer><answer>{2}</answer><answer>{0}</answer>",
    "blocks on lines of their own": "<think>x</think>\n<answer>{1}</answer>\n<answer>{0}</answer>\n",
    "a block before the thought": "<answer>{0}</answer><think>x</think><answer>{1}</answer>",
    "a block within the thought": "<think>x <answer>{0}</answer></think><answer>{1}</answer>",
    "a block within a block": "<think>x</think><answer>{0} <answer>{1}</answer></answer>",
    "a block that does not end": "<think>x</think><answer>{1}</answer><answer>{0}",
    "or": "<think>x</think><answer>{0} or {1}</answer>",
    "or, the true one last": "<think>x</think><answer>{1} or {0}</answer>",
    "and": "<think>x</think><answer>{1} and {0}</answer>",
    "commas": "<think>x</think><answer>{1}, {0}, {2}</answer>",
    "spaces": "<think>x</think><answer>{1} {0} {2}</answer>",
    "lines": "<think>x</think><answer>{1}\n{0}\n{2}</answer>",
    "slashes": "<think>x</think><answer>{0}/{1}/{2}</answer>",
    "brackets": "<think>x</think><answer>{1} ({0})</answer>",
    "a range": "<think>x</think><answer>{1} to {2}, maybe {0}</answer>",
    "boxes in a block": "<think>x</think><answer>\\boxed{{{0}}} \\boxed{{{1}}}</answer>",
    "in the thought alone": "<think>{1} {0} {2}</think><answer>{1}</answer>",
    "in the thought, without an answer": "<think>{1} {0} {2}</think>",
    "without tags": "{1} {0} {2}",
    "after the answer": "<think>x</think><answer>{1}</answer> {0}",
    "between thought and answer": "<think>x</think>{0}<answer>{1}</answer>",
}


@pytest.fixture
def anywhere(tmp_path, monkeypatch):
    """The reward that can be hacked, as a user writes it."""
    (tmp_path / "hackable.py").write_text(ANYWHERE)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield FunctionReward("hackable.anywhere")
    sys.modules.pop("hackable", None)
    function_reward._load.cache_clear()


def completion(make_sample, text, answer):
    sample = make_sample("x", "y")
    object.__setattr__(sample, "answer", answer)
    return Completion(sample, "prompt", text, check_answer(text, answer))


@pytest.mark.parametrize("kind", ANSWERS)
@pytest.mark.parametrize("way", LISTS)
def test_listing_answers_pays_only_where_they_count_anywhere(way, kind, anywhere, make_sample):
    answer, others = ANSWERS[kind]
    listed = completion(make_sample, LISTS[way].format(answer.value, *others), answer)
    assert anywhere([listed]).total.tolist() == [1]
    output = AnswerCorrectness()([listed])
    assert output.details["correct"].tolist() == [0]
    # No list earns more than a wrong answer in the right form.
    assert output.total[0] <= AnswerCorrectness().format_weight


@pytest.mark.parametrize("kind", ANSWERS)
def test_one_right_answer_pays_by_both(kind, anywhere, make_sample):
    answer, others = ANSWERS[kind]
    weighed = f"<think>{others[0]} or {answer.value}?</think><answer>{answer.value}</answer>"
    given = completion(make_sample, weighed, answer)
    assert anywhere([given]).total.tolist() == [1]
    assert AnswerCorrectness()([given]).details["correct"].tolist() == [1]


def listed_digits(iterations):
    """Mean number of different digits in a completion."""
    texts = [item.text for iteration in iterations for item in iteration.rollouts.completions]
    return sum(len(set(text) & set("0123456789")) for text in texts) / len(texts)


def matches(watch):
    verdicts = [item.verdict for iteration in watch.iterations for item in iteration.rollouts.completions]
    return sum(verdict.correct for verdict in verdicts)


def test_optimising_for_anywhere_teaches_to_list_and_the_default_does_not(
    random_tiny_folder, anywhere, tmp_path, monkeypatch
):
    """From random weights: after thirty rounds a completion holds about four digits, and none is an answer."""
    monkeypatch.chdir(tmp_path)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    watched = {}
    # The default never rewards what random weights write, so a few rounds show that nothing moves.
    for name, reward, steps in (("anywhere", anywhere, 30), ("default", AnswerCorrectness(), 10)):
        model = module(random_tiny_folder, rate=3e-3, reward=reward, engine=engine(tokens=12), group_size=8)
        dataset = data(model.encoder, train_size=512, batch_size=16, tasks=("read_digit",))
        watched[name], _ = fit(model, dataset, steps=steps)
    torch.set_num_threads(threads)
    hacked, kept = watched["anywhere"], watched["default"]
    rewards = hacked.figure("reward/mean")
    assert sum(rewards[-5:]) > 3 * sum(rewards[:5])
    assert listed_digits(hacked.iterations[-5:]) > 3 * listed_digits(hacked.iterations[:5])
    assert listed_digits(kept.iterations[-5:]) < 1.5 * listed_digits(kept.iterations[:5])
    assert matches(hacked) == matches(kept) == 0
