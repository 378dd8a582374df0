import re
from collections import Counter
from typing import Any

import pytest

from lit_vlm.data.hallucinated_scenes import HallucinatedSceneGenerator, HallucinatedScenes
from lit_vlm.data.levelled_tasks import SPLITS
from lit_vlm.data.scene_drawing import COLOURS, SHAPES, SIZES
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample
from lit_vlm.interfaces.segments import HALLUCINATIONS, SEGMENT_LABELS
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.parsing.segments import split_segments

SENTENCE_WORDS = "there is a an the here this picture left right of above below on at top bottom"
WORDS = {*SENTENCE_WORDS.split(), *SIZES, *COLOURS, *SHAPES}
OBJECT = re.compile(rf"there is an? (?:({'|'.join(SIZES)}) )?(?:({'|'.join(COLOURS)}) )?({'|'.join(SHAPES)})\.")
PLACES = re.compile(r"the (?:\w+ )?(\w+) is (left of|right of|above|below) the (?:\w+ )?(\w+)\.")
HALVES = re.compile(r"the (?:\w+ )?(\w+) is (on the left|on the right|at the top|at the bottom)\.")


def samples(count: int = 50, **settings: Any) -> list[Sample]:
    generator = HallucinatedSceneGenerator(**settings)
    return [generator.sample("train", index) for index in range(count)]


def judged(sample: Sample, sentence: str) -> tuple[int, int, int]:
    """Works the labels of a sentence out from the scene, without the generator."""
    seen = {item["shape"]: item for item in sample.meta.extra["objects"]}
    if match := OBJECT.fullmatch(sentence):
        size, colour, shape = match.groups()
        if shape not in seen:
            return -1, 0, 0
        named = [(size, seen[shape]["size"]), (colour, seen[shape]["colour"])]
        right = [said == true for said, true in named if said]
        return 1, 0 if not right else 1 if all(right) else -1, 0
    if match := PLACES.fullmatch(sentence):
        first, word, second = match.groups()
        if first not in seen or second not in seen:
            return -1, 0, 0
        here, there = seen[first], seen[second]
        truth = {
            "left of": here["column"] < there["column"],
            "right of": here["column"] > there["column"],
            "above": here["row"] < there["row"],
            "below": here["row"] > there["row"],
        }[word]
        return 1, 0, 1 if truth else -1
    if match := HALVES.fullmatch(sentence):
        shape, word = match.groups()
        if shape not in seen:
            return -1, 0, 0
        place = seen[shape]
        truth = {
            "on the left": place["column"] in (1, 2),
            "on the right": place["column"] in (3, 4),
            "at the top": place["row"] in (1, 2),
            "at the bottom": place["row"] in (3, 4),
        }[word]
        return 1, 0, 1 if truth else -1
    assert "picture" in sentence
    return 0, 0, 0


@pytest.mark.parametrize("subject", [None, *HALLUCINATIONS])
def test_the_labels_are_true_of_the_scene(subject: Any) -> None:
    for sample in samples(subject=subject, levels=(1, 3)):
        sentences = split_segments(sample.messages[-1].text)
        assert 3 <= len(sentences) <= 6
        labels = [tuple(sample.meta.extra[SEGMENT_LABELS][kind]) for kind in HALLUCINATIONS]
        assert list(zip(*labels, strict=True)) == [judged(sample, sentence) for sentence in sentences]


@pytest.mark.parametrize("subject", HALLUCINATIONS)
def test_no_label_of_the_subject_prevails(subject: Any) -> None:
    labels = Counter(
        label for sample in samples(300, subject=subject) for label in sample.meta.extra[SEGMENT_LABELS][subject]
    )
    assert set(labels) == {-1, 0, 1}
    assert max(labels.values()) < 0.47 * labels.total()
    assert min(labels.values()) > 0.14 * labels.total()


def test_the_sentence_alone_does_not_tell_whether_it_is_true() -> None:
    wrong: Counter[str] = Counter()
    all_of: Counter[str] = Counter()
    for sample in samples(250, subject="relation"):
        for sentence, label in zip(
            split_segments(sample.messages[-1].text), sample.meta.extra[SEGMENT_LABELS]["relation"], strict=True
        ):
            if label:
                word = (PLACES.fullmatch(sentence) or HALVES.fullmatch(sentence))[2]  # type: ignore[index]
                all_of[word] += 1
                wrong[word] += label < 0
    assert len(all_of) == 8
    # About 120 sentences each: four standard deviations are 0.18.
    assert all(wrong[word] / all_of[word] == pytest.approx(0.5, abs=0.18) for word in all_of)


@pytest.mark.parametrize("subject", ["existence", "attribute"])
def test_no_shape_is_named_twice_so_that_sentences_do_not_confirm_each_other(subject: Any) -> None:
    kinds = set()
    for sample in samples(60, subject=subject):
        matches = [OBJECT.fullmatch(sentence) for sentence in split_segments(sample.messages[-1].text)]
        named = [match[3] for match in matches if match]
        assert len(named) == len(set(named))
        kinds |= {match[1] for match in matches if match} | {match[2] for match in matches if match}
    assert kinds >= {None, *SIZES}


def test_existence_has_as_many_scenes_of_few_shapes_as_of_many() -> None:
    counts = Counter(len(sample.meta.extra["objects"]) for sample in samples(300, subject="existence"))
    # 100 each: four standard deviations are 33.
    assert set(counts) == {1, 2, 3}
    assert all(count == pytest.approx(100, abs=33) for count in counts.values())


def test_samples_are_a_function_of_seed_split_and_index() -> None:
    first, again = (HallucinatedSceneGenerator(seed=3).sample("test", 5) for _ in range(2))
    assert first.messages == again.messages
    assert first.meta == again.meta
    assert first.images[0].pil.tobytes() == again.images[0].pil.tobytes()
    assert HallucinatedSceneGenerator(seed=4).sample("test", 5).messages != first.messages
    assert first.id == "hallucinated_scenes/test/3/5"


def test_splits_share_no_scene() -> None:
    generator = HallucinatedSceneGenerator()
    scenes = {
        split: {
            tuple(tuple(item.values()) for item in generator.sample(split, index).meta.extra["objects"])
            for index in range(40)
        }
        for split in SPLITS
    }
    assert not scenes["train"] & scenes["validation"]
    assert not scenes["train"] & scenes["test"]
    assert not scenes["validation"] & scenes["test"]


def test_the_bundled_tokenizer_knows_every_word() -> None:
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(str(TINY_FOLDER))
    used = {word for sample in samples(100) for word in re.findall(r"\w+", sample.messages[-1].text)}
    assert used <= WORDS
    for word in used:
        ids = tokenizer(f" {word}", add_special_tokens=False)["input_ids"]
        assert tokenizer.decode(ids) == f" {word}"
        assert len(ids) <= 2
        assert tokenizer.unk_token_id is None or tokenizer.unk_token_id not in ids


def test_the_data_module_serves_descriptions_without_instructions() -> None:
    data = HallucinatedScenes(subject="attribute", validation_size=2, seed=1)
    assert data.tasks == ("describe",)
    sample = data.prepared("validation")[0]
    assert [message.role for message in sample.messages] == ["user", "assistant"]
    assert sample.messages == HallucinatedSceneGenerator(seed=1, subject="attribute").sample("validation", 0).messages


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"subject": "mood"}, r"subject holds \['mood'\].*existence"),
        ({"levels": ()}, "levels is empty"),
        ({"levels": (9,)}, r"levels holds \[9\]"),
        ({"image_size": 16}, "image_size is 16.*at least 32"),
    ],
)
def test_wrong_settings_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        HallucinatedSceneGenerator(**settings)
