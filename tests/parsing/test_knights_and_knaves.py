import random

import pytest

from lit_vlm.functional.knights_and_knaves_sampling import sample_statement
from lit_vlm.parsing.assignments import parse_assignment
from lit_vlm.parsing.knights_and_knaves import (
    Roles,
    agrees_as_published,
    describe_puzzle,
    describe_solution,
    describe_statement,
    list_solution,
    read_claims,
)

NAMES = ("Ella", "Bo")
THREE = ("Ella", "Bo", "Max")
TRUTH = (True, False)
ELLA, BO = ("telling-truth", 0), ("lying", 1)


@pytest.mark.parametrize(
    ("statement", "text"),
    [
        (ELLA, "Ella is a knight"),
        (BO, "Bo is a knave"),
        (("not", BO), "Bo is not a knave"),
        (("not", ("not", BO)), "not (Bo is not a knave)"),
        (("and", ELLA, BO), "Ella is a knight and Bo is a knave"),
        (("or", ELLA, BO, ("not", ELLA)), "Ella is a knight or Bo is a knave or Ella is not a knight"),
        (("->", ELLA, BO), "if Ella is a knight then Bo is a knave"),
        (("<=>", ELLA, BO), "Ella is a knight if and only if Bo is a knave"),
        (("and", ELLA, ("or", ELLA, BO)), "Ella is a knight and (Ella is a knight or Bo is a knave)"),
        (("not", ("and", ELLA, BO)), "not (Ella is a knight and Bo is a knave)"),
    ],
)
def test_statements_are_worded(statement, text):
    assert describe_statement(statement, NAMES) == text


def test_no_two_statements_have_the_same_words():
    stream = random.Random(0)
    statements = {sample_statement(0, 2, 4, 3, stream) for _ in range(1500)}
    assert len({describe_statement(statement, NAMES) for statement in statements}) == len(statements)


def test_a_puzzle_is_a_rule_then_statements_then_the_question():
    assert describe_puzzle((BO, ("and", ("lying", 0), BO)), NAMES) == (
        "Knights tell the truth, knaves lie. Ella says: Bo is a knave. "
        "Bo says: Ella is a knave and Bo is a knave. Who is a knight and who is a knave?"
    )


def test_other_roles_get_their_article():
    roles = Roles("angel", "devil")
    assert describe_puzzle((ELLA, BO), NAMES, roles) == (
        "Angels tell the truth, devils lie. Ella says: Ella is an angel. Bo says: Bo is a devil. "
        "Who is an angel and who is a devil?"
    )
    assert describe_solution(TRUTH, NAMES, roles) == "Ella is an angel, and Bo is a devil."


def test_solutions_are_written_as_sentence_and_as_list():
    assert describe_solution((True, False, True), THREE) == "Ella is a knight, Bo is a knave, and Max is a knight."
    assert describe_solution((False,), ("Ella",)) == "Ella is a knave."
    assert list_solution(TRUTH, NAMES) == "(1) Ella is a knight\n(2) Bo is a knave"


@pytest.mark.parametrize("write", [describe_solution, list_solution])
def test_a_written_solution_reads_back(write):
    text = write(TRUTH, NAMES)
    assert read_claims(text, NAMES) == [("Ella", True), ("Bo", False)]
    assert parse_assignment(text, NAMES, ("knight", "knave")) == {"Ella": "knight", "Bo": "knave"}


@pytest.mark.parametrize(
    ("text", "claims"),
    [
        ("So bo is a KNAVE, hence Ella is a knight.", [("Bo", False), ("Ella", True)]),
        ("Ella is a knight. No: Ella is a knave.", [("Ella", True), ("Ella", False)]),
        ("Ella is not a knight", []),
        ("Abbo is a knight", []),
        ("Ella is a knighted knave", []),
        ("", []),
    ],
)
def test_claims_are_read_in_the_order_of_the_text(text, claims):
    assert read_claims(text, NAMES) == claims


def test_a_longer_name_is_read_before_the_name_it_begins_with():
    assert read_claims("Al Bo is an angel and Al is a devil", ("Al", "Al Bo"), Roles("angel", "devil")) == [
        ("Al Bo", True),
        ("Al", False),
    ]


RIGHT = "(1) Ella is a knight\n(2) Bo is a knave"


@pytest.mark.parametrize(
    "response",
    [
        f"Let us see. CONCLUSION:\n{RIGHT}",
        f"Conclusion: {RIGHT}",
        f"conclusion:{RIGHT}",
        f"If Ella lies, no. CONCLUSION: {RIGHT}",
        f"CONCLUSION: {RIGHT}\n### Reason: if Bo were (3)",
        f"CONCLUSION: {RIGHT} Let's think step by step again: if",
        f"CONCLUSION: {RIGHT} let's go back and check if",
        "CONCLUSION: Bo is a knave and Ella is a knight",
        RIGHT,
    ],
)
def test_the_published_check_accepts(response):
    assert agrees_as_published(response, TRUTH, NAMES)


@pytest.mark.parametrize(
    "response",
    [
        "CONCLUSION: (1) Ella is a knight\n(2) Bo is a knight",
        "CONCLUSION: (1) Ella is a knight",
        f"CONCLUSION: {RIGHT}\n(3) Max is a knave",
        f"CONCLUSION: {RIGHT} if Bo lies",
        f"CONCLUSION: If Bo lies, {RIGHT}",
        f"{RIGHT} CONCLUSION:",
        f"CONCLUSION: ### {RIGHT}",
        "Ella is a knight, and Bo is a knave.",
        f"{RIGHT} (3) Max is a knave",
        "",
    ],
)
def test_the_published_check_refuses(response):
    assert not agrees_as_published(response, TRUTH, NAMES)


def test_a_word_that_holds_if_is_no_condition():
    assert agrees_as_published("CONCLUSION: Clifford is a knight", (True,), ("Clifford",))


def test_the_published_check_lets_a_contradiction_pass():
    assert agrees_as_published(f"CONCLUSION: {RIGHT} and Ella is a knave", TRUTH, NAMES)


def test_the_published_check_knows_other_roles():
    roles = Roles("angel", "devil")
    assert agrees_as_published("CONCLUSION: Ella is an angel, and Bo is a devil.", TRUTH, NAMES, roles)
    assert not agrees_as_published(f"CONCLUSION: {RIGHT}", TRUTH, NAMES, roles)
