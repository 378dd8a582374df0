import pickle
import sys

import pytest

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.rollouts import RewardContext
from lit_vlm.rewards.function_reward import FunctionReward, _load
from lit_vlm.rewards.reward_run import run_reward

SOURCE = """
import math
LIMIT = 3
def brevity(completion):
    return None if completion.text == "skip" else 1 / (1 + len(completion.text))
def numberless(completion):
    return "high"
def infinite(completion):
    return math.inf
def ranks(completions):
    return [float(place) for place, _ in enumerate(completions)]
def one_short(completions):
    return [0.0] * (len(completions) - 1)
def two(completion, other):
    return 0.0
def with_default(completion, scale=2):
    return scale
"""


@pytest.fixture
def module(tmp_path, monkeypatch, request):
    """Writes the functions as a module beside the recipe, under a name of this test's own."""
    name = "functions_" + str(abs(hash(request.node.name)))
    (tmp_path / f"{name}.py").write_text(SOURCE)
    (tmp_path / f"{name}_broken.py").write_text("import no_such_library\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    return name


def test_a_function_scores_each_completion(module, complete):
    output = FunctionReward(f"{module}.brevity")([complete("a"), complete("skip"), complete("abc")])
    assert output.total[::2].tolist() == [0.5, 0.25]
    assert output.applies.tolist() == [True, False, True]
    assert FunctionReward(f"{module}.with_default")([complete("a")]).total.tolist() == [2]


def test_a_process_that_is_handed_it_imports_the_function_at_once(module, tmp_path, monkeypatch):
    handed = pickle.dumps(FunctionReward(f"{module}.brevity"))
    _load.cache_clear()
    monkeypatch.delitem(sys.modules, module)
    assert pickle.loads(handed) == FunctionReward(f"{module}.brevity")
    monkeypatch.delitem(sys.modules, module)
    (tmp_path / f"{module}.py").unlink()
    _load.cache_clear()
    with pytest.raises(UserError, match=f"there is no module '{module}'"):
        pickle.loads(handed)


def test_a_function_of_groups_sees_the_completions_of_a_prompt(module, complete):
    reward = FunctionReward(f"{module}.ranks", takes="group")
    context = RewardContext(group_of=(5, 6, 5, 6))
    assert reward([complete()] * 4, context).total.tolist() == [0, 0, 1, 1]
    assert reward([complete()] * 2).total.tolist() == [0, 0]
    assert reward.needs_groups
    assert not FunctionReward(f"{module}.brevity").needs_groups


@pytest.mark.parametrize(
    ("function", "told"),
    [
        ("brevity", "has no module; write it as my_rewards.brevity"),
        ("no_such_module.brevity", "there is no module 'no_such_module'"),
        ("{}.no_such_function", "has no function 'no_such_function'; it has brevity"),
        ("{}.LIMIT", "is a int, not a function"),
        ("{}.two", "cannot be called with one argument"),
        ("{}_broken.x", "cannot be imported: No module named 'no_such_library'"),
    ],
)
def test_a_wrong_function_is_refused_before_the_first_step(module, function, told):
    with pytest.raises(UserError, match=told):
        FunctionReward(function.format(module))


def test_a_wrong_way_to_take_completions_is_refused(module):
    with pytest.raises(UserError, match="takes is 'batch'"):
        FunctionReward(f"{module}.brevity", takes="batch")


@pytest.mark.parametrize(("function", "told"), [("numberless", "returned a str for sample 's'"), ("infinite", "inf")])
def test_what_is_no_number_is_a_fault(module, complete, function, told):
    run = run_reward(FunctionReward(f"{module}.{function}"), [complete()], RewardContext())
    assert told in run.faults[0]


def test_a_wrong_number_of_scores_for_a_group_is_a_fault(module, complete):
    reward = FunctionReward(f"{module}.one_short", takes="group")
    run = run_reward(reward, [complete()] * 2, RewardContext(group_of=(0, 0)))
    assert "returned 1 scores for a group of 2 completions" in run.faults[0]
