"""How much of a text agrees with a true one, in [0, 1]: edits, words in common, ROUGE."""

import functools
import importlib.util
import re
import string
from collections import Counter
from typing import Any, Literal

from lit_vlm.interfaces.errors import UserError
from lit_vlm.parsing.edit_distance import edit_distance, similarity

ANLS_THRESHOLD = 0.5
"""Share of edits from which two texts have nothing in common."""

_PUNCTUATION = str.maketrans("", "", string.punctuation)
_ARTICLES = re.compile(r"\b(?:a|an|the)\b")


def word_accuracy(text: str, gold: str) -> float:
    """Returns one minus the word error rate, no less than 0.

    Example:
        >>> word_accuracy("the quick brwn fox", "the quick brown fox")
        0.75
    """
    words = gold.split()
    return min(max(1 - edit_distance(text.split(), words) / max(1, len(words)), 0.0), 1.0)


def anls(text: str, gold: str) -> float:
    """Returns the normalised Levenshtein similarity of case-folded texts, 0 from ``ANLS_THRESHOLD`` on.

    Source:
        Biten et al., Scene Text Visual Question Answering (2019) (from-paper-text).

    Example:
        >>> round(anls("Helo World", "hello world"), 6), anls("xyz", "hello")
        (0.909091, 0.0)
    """
    given, wanted = (" ".join(one.lower().split()) for one in (text, gold))
    if not given or abs(len(given) - len(wanted)) >= ANLS_THRESHOLD * max(len(given), len(wanted)):
        return 0.0
    similar = similarity(given, wanted)
    return similar if 1 - similar < ANLS_THRESHOLD else 0.0


def squad_text(text: str) -> str:
    """Lowers case, drops punctuation and articles and joins white space.

    Example:
        >>> squad_text("The  Eiffel-Tower!")
        'eiffeltower'
    """
    return " ".join(_ARTICLES.sub(" ", text.lower().translate(_PUNCTUATION)).split())


def token_f1(text: str, gold: str, overlap: Literal["bag", "set"] = "bag") -> float:
    """Returns the harmonic mean of precision and recall of words, after ``squad_text``.

    Args:
        text: The given text.
        gold: The true text.
        overlap: ``bag``: a word counts as often as both have it; ``set``: once, though lengths count repetitions.

    Source:
        SQuAD's evaluation script; ``set``: Visual-ARFT ``grpo_agent_search.py`` (confirmed-in-code).

    Example:
        >>> round(token_f1("the Eiffel Tower in Paris", "Eiffel Tower"), 6), token_f1("york york", "york york", "set")
        (0.666667, 0.5)
    """
    given, wanted = squad_text(text).split(), squad_text(gold).split()
    shared = len(set(given) & set(wanted)) if overlap == "set" else (Counter(given) & Counter(wanted)).total()
    return 2 * shared / (len(given) + len(wanted)) if shared else 0.0


def rouge_mean(text: str, gold: str) -> float:
    """Returns the mean F-measure of ROUGE-1, ROUGE-2 and ROUGE-L, with stemming.

    Raises:
        UserError: The package rouge-score is missing.
    """
    scores = _rouge_scorer().score(gold, text)
    return float(sum(score.fmeasure for score in scores.values()) / len(scores))


@functools.cache
def _rouge_scorer() -> Any:
    if importlib.util.find_spec("rouge_score") is None:
        raise UserError("ROUGE needs the package rouge-score, which is missing; pip install 'lit-vlm[rouge]'")
    from rouge_score.rouge_scorer import RougeScorer

    return RougeScorer(["rouge1", "rouge2", "rougeL"], use_stemmer=True)
