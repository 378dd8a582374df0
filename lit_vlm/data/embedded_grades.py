"""A judge of completions on the embedded tasks that follows rules: five grades from 0 to 4.

The attributes are those of HelpSteer, which SteerLM conditions on and preference papers ask a strong model for. Here
the truth is known, so rules give them: a stand-in for a judge that is the same on every machine, not a model's opinion.
"""

import re

from lit_vlm.data.embedded_thoughts import concluded, contradicts_itself, sentences, thought_of
from lit_vlm.interfaces.records import Answer, Verdict
from lit_vlm.parsing.answer_text import comparable_text, parse_list
from lit_vlm.parsing.boxes import parse_boxes, parse_point
from lit_vlm.parsing.edit_distance import similarity
from lit_vlm.parsing.plain_numbers import parse_number

ATTRIBUTES = ("helpfulness", "correctness", "coherence", "complexity", "verbosity")
HIGHEST = 4
_WORDS = re.compile(r"\w+|[^\w\s]")


def grade(completion: str, verdict: Verdict, reference: str, answer: Answer) -> dict[str, int]:
    """Grades a completion.

    - helpfulness: 0 without an answer, 1 with one of the wrong kind (a word where a number is asked), 2 of the right
      kind in a completion that breaks the form, 3 in a well-formed one, 4 if it is right too;
    - correctness: 4 if answer and thought are right, 3 if the answer alone is; else 2, 1 or 0 as at least three
      quarters, at least half or less of the thought is right, word by word;
    - coherence: 0 without thought or answer, 1 where the answer contradicts what the thought concludes, 2 where it
      concludes nothing, 3 where the answer follows, 4 where the steps of the thought agree with each other too;
    - complexity: sentences of the thought, at most 4;
    - verbosity: 2 for about as many words as the reference (0.8 to 1.25 times), 1 from half on, 0 below; 3 up to
      twice as many, 4 beyond.

    Args:
        completion: What is graded.
        verdict: What the verifier says of it.
        reference: The reference completion, whose thought is right.
        answer: The true answer.

    Returns:
        The grades by attribute, in the order of ``ATTRIBUTES``.

    Source:
        Attributes and range: Wang et al., "HelpSteer" (2023) and Dong et al., "SteerLM" (2023). The rules are ours.

    Example:
        >>> reference = "<think>i see 2 3. 2 + 3 = 5.</think><answer>5</answer>"
        >>> grade(reference, Verdict(True, "5", True), reference, Answer("number", "5"))
        {'helpfulness': 4, 'correctness': 4, 'coherence': 4, 'complexity': 2, 'verbosity': 2}
    """
    thought = thought_of(completion)
    return {
        "helpfulness": _helpfulness(verdict, answer),
        "correctness": _correctness(thought, verdict, thought_of(reference)),
        "coherence": _coherence(thought, verdict),
        "complexity": min(len(sentences(thought)), HIGHEST),
        "verbosity": _verbosity(completion, reference),
    }


def _helpfulness(verdict: Verdict, answer: Answer) -> int:
    if not verdict.parsed:
        return 0
    if not verdict.correct and not _is_of_kind(verdict.parsed, answer):
        return 1
    return (4 if verdict.correct else 3) if verdict.formatted else 2


def _is_of_kind(text: str, answer: Answer) -> bool:
    match answer.type:
        case "number":
            return parse_number(text) is not None
        case "yesno":
            return comparable_text(text) in ("yes", "no")
        case "boxes":
            return parse_boxes(text) is not None
        case "point_in_box":
            return parse_point(text) is not None
        case "list":
            return all(parse_number(item) is None for item in parse_list(text))
        case _:
            return parse_number(text) is None


def _correctness(thought: str, verdict: Verdict, true_thought: str) -> int:
    right = similarity(_WORDS.findall(thought), _WORDS.findall(true_thought))
    if verdict.correct:
        return 4 if right == 1 else 3
    return 2 if right >= 0.75 else 1 if right >= 0.5 else 0


def _coherence(thought: str, verdict: Verdict) -> int:
    if not thought or not verdict.parsed:
        return 0
    conclusion = concluded(thought)
    if conclusion is None:
        return 2
    if comparable_text(conclusion) != comparable_text(verdict.parsed):
        return 1
    return 3 if contradicts_itself(thought) else 4


def _verbosity(completion: str, reference: str) -> int:
    share = len(_WORDS.findall(completion)) / len(_WORDS.findall(reference))
    return sum(share >= bound for bound in (0.5, 0.8)) + (share > 1.25) + (share > 2)
