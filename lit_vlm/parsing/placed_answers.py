r"""Writes an answer where it has to stand: in tags, in ``\boxed{}``, after "the answer is", or alone."""

from lit_vlm.interfaces.records import AnswerPlace


def place_answer(text: str, place: AnswerPlace) -> str:
    r"""Writes the shortest completion whose answer is the text; ``find_answer`` reads it from there.

    Args:
        text: The answer, without white space around it.
        place: Where it has to stand.

    Example:
        >>> place_answer("7", "tags"), place_answer("7", "boxed"), place_answer("7", "whole")
        ('<answer>7</answer>', '\\boxed{7}', '7')
    """
    match place:
        case "tags":
            return f"<answer>{text}</answer>"
        case "boxed":
            return f"\\boxed{{{text}}}"
        case "stated":
            return f"The answer is {text}."
        case _:
            return text
