"""The verdict at the end of a critique: ``Conclusion: right [END]`` or ``Conclusion: wrong [END]``."""

from __future__ import annotations

import re

from lit_vlm.interfaces.critiques import CritiqueVerdict

_CONCLUSION = re.compile(r"\bconclusion[*_]{0,2}:", re.IGNORECASE)
_VERDICT = re.compile(r"[\s*_`\"']*(right|wrong)[*_`\"'.]*[^\S\n]*(?:\[END\]|\n|\Z)", re.IGNORECASE)


def conclude(verdict: CritiqueVerdict) -> str:
    """Writes the line that a critique ends with.

    Example:
        >>> conclude("wrong")
        'Conclusion: wrong [END]'
    """
    return f"Conclusion: {verdict} [END]"


def is_complete(text: str) -> bool:
    """Tells whether a critique came to its end, which is where it concludes.

    Args:
        text: The critique.

    Returns:
        Whether it holds ``Conclusion:``, in whatever case and emphasis; what is concluded plays no part.

    Example:
        >>> is_complete("2 + 2 is 4. Conclusion: wrong [END]"), is_complete("2 + 2 is")
        (True, False)

    Source:
        Wang et al., "Unleashing the Reasoning Potential of Pre-trained LLMs by Critique Fine-Tuning on One Problem"
        (2025), ``prompts/generate_teacher_critique.py`` of the authors.
    """
    return _CONCLUSION.search(text) is not None


def read_verdict(text: str) -> CritiqueVerdict | None:
    """Reads the verdict after the last ``Conclusion:``, in time linear in the text.

    Args:
        text: The critique. Case and emphasis play no part; ``[END]`` may be missing at the end of a line.

    Returns:
        The verdict; None where nothing is concluded, or something else than one of the two words
        (``Conclusion: right/wrong``, ``Conclusion: mostly right``).

    Example:
        >>> read_verdict("At first sight right. Conclusion: **wrong** [END]"), read_verdict("Conclusion: right/wrong")
        ('wrong', None)
    """
    end = None
    for found in _CONCLUSION.finditer(text):
        end = found.end()
    if end is None:
        return None
    verdict = _VERDICT.match(text, end)
    if verdict is None:
        return None
    return "right" if verdict.group(1).lower() == "right" else "wrong"
