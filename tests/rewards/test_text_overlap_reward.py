import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing import text_overlap
from lit_vlm.rewards.text_overlap_reward import TextOverlapReward


@pytest.mark.parametrize(
    ("kind", "text", "gold", "accept", "score"),
    [
        ("ocr_wer", "the quick brwn fox", "the quick brown fox", (), 0.75),
        ("char_similarity", "kitten", "sitting", (), 0.571429),
        ("anls", "Helo World", "hello world", ("hi",), 0.909091),
        ("anls", "xyz", "hello", (), 0),
        ("token_f1", "the Eiffel Tower in Paris", "Eiffel Tower", (), 0.666667),
        ("token_f1", "york york", "york york", (), 1),
        ("exact_match", "The  Eiffel tower.", "eiffel Tower", (), 1),
        ("exact_match", "the", "a", (), 0),
    ],
)
def test_the_card_s_numbers(scored, kind, text, gold, accept, score):
    assert scored(TextOverlapReward(kind), text, gold, accept=accept) == pytest.approx(score, abs=1e-6)


def test_words_may_count_once(scored):
    assert scored(TextOverlapReward("token_f1", overlap="set"), "york york", "york york") == 0.5


def test_rouge_is_the_mean_of_three(scored):
    pytest.importorskip("rouge_score")
    gold = "a man rides a horse at the beach"
    given = scored(TextOverlapReward("rouge_mean"), "A man is riding horses on the beach", gold)
    assert given == pytest.approx(0.595238, abs=1e-6)


def test_without_its_package_rouge_is_refused_at_once(monkeypatch):
    monkeypatch.setattr(text_overlap.importlib.util, "find_spec", lambda name: None)
    text_overlap._rouge_scorer.cache_clear()
    with pytest.raises(UserError, match=r"pip install 'lit-vlm\[rouge\]'"):
        TextOverlapReward("rouge_mean")


@pytest.mark.parametrize("kind", ["ocr_wer", "char_similarity", "anls", "token_f1", "exact_match"])
def test_no_answer_earns_nothing_and_the_true_one_all(scored, kind):
    assert scored(TextOverlapReward(kind), " ", "straße 5") == 0
    assert scored(TextOverlapReward(kind), "straße 5", "straße 5") == 1


def test_a_sample_without_any_true_text_is_named(scored):
    with pytest.raises(UserError, match="sample 's': all true texts are empty"):
        scored(TextOverlapReward(), "x", " ")


def test_wrong_settings_are_refused():
    with pytest.raises(UserError, match="kind is 'bleu'"):
        TextOverlapReward("bleu")
    with pytest.raises(UserError, match="overlap is 'list'"):
        TextOverlapReward(overlap="list")
