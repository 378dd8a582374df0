import pytest

from lit_vlm.parsing.first_wrong_step import read_first_wrong_step


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("Step 2 is wrong: 3 + 4 is 7.", 2),
        ("step 1 is right. step 3 is incorrect.", 3),
        ("Step 4: incorrect", 4),
        ("First wrong step: 2. Step 3 is wrong.", 2),
        ("The first incorrect step is step 5.", 5),
        ("Step 1 is right. Conclusion: right [END]", None),
        ("Step 0 is wrong", None),
        ("wrong", None),
        ("", None),
    ],
)
def test_the_first_step_that_is_called_wrong_is_read(text, number):
    assert read_first_wrong_step(text) == number
