"""Completions that are compared: the tokens of training, each prompt once, equal to a row for each."""

from dataclasses import replace

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import Candidate, MediaRef, Message, Preference, Sample, TextPart, assistant_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.synthesis.image_corruption import ImageCorruption
from tests.models.families import test_contract as contract
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY, WITH_VIDEO


def turns(*texts):
    return tuple(map(assistant_message, texts))


def paired(sample, *pairs, **options):
    preferences = tuple(
        Preference(turns(good), () if bad is None else turns(bad), **options)
        for good, bad in pairs or [("i see 7.", "8")]
    )
    return replace(sample, messages=sample.prompt, preferences=preferences)


def sums(model, batch, prefix):
    scores = model.score_rollouts(batch.prompts, batch.token_ids, batch.mask, batch.prompt_of, prefix=prefix)
    return (scores.log_probs * batch.counted).sum(1)


def test_completions_have_the_tokens_of_training(random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode_pairs([paired(image_sample, (image_sample.messages[-1].text, "no"))])
    row = random_tiny_encoder.encode([image_sample])
    prompt = batch.prompts.input_ids[0]
    chosen = batch.token_ids[batch.chosen[0]][batch.mask[batch.chosen[0]] == 1]
    assert torch.equal(torch.cat([prompt, chosen]), row.input_ids[0])
    assert torch.equal(batch.counted, batch.mask)
    assert batch.count().labels == int((row.labels != -100).sum())


def test_a_prompt_and_a_completion_are_encoded_once(random_tiny_encoder, make_sample):
    several = paired(make_sample("a", "1"), ("1", "2"), ("1", "3"), ("2", "3"))
    batch = random_tiny_encoder.encode_pairs([several, paired(make_sample("b", "2"), ("1", "2"))])
    assert len(batch.prompts) == 2
    assert batch.prompt_of.tolist() == [0, 0, 0, 1, 1]
    assert batch.chosen.tolist() == [0, 0, 1, 3]
    assert batch.rejected.tolist() == [1, 2, 2, 4]
    assert batch.sample_of.tolist() == [0, 0, 0, 1]
    assert batch.count().sequences == 2
    assert batch.corrupted.tolist() == [-1] * 4


def test_pairs_of_one_prompt_share_its_spoilt_images(random_tiny_encoder, image_sample, monkeypatch):
    processed = []
    family = random_tiny_encoder.family
    process_all = type(family).process_all
    monkeypatch.setattr(
        type(family), "process_all", lambda *given: processed.append(len(given[2])) or process_all(*given)
    )
    several = paired(image_sample, ("1", "2"), ("1", "3"), ("2", "3"))
    batch = random_tiny_encoder.encode_pairs([several, replace(several, id="other")], ImageCorruption("blank"))
    assert len(batch.prompts) == 4
    assert batch.corrupted.tolist()[:3] == [2, 2, 4]
    # One call for the pictures of all samples, one for the spoilt ones; each picture once.
    assert processed == [2, 2]


def test_a_completion_may_be_imitated_only(random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode_pairs([paired(image_sample, ("yes", None), weight=0.5)])
    assert batch.rejected.tolist() == [-1]
    assert batch.weights.tolist() == [0.5]
    assert len(batch.token_ids) == 1


def test_a_later_step_has_a_prompt_of_its_own(random_tiny_encoder, make_sample):
    sample = make_sample("a", "1", images=2)
    first = (Message("user", sample.messages[0].content[:1] + (TextPart("where?"),)),)
    later = (*first, *turns("there"), Message("user", (*sample.messages[0].content[1:],)))
    steps = (
        Preference(turns("there"), turns("here"), weight=0.5),
        Preference(turns("7"), turns("8"), prompt=later, weight=0.5),
    )
    batch = random_tiny_encoder.encode_pairs([replace(sample, messages=first, preferences=steps)])
    assert len(batch.prompts) == 2
    assert batch.prompt_of.tolist() == [0, 0, 1, 1]
    assert batch.count().sequences == 1
    text = random_tiny_encoder.decode(batch.prompts.input_ids[1].tolist())
    assert "there" in text


def test_the_chosen_completion_is_read_behind_spoilt_images_too(random_tiny_encoder, random_tiny_model, make_sample):
    samples = [paired(make_sample("a", "1"), ("1", "2")), paired(make_sample("b", "2", images=0), ("1", "2"))]
    drawn = replace(samples[0], images=(MediaRef(pil=Image.linear_gradient("L").resize((64, 64)).convert("RGB")),))
    batch = random_tiny_encoder.encode_pairs([drawn, samples[1]], ImageCorruption("blank"))
    assert batch.corrupted.tolist() == [2, -1]
    assert len(batch.prompts) == 3
    assert torch.equal(batch.token_ids[0], batch.token_ids[2])
    clean, spoilt = batch.prompts.input_ids[batch.prompt_of[torch.tensor([0, 2])]]
    assert torch.equal(clean, spoilt)
    random_tiny_model.eval()
    with torch.no_grad():
        scores = sums(random_tiny_model, batch, "naive")
    assert not torch.isclose(scores[0], scores[2])


@pytest.mark.parametrize("family", FAMILIES)
def test_pairs_of_every_family_score_as_their_rows_do(family, family_folder):
    backbone = Backbone(str(family_folder(family)))
    encoder = backbone.load_encoder()
    model = backbone.load_model(encoder).eval()
    samples = [contract.TEXT] if family in TEXT_ONLY else [contract.TEXT, contract.ONE_IMAGE, contract.WIDE_IMAGE]
    samples += [contract.VIDEO, contract.BOTH_KINDS] if family in WITH_VIDEO else []
    pairs = [paired(sample, (sample.messages[-1].text, "no, 7 digits.")) for sample in samples]
    batch = encoder.encode_pairs(pairs)
    with torch.no_grad():
        shared, naive = sums(model, batch, "shared"), sums(model, batch, "naive")
        rows = model.score(encoder.encode(samples))
    expected = torch.zeros(len(samples)).index_add(0, rows.rows, rows.log_probs)
    torch.testing.assert_close(shared, naive, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(naive[batch.chosen], expected, atol=1e-4, rtol=1e-5)


@pytest.mark.parametrize(
    ("sample_of", "message"),
    [
        (lambda sample: replace(sample, preferences=()), "no preference"),
        (lambda sample: paired(sample, ("", "no")), "empty"),
        (lambda sample: paired(sample, ("no", " ")), "empty"),
        (lambda sample: replace(sample, preferences=(Preference((), turns("no")),)), "no preference"),
        (
            lambda sample: replace(sample, preferences=(Preference(turns("a") + sample.messages[:1], turns("b")),)),
            "shows an image",
        ),
    ],
)
def test_a_bad_pair_is_named(random_tiny_encoder, image_sample, sample_of, message):
    with pytest.raises(BadSampleError, match=message):
        random_tiny_encoder.encode_pairs([sample_of(image_sample)])


def test_identical_halves_and_too_long_prompts_are_dropped_and_named(random_tiny_encoder, image_sample, make_sample):
    good = paired(make_sample("b", "2"), ("1", "2"))
    same = paired(image_sample, ("yes", "yes"))
    batch = random_tiny_encoder.encode_pairs([same, good])
    assert [bad.origin for bad in batch.dropped] == [same.id]
    assert "the same" in batch.dropped[0].reason
    assert len(batch) == 1
    assert batch.sample_of.tolist() == [0]
    short = random_tiny_encoder.__class__(
        random_tiny_encoder.processor, max_tokens=int(batch.prompts.input_ids.shape[1])
    )
    assert "no completion is left" in short.encode_pairs([good]).dropped[0].reason


def test_completions_are_cut_to_the_room_that_is_left(random_tiny_encoder, image_sample):
    pair = paired(image_sample, ("i see 7. i see 7.", "8 8 8 8 8 8 8"))
    whole = random_tiny_encoder.encode_pairs([pair])
    prompt = int(whole.prompts.input_ids.shape[1])
    short = random_tiny_encoder.__class__(random_tiny_encoder.processor, max_tokens=prompt + 3)
    batch = short.encode_pairs([pair])
    assert batch.mask.sum(1).tolist() == [3, 3]
    assert torch.equal(batch.token_ids, whole.token_ids[:, :3])


def test_no_samples_give_no_pairs(random_tiny_encoder):
    batch = random_tiny_encoder.encode_pairs([])
    assert len(batch) == 0
    assert batch.count().sequences == 0
    assert len(random_tiny_encoder.encode_groups([])) == 0


def test_names_tell_all_that_a_model_reads(random_tiny_encoder, image_sample):
    encoder = random_tiny_encoder.__class__(random_tiny_encoder.processor, max_tokens=512)
    pair = paired(image_sample, ("1", "2"))
    assert encoder.encode_pairs([pair]).digests == ()
    encoder.names_completions = True
    names = encoder.encode_pairs([pair]).digests
    assert len(set(names)) == 2
    assert encoder.encode_pairs([paired(image_sample, ("3", "4")), pair]).digests[2:] == names
    other_picture = replace(pair, images=(MediaRef(pil=Image.new("RGB", (64, 64), (1, 2, 3))),))
    other_question = replace(pair, messages=(replace(pair.messages[0], content=pair.messages[0].content[:1]),))
    for other in (other_picture, other_question):
        assert not set(encoder.encode_pairs([other]).digests) & set(names)


def test_evaluation_carries_the_pairs_of_samples_that_have_them(random_tiny_encoder, image_sample, make_sample):
    plain = make_sample("b", "2")
    assert random_tiny_encoder.encode_evaluation([plain]).pairs is None
    batch = random_tiny_encoder.encode_evaluation([plain, paired(image_sample)])
    assert batch.pairs is not None
    assert len(batch.pairs) == 1
    assert len(batch.to("cpu").pairs) == 1


def candidate(text, correct):
    return Candidate(turns(text), {"correct": correct})


def test_groups_hold_the_reference_and_each_candidate_once(random_tiny_encoder, image_sample):
    sample = replace(
        image_sample,
        candidates=(candidate("1", 1.0), candidate("2", 0.0), candidate(image_sample.messages[-1].text, 1.0)),
    )
    batch = random_tiny_encoder.encode_groups([sample, replace(sample, messages=sample.prompt)])
    assert batch.prompt_of.tolist() == [0, 0, 0, 1, 1, 1]
    assert batch.reference.tolist() == [0, -1]
    assert batch.scores.tolist() == [1.0, 1.0, 0.0, 1.0, 0.0, 1.0]
    alone = random_tiny_encoder.encode_groups([replace(sample, candidates=sample.candidates[:2])])
    assert alone.scores[0].isnan()
    assert alone.count().labels == int(alone.counted[0].sum())


def test_a_candidate_without_its_score_is_named(random_tiny_encoder, image_sample):
    with pytest.raises(BadSampleError, match="correct"):
        random_tiny_encoder.encode_groups([replace(image_sample, candidates=(Candidate(turns("1")),))])


def test_counted_tokens_are_those_encoded(random_tiny_encoder, image_sample, make_sample):
    pair = paired(image_sample, ("1", "22"), ("1", "333"))
    group = replace(make_sample("b", "2"), candidates=(candidate("1", 1.0), candidate("2", 0.0)))
    for sample, batch in (
        (pair, random_tiny_encoder.encode_pairs([pair])),
        (group, random_tiny_encoder.encode_groups([group])),
    ):
        encoded = int(batch.prompts.attention_mask.sum() + batch.mask.sum())
        assert random_tiny_encoder.count_comparison_tokens(sample).total == encoded


def test_batches_move_with_their_prompts(random_tiny_encoder, image_sample):
    batch = random_tiny_encoder.encode_pairs([paired(image_sample)]).to(torch.device("meta"))
    assert batch.token_ids.device.type == "meta"
    assert batch.weights.device.type == "meta"
    assert batch.prompts.input_ids.device.type == "meta"
    assert isinstance(batch.samples[0], Sample)
