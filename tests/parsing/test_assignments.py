import pytest

from lit_vlm.parsing.assignments import parse_assignment

NAMES = ("Ella", "Bo")
ROLES = ("knight", "knave")
TRUTH = {"Ella": "knight", "Bo": "knave"}


@pytest.mark.parametrize(
    "text",
    [
        "Ella is a knight, and Bo is a knave.",
        "Bo is a knave and Ella is a knight",
        "ella: KNIGHT; bo: knave",
        "Ella = knight\nBo = knave",
        "(1) Ella is a knight\n(2) Bo is a knave",
        "1. Ella is a knight. 2. Bo is a knave.",
        '{"Ella": "knight", "Bo": "knave"}',
        "Ella -> knight, Bo -> knave",
    ],
)
def test_every_form_of_the_claims_is_read(text):
    assert parse_assignment(text, NAMES, ROLES) == TRUTH


@pytest.mark.parametrize(
    "text",
    [
        "Ella is a knight, Ella is a knave, Bo is a knave",
        "Ella is a knight, Ella is a knight, Bo is a knave",
        "Ella is a knight or a knave",
        "Ella is a knight or Bo is a knave",
        "If Ella is a knight, Bo is a knave",
        "Ella is not a knight",
        "Ella is a knight-knave",
        "Ella is a knighted man",
        "Zed is a knight",
        "Ella and Bo are knights",
        "I think so",
    ],
)
def test_anything_else_said_spoils_the_claims(text):
    assert parse_assignment(text, NAMES, ROLES) is None


def test_a_name_left_out_is_missing():
    assert parse_assignment("Ella is a knight.", NAMES, ROLES) == {"Ella": "knight"}
    assert parse_assignment("", NAMES, ROLES) == {}


def test_a_name_may_begin_with_another_name_and_hold_signs():
    names = ("Al", "Al (the elder)", "Dr. And")
    text = "Al (the elder): knave, Dr. And: knave, Al: knight"
    assert parse_assignment(text, names, ROLES) == {"Al": "knight", "Al (the elder)": "knave", "Dr. And": "knave"}


@pytest.mark.parametrize("piece", ["and ", "Ella is a knight, ", "Ella is a ", "(1) "])
def test_hostile_claims_are_read_in_linear_time(assert_linear, piece):
    assert_linear(lambda size: parse_assignment(piece * size, NAMES, ROLES), 50_000)
