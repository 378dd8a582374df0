import pytest
import torch

from lit_vlm.paradigms.step_figures import StepFigures


def alone(value):
    return value


def test_shares_add_up_and_means_weigh_by_what_they_count():
    figures = StepFigures()
    figures.add_shares({"loss": torch.tensor(0.25)})
    figures.add_means({"accuracy": torch.tensor(3.0)}, torch.tensor(3))
    figures.add_shares({"loss": torch.tensor(0.5)})
    figures.add_means({"accuracy": torch.tensor(0.0)}, torch.tensor(1))
    found = figures.take(alone)
    assert {name: float(value) for name, value in found.items()} == {"loss": 0.75, "accuracy": 0.75}


def test_ranks_are_added_before_means_are_taken():
    figures = StepFigures()
    figures.add_shares({"loss": torch.tensor(1.0)})
    figures.add_means({"accuracy": torch.tensor(1.0)}, torch.tensor(4))
    found = figures.take(lambda value: value * 2)
    assert {name: float(value) for name, value in found.items()} == {"loss": 2.0, "accuracy": 0.25}


def test_figures_of_two_passes_are_put_together():
    first, second = StepFigures(), StepFigures()
    first.add_shares({"loss": torch.tensor(0.25)})
    first.add_means({"accuracy": torch.tensor(3.0)}, torch.tensor(3))
    second.add_means({"accuracy": torch.tensor(0.0)}, torch.tensor(1))
    second.add_shares({"loss": torch.tensor(0.5)})
    found = (StepFigures() + first + second).take(alone)
    assert {name: float(value) for name, value in found.items()} == {"loss": 0.75, "accuracy": 0.75}
    assert float(first.take(alone)["loss"]) == 0.25


def test_a_mean_over_nothing_is_0():
    figures = StepFigures()
    figures.add_means({"kl": torch.tensor(0.0)}, torch.tensor(0))
    assert float(figures.take(alone)["kl"]) == 0


def test_taking_begins_anew():
    figures = StepFigures()
    assert figures.take(alone) == {}
    figures.add_shares({"loss": torch.tensor(1.0)})
    figures.take(alone)
    figures.add_shares({"loss": torch.tensor(3.0)})
    assert float(figures.take(alone)["loss"]) == 3


def test_nothing_keeps_a_graph():
    figures = StepFigures()
    value = torch.tensor(2.0, requires_grad=True)
    figures.add_shares({"loss": value * 3})
    figures.add_means({"kl": value * 2}, torch.tensor(2))
    found = figures.take(alone)
    assert not any(figure.requires_grad for figure in found.values())
    assert float(found["kl"]) == pytest.approx(2)
