"""Rewards a text that agrees with the true one in part."""

from dataclasses import dataclass
from typing import Literal, get_args

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, Completion
from lit_vlm.parsing.edit_distance import similarity
from lit_vlm.parsing.ground_truth import true_texts
from lit_vlm.parsing.text_overlap import anls, rouge_mean, squad_text, token_f1, word_accuracy
from lit_vlm.rewards.completion_reward import CompletionReward, answer_text, gold_value

Kind = Literal["ocr_wer", "char_similarity", "anls", "rouge_mean", "token_f1", "exact_match"]


@dataclass(frozen=True)
class TextOverlapReward(CompletionReward):
    """Scores a text against the true one and the other accepted ones, in [0, 1]; the best counts.

    Source:
        ``ocr_wer``, ``rouge_mean``: Video-R1 ``grpo.py``; ``token_f1``: Visual-ARFT ``grpo_agent_search.py``
        (confirmed-in-code); ``anls``: DocVQA's metric (from-paper-text).
    """

    kind: Kind = "anls"
    """``ocr_wer``: one minus the word error rate; ``char_similarity``: one minus the share of edited characters;
    ``anls``: the same, without case, 0 below one half; ``rouge_mean``: mean of ROUGE-1, -2 and -L (needs rouge-score);
    ``token_f1``: words in common; ``exact_match``: 1 for the same words without case, punctuation and articles."""
    overlap: Literal["bag", "set"] = "bag"
    """How ``token_f1`` counts repeated words: as often as they occur, or once."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(Kind):
            raise UserError(f"kind is {self.kind!r}; give one of {', '.join(get_args(Kind))}")
        if self.overlap not in ("bag", "set"):
            raise UserError(f"overlap is {self.overlap!r}; give bag or set")
        if self.kind == "rouge_mean":
            rouge_mean("", "")  # says at once where the package is missing

    def score(self, completion: Completion) -> float:
        """Compares the text.

        Raises:
            UserError: All true texts are empty; the message names the sample.
        """
        golds = gold_value(completion, _true_texts)
        text = answer_text(completion)
        return 0.0 if text is None else max(self._compared(text, gold) for gold in golds)

    def _compared(self, text: str, gold: str) -> float:
        match self.kind:
            case "ocr_wer":
                return word_accuracy(text, gold)
            case "char_similarity":
                return similarity(text, gold)
            case "anls":
                return anls(text, gold)
            case "rouge_mean":
                return rouge_mean(text, gold)
            case "token_f1":
                return token_f1(text, gold, self.overlap)
            case _:
                return float(squad_text(text) == squad_text(gold) != "")


def _true_texts(answer: Answer) -> list[str]:
    texts = [text for text in true_texts(answer) if text.strip()]
    if not texts:
        raise UserError("all true texts are empty; mend them where the data set is read")
    return texts
