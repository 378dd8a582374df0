import pytest

from lit_vlm.parsing.text_overlap import anls, rouge_mean, squad_text, token_f1, word_accuracy


def test_word_accuracy_is_never_below_zero():
    assert word_accuracy("a b c d e", "x") == 0
    assert word_accuracy("", "a b") == 0
    assert word_accuracy("", "") == 1


def test_anls_falls_to_nothing_at_the_threshold():
    assert anls("abcd", "abxx") == 0
    assert anls("abcd", "abcx") == 0.75
    assert anls("  ABCD ", "abcd") == 1
    assert anls("", "abcd") == 0


def test_squad_text_drops_articles_as_words_only():
    assert squad_text("The theatre, a.") == "theatre"


def test_token_f1_is_symmetric():
    assert token_f1("red fox runs", "fox") == token_f1("fox", "red fox runs") == pytest.approx(0.5)
    assert token_f1("", "") == 0


def test_rouge_stems_words():
    pytest.importorskip("rouge_score")
    assert rouge_mean("horses running", "horse runs") == 1
    assert rouge_mean("", "horse") == 0
