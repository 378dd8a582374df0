from contextlib import nullcontext
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch

from lit_vlm.callbacks.sequential_refinement import SequentialRefinement
from lit_vlm.functional.intervals import wilson_interval
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Completion, Sample, user_message
from lit_vlm.parsing.answers import check_answer

RIGHT, WRONG, OTHER, SILENT = (f"<answer>{text}</answer>" for text in ("7", "3", "4", ""))


class Policy:
    """Writes at each turn what a sample's script says."""

    def __init__(self, scripts):
        self.scripts = scripts
        self.asked = []
        self.logged = {}

    def completion_log_probs(self, samples):
        raise AssertionError

    rewards_of = completion_log_probs

    def complete(self, samples):
        torch.rand(3)
        self.asked.append(list(samples))
        texts = [self.scripts[sample.id][(len(sample.messages) - 1) // 2] for sample in samples]
        return [
            Completion(sample, "", text, None if sample.answer is None else check_answer(text, sample.answer))
            for sample, text in zip(samples, texts, strict=True)
        ]

    def log(self, name, value, batch_size):
        self.logged[name] = value


class Data(list):
    """Serves a list as every split."""

    def prepared(self, split):
        return self


def question(name):
    return Sample(name, (user_message("Which digit?"),), answer=Answer("number", "7"))


def trainer_of(samples, rank=0, ranks=1):
    return SimpleNamespace(
        datamodule=Data(samples),
        global_rank=rank,
        world_size=ranks,
        global_step=0,
        precision_plugin=SimpleNamespace(val_step_context=nullcontext),
    )


def measure(policy, served, **settings):
    callback = SequentialRefinement(**settings)
    trainer = trainer_of(served)
    callback.setup(trainer, policy, "fit")
    callback.on_validation_epoch_end(trainer, policy)
    return policy.logged


SCRIPTS = {
    "steady": (RIGHT, RIGHT, RIGHT),
    "spoilt": (RIGHT, WRONG, OTHER),
    "mended": (WRONG, RIGHT, RIGHT),
    "lost": (WRONG, OTHER, WRONG),
}


def test_turns_majorities_and_the_oracle_are_shares_of_the_questions() -> None:
    figures = measure(Policy(SCRIPTS), [question(name) for name in SCRIPTS], turns=3, batch_size=3)
    shares = {name: value for name, value in figures.items() if not name.endswith(("_low", "_high", "_total"))}
    assert shares == {
        "validation/turns/exact_match_1": 2 / 4,  # steady, spoilt
        "validation/turns/exact_match_2": 2 / 4,  # steady, mended
        "validation/turns/exact_match_3": 2 / 4,
        "validation/turns/majority_2": 2 / 4,  # ties go to the first turn
        "validation/turns/majority_3": 3 / 4,  # spoilt: three answers tie; mended: two of three
        "validation/turns/oracle_2": 3 / 4,
        "validation/turns/oracle_3": 3 / 4,
    }
    assert figures["validation/turns/majority_3_total"] == 4
    low, high = wilson_interval(3, 4)
    assert figures["validation/turns/majority_3_low"] == pytest.approx(low)
    assert figures["validation/turns/majority_3_high"] == pytest.approx(high)


def test_each_turn_shows_all_earlier_answers_with_the_feedback() -> None:
    policy = Policy(SCRIPTS)
    measure(policy, [question("spoilt")], turns=3, feedback="No.")
    assert [len(asked) for asked in policy.asked] == [1, 1, 1]
    (last,) = policy.asked[2]
    assert [message.text for message in last.messages] == ["Which digit?", RIGHT, "No.", WRONG, "No."]
    # It hears that it is wrong whether it is or not.
    assert not any(message.train for message in last.messages)


def test_a_reference_answer_is_not_shown() -> None:
    policy = Policy(SCRIPTS)
    sample = question("lost")
    measure(policy, [replace(sample, messages=(*sample.messages,))], turns=2)
    assert policy.asked[1][0].messages[-1].role == "user"


def test_the_majority_is_of_readable_answers() -> None:
    figures = measure(Policy({"a": (SILENT, RIGHT)}), [question("a")], turns=2)
    assert figures["validation/turns/majority_2"] == 1


def test_questions_without_an_answer_do_not_count() -> None:
    samples = [question("steady"), replace(question("lost"), answer=None)]
    figures = measure(Policy(SCRIPTS), samples, turns=2)
    assert figures["validation/turns/exact_match_1"] == 1
    assert figures["validation/turns/exact_match_1_total"] == 1
    with pytest.raises(UserError, match="none of the 1 validation samples has an answer"):
        measure(Policy(SCRIPTS), samples[1:])


def test_only_the_first_samples_are_asked() -> None:
    policy = Policy(SCRIPTS)
    assert measure(policy, [question(name) for name in SCRIPTS], samples=2)["validation/turns/oracle_2_total"] == 2
    assert {sample.id for asked in policy.asked for sample in asked} == {"steady", "spoilt"}


def test_random_streams_stay_as_they_were() -> None:
    torch.manual_seed(1)
    wanted = torch.rand(1)
    torch.manual_seed(1)
    measure(Policy(SCRIPTS), [question("lost")])
    assert torch.rand(1) == wanted


def test_the_test_split_has_its_own_prefix_and_a_line(caplog) -> None:
    policy = Policy(SCRIPTS)
    with caplog.at_level("INFO"):
        SequentialRefinement(turns=2).on_test_epoch_end(trainer_of([question("mended")]), policy)
    assert policy.logged["test/turns/exact_match_2"] == 1
    assert "right by turn 0.0 %, 100.0 % | majority 0.0 % | stopping when right 100.0 %" in caplog.text


def test_ranks_ask_their_own_samples_equally_often(monkeypatch) -> None:
    sums = []
    monkeypatch.setattr(
        "lit_vlm.callbacks.asked_samples.RolloutCallback.sum_over_ranks",
        lambda trainer, value: sums.append(value) or value,
    )
    samples = [question(name) for name in ("steady", "spoilt", "mended")]
    calls = []
    for rank in range(2):
        policy = Policy(SCRIPTS)
        callback = SequentialRefinement(turns=2, batch_size=1)
        callback.on_validation_epoch_end(trainer_of(samples, rank, 2), policy)
        calls.append(len(policy.asked))
    assert calls == [4, 4]
    # Asked; right at turns 1 and 2; majorities; so far. Rank 0 has steady and mended, rank 1 spoilt.
    assert [value.tolist() for value in sums] == [[2, 1, 2, 1, 1, 1, 2], [1, 1, 0, 1, 1, 1, 1]]


@pytest.mark.parametrize(("name", "value"), [("turns", 1), ("samples", 0), ("batch_size", 0), ("feedback", " ")])
def test_settings_out_of_range_are_refused(name, value) -> None:
    with pytest.raises(UserError, match=f"SequentialRefinement.{name} is"):
        SequentialRefinement(**{name: value})


def test_a_module_that_cannot_be_asked_and_data_without_samples_are_refused() -> None:
    with pytest.raises(UserError, match="asks a policy about samples, which object does not offer"):
        SequentialRefinement().setup(trainer_of([]), object(), "fit")
    trainer = trainer_of([])
    trainer.datamodule = object()
    with pytest.raises(UserError, match="reads single samples, which the data"):
        SequentialRefinement().setup(trainer, Policy({}), "fit")
