import pytest

from lit_vlm.data.loader_options import check_at_least, check_batching, check_split
from lit_vlm.interfaces.errors import UserError


def test_numbers_that_are_too_low_are_named():
    check_at_least(1, batch_size=1, max_batch_tokens=None)
    check_at_least(0, num_workers=0)
    with pytest.raises(UserError, match="data.batch_size is 0; give at least 1"):
        check_at_least(1, evaluation_batch_size=1, batch_size=0)
    with pytest.raises(UserError, match="data.num_workers is -1; give 0 or more"):
        check_at_least(0, num_workers=-1)


def test_the_size_of_batches_stands_in_their_unit():
    check_batching("fixed", 8, None)
    check_batching("token_budget", None, 100)
    with pytest.raises(UserError, match="say how many tokens"):
        check_batching("token_budget", 8, None)
    with pytest.raises(UserError, match="set it to token_budget"):
        check_batching("length_grouped", 8, 100)
    with pytest.raises(UserError, match="give a number of samples"):
        check_batching("fixed", None, None)


def test_an_unknown_split_is_refused():
    for split in ("train", "validation", "test"):
        check_split(split)
    with pytest.raises(UserError, match="data.predict_split is 'dev'; choose train, validation, test"):
        check_split("dev")
