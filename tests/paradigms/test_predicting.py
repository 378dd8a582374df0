import math
from dataclasses import replace

import lightning
import pytest
import torch

from lit_vlm.data.digits_reasoning import DigitsReasoning
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import DescribesCompletions
from lit_vlm.interfaces.records import RewardOutput, Verdict
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.dpo import DPOModule
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.predicting import (
    ledger_header,
    predict_completions,
    prediction_engine,
    prediction_seed,
    with_rewards,
)
from lit_vlm.paradigms.sft import SFTModule
from lit_vlm.parsing.answers import check_answer
from lit_vlm.rewards.answer_correctness import AnswerCorrectness

SAMPLED = GenerationSettings(max_new_tokens=6, temperature=1.0, completions=3)
GREEDY = GenerationSettings(max_new_tokens=6)


@pytest.fixture
def samples(make_sample):
    """Four samples of different lengths, one without an image."""
    return [make_sample("b " * (place + 1), "1", images=place % 2, sample_id=f"s{place}") for place in range(4)]


@pytest.fixture
def predict(random_tiny_model, random_tiny_encoder):
    def run(samples, settings=SAMPLED, run_seed=0, reward=None, verdict_of=None):
        judged = verdict_of or (lambda sample, text: check_answer(text, sample.answer))
        prompts = random_tiny_encoder.encode_prompts(samples)
        return predict_completions(
            random_tiny_model,
            random_tiny_encoder,
            prompts,
            settings,
            run_seed=run_seed,
            verdict_of=judged,
            reward=reward,
        )

    return run


def comparable(completion):
    """What must not depend on the batch; figures but for the rounding of sums."""
    return (completion.sample.id, completion.index, completion.token_ids, completion.text, completion.seed)


def test_each_prompt_gets_its_completions_with_all_that_is_known(predict, samples, random_tiny_encoder):
    completions = predict(samples)
    assert [(item.sample.id, item.index) for item in completions] == [(f"s{a}", b) for a in range(4) for b in range(3)]
    end = random_tiny_encoder.tokenizer.eos_token_id
    for item in completions:
        assert item.token_count == len(item.token_ids) == len(item.log_probs) == len(item.entropies) > 0
        assert item.log_prob_sum == pytest.approx(sum(item.log_probs), abs=1e-4)
        assert all(value < 0 for value in item.log_probs)
        assert all(value >= 0 for value in item.entropies)
        assert item.text == random_tiny_encoder.decode(item.token_ids)
        assert item.finish_reason == ("stop" if end in item.token_ids else "length")
        assert item.finish_reason == "stop" or item.token_count == SAMPLED.max_new_tokens
        assert item.verdict is not None
        assert item.rewards == {}
    assert len({item.token_ids for item in completions}) > 4


def test_completions_do_not_depend_on_their_batch_or_what_was_done_before(predict, samples):
    together = [comparable(item) for item in predict(samples)]
    alone = [comparable(item) for sample in reversed(samples) for item in predict([sample])]
    assert sorted(alone) == together
    more = predict(samples, replace(SAMPLED, completions=5))
    assert [comparable(item) for item in more if item.index < 3] == together


def test_another_seed_of_the_run_gives_others(predict, samples):
    first, other = ([item.token_ids for item in predict(samples, run_seed=seed)] for seed in (0, 1))
    assert first != other
    assert len({prediction_seed(seed, name) for seed in (0, 1) for name in ("a", "b")}) == 4


def test_a_greedy_completion_reads_as_validation_has_it(predict, samples, random_tiny_model, random_tiny_encoder):
    prompts = random_tiny_encoder.encode_prompts(samples)
    generated = random_tiny_model.generate(prompts, GREEDY)
    completions = predict(samples, GREEDY)
    assert [list(item.token_ids) for item in completions] == generated


def test_verdicts_are_the_modules_own(predict, samples):
    seen = []

    def verdict_of(sample, text):
        seen.append((sample.id, text))
        return None if sample.id == "s0" else Verdict(True, "judged", True)

    completions = predict(samples, verdict_of=verdict_of)
    assert seen == [(item.sample.id, item.text) for item in completions]
    assert [item.verdict for item in completions[:3]] == [None] * 3
    assert {item.verdict.parsed for item in completions[3:]} == {"judged"}


def test_rewards_that_apply_are_added_by_name(predict, samples):
    def reward(completions):
        scores = [None, *(float(place) for place in range(1, len(completions)))]
        length = torch.tensor([float(item.token_count) for item in completions])
        return RewardOutput.of_scores(scores, {"length": length, "never": torch.full_like(length, math.nan)})

    completions = predict(samples, reward=reward)
    assert completions[0].rewards == {"length": completions[0].token_count}
    assert completions[5].rewards == {"length": completions[5].token_count, "total": 5.0}
    assert with_rewards([], lambda completions: RewardOutput.of_scores([])) == []


def test_a_prompt_that_leaves_no_room_is_named(predict, samples, random_tiny_model):
    most = random_tiny_model.context_tokens
    with pytest.raises(UserError, match=f"the model's context holds {most}"):
        predict(samples, replace(SAMPLED, max_new_tokens=most))


def test_the_engine_samples_as_the_settings_say():
    sampling = prediction_engine(GenerationSettings(7, 0.5, 0.9, 11, completions=2)).sampling
    assert (sampling.max_new_tokens, sampling.temperature, sampling.top_p, sampling.top_k) == (7, 0.5, 0.9, 11)


def test_the_header_tells_weights_and_template(random_tiny_model, random_tiny_encoder):
    def header():
        return ledger_header(random_tiny_model, random_tiny_encoder, Backbone("/a/folder/name/"), SAMPLED, 5)

    first = header()
    assert (first.model, first.completions, first.seed, first.config_hash) == ("name", 3, 5, "")
    assert first.sampling == {"max_new_tokens": 6, "temperature": 1.0, "top_p": 1.0, "top_k": 0}
    assert header() == first
    weight = next(random_tiny_model.parameters())
    with torch.no_grad():
        weight.add_(1.0)
        changed = header()
        weight.sub_(1.0)
    assert changed.model_hash != first.model_hash
    assert replace(changed, model_hash=first.model_hash) == first


@pytest.mark.filterwarnings("ignore:.*does not have many workers.*")
@pytest.mark.parametrize("paradigm", [SFTModule, GRPOModule, DPOModule])
def test_paradigms_predict_in_batches_of_any_size(random_tiny_folder, paradigm):
    written = []
    for batch_size in (1, 3):
        module = paradigm(Backbone(str(random_tiny_folder)), generation=SAMPLED, reward=AnswerCorrectness())
        data = DigitsReasoning(module.encoder, test_size=3, evaluation_batch_size=batch_size, num_workers=0)
        trainer = lightning.Trainer(
            accelerator="cpu", logger=False, enable_progress_bar=False, use_distributed_sampler=False
        )
        batches = trainer.predict(module, data)
        written.append([item for batch in batches for item in batch])
    assert [comparable(item) for item in written[0]] == [comparable(item) for item in written[1]]
    assert len(written[0]) == 9
    assert all(item.rewards["total"] == float(item.verdict.correct) for item in written[0])
    assert isinstance(module, DescribesCompletions)
    assert module.ledger_header().completions == 3
