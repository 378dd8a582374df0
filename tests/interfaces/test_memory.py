from lit_vlm.interfaces.memory import MemoryPlan


def test_the_peak_is_the_largest_moment():
    plan = MemoryPlan({"a": {"weights": 3, "logits": 4}, "b": {"weights": 3, "gradients": 5}, "c": {}})
    assert (plan.peak_phase, plan.peak) == ("b", 8)
