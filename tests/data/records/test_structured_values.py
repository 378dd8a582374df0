import pytest

from lit_vlm.data.records.structured_values import is_empty, objects, structure


@pytest.mark.parametrize("value", [None, float("nan"), "", " \n", [], {}, b"", ()])
def test_nothing_has_many_forms(value):
    assert is_empty(value)


@pytest.mark.parametrize("value", [0, False, "0", [None], 0.0])
def test_zero_and_false_are_something(value):
    assert not is_empty(value)


@pytest.mark.parametrize(
    ("value", "read"),
    [
        ('["a", null]', ["a", None]),
        ("['a', None]", ["a", None]),
        ("(1, 2)", [1, 2]),
        ('{"a": 1}', {"a": 1}),
        (["a"], ["a"]),
        ("7", "7"),
        ("[see figure]", "[see figure]"),
        ("(a) cat", "(a) cat"),
        ("[__import__('os').getcwd()]", "[__import__('os').getcwd()]"),
        ("[" * 100_000, "[" * 100_000),
    ],
)
def test_structure_written_as_text_is_read_and_nothing_is_run(value, read):
    assert structure(value) == read


def test_a_list_of_objects_has_many_forms():
    turns = [{"from": "human", "value": "Hi"}, {"from": "gpt", "value": "Hello"}]
    for form in (turns, str(turns), {"from": ["human", "gpt"], "value": ["Hi", "Hello"]}, [str(turns[0]), turns[1]]):
        assert objects(form) == turns
    assert objects(turns[0]) == turns[:1]
    assert objects({"a": [1, 2], "b": [1]}) == [{"a": [1, 2], "b": [1]}]
    assert objects("text") is objects(["a"]) is objects(3) is None
    assert objects([]) == []
