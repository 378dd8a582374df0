import re

from lit_vlm.parsing.completion_formats import follows_format, with_opened_thought, without_spaced_marks

PATTERNS = {
    "lenient": re.compile(r"<think>.*?</think>\s*<answer>.*?</answer>", re.DOTALL),
    "boxed": re.compile(r"<think>.*</think>.*\\boxed\{.*\}.*", re.DOTALL),
    "think_only": re.compile(r"^<think>(?!.*<think>)(.*?)</think>.*$", re.DOTALL | re.MULTILINE),
}


def test_the_search_for_marks_agrees_with_the_published_expressions():
    import random

    stream = random.Random(0)
    pieces = ["<think>", "</think>", "<answer>", "</answer>", " ", "\n", "x", "\\boxed{", "}"]
    agreed = dict.fromkeys(PATTERNS, 0)
    for _ in range(4000):
        parts = ["<think>", *stream.choices(pieces, k=stream.randint(0, 6)), stream.choice(["", "</answer>", "}"])]
        text = "".join(parts[stream.random() < 0.1 :])
        for form, pattern in PATTERNS.items():
            wanted = pattern.match(text) if form == "think_only" else pattern.fullmatch(text)
            assert follows_format(text, form) == bool(wanted), (form, text)
            agreed[form] += bool(wanted)
    assert min(agreed.values()) > 20


def test_an_opened_thought_is_put_in_front_once():
    assert with_opened_thought(" a</think>\n") == "<think>a</think>"
    assert with_opened_thought("<think>a") == "<think>a"


def test_spaces_go_around_marks_only():
    assert without_spaced_marks(" a b ") == " a b "
    assert without_spaced_marks(" a / b < c >  d e ") == " a/b<c>d e "
