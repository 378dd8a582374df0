import math

import pytest
import torch

from lit_vlm.functional.chunked_log_probs import chunked_distributions, chunked_log_probs, token_log_probs


def naive(hidden, weight, bias, targets):
    return token_log_probs(torch.nn.functional.linear(hidden, weight, bias), targets)


def example(tokens=7, width=5, vocabulary=11, dtype=torch.float64, bias=True):
    generator = torch.Generator().manual_seed(0)
    hidden = torch.randn(tokens, width, generator=generator, dtype=dtype, requires_grad=True)
    weight = torch.randn(vocabulary, width, generator=generator, dtype=dtype, requires_grad=True)
    offset = torch.randn(vocabulary, generator=generator, dtype=dtype, requires_grad=True) if bias else None
    targets = torch.randint(vocabulary, (tokens,), generator=generator)
    return hidden, weight, offset, targets


def test_log_probs_of_two_tokens_are_those_worked_by_hand():
    # logits (0, ln 3): probabilities 1/4 and 3/4.
    values, is_top = chunked_log_probs(
        torch.tensor([[1.0], [1.0]]), torch.tensor([[0.0], [math.log(3)]]), None, torch.tensor([0, 1])
    )
    assert values.tolist() == pytest.approx([math.log(0.25), math.log(0.75)])
    assert is_top.tolist() == [False, True]


@pytest.mark.parametrize("chunk_tokens", [1, 2, 3, 7, 100])
@pytest.mark.parametrize("bias", [True, False])
def test_any_chunk_size_gives_the_values_and_gradients_of_the_naive_form(chunk_tokens, bias):
    hidden, weight, offset, targets = example(dtype=torch.float32, bias=bias)
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    upstream = torch.linspace(-1, 2, len(targets))
    expected = naive(hidden, weight, offset, targets)
    expected_gradients = torch.autograd.grad(expected, leaves, upstream)
    values, _ = chunked_log_probs(hidden, weight, offset, targets, chunk_tokens)
    gradients = torch.autograd.grad(values, leaves, upstream)
    torch.testing.assert_close(values, expected, atol=1e-6, rtol=1e-6)
    for gradient, wanted in zip(gradients, expected_gradients, strict=True):
        torch.testing.assert_close(gradient, wanted, atol=1e-5, rtol=1e-5)


def test_only_the_gradients_asked_for_are_computed():
    hidden, weight, _, targets = example(dtype=torch.float32)
    values, _ = chunked_log_probs(hidden, weight.detach(), None, targets)
    values.sum().backward()
    assert hidden.grad is not None
    assert weight.grad is None


def test_no_token_gives_an_empty_result_with_a_graph():
    hidden, weight, _, _ = example(dtype=torch.float32)
    values, is_top = chunked_log_probs(hidden[:0], weight, None, torch.zeros(0, dtype=torch.long))
    assert values.shape == is_top.shape == (0,)
    values.sum().backward()
    assert torch.equal(weight.grad, torch.zeros_like(weight))


def test_bfloat16_states_are_normalised_in_float32():
    hidden, weight, _, targets = example(tokens=64, dtype=torch.float32)
    values, _ = chunked_log_probs(hidden.bfloat16(), weight.bfloat16(), None, targets)
    logits = hidden.bfloat16() @ weight.bfloat16().T
    torch.testing.assert_close(values, token_log_probs(logits, targets), atol=1e-5, rtol=1e-5)
    assert values.dtype == torch.float32


def test_autocast_is_used_alike_forward_and_backward():
    hidden, weight, _, targets = example(dtype=torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        values, _ = chunked_log_probs(hidden, weight, None, targets)
    values.sum().backward()
    expected = naive(hidden.bfloat16(), weight.bfloat16(), None, targets)
    torch.testing.assert_close(values, expected, atol=2e-2, rtol=2e-2)
    assert hidden.grad.dtype == torch.float32
    assert torch.isfinite(hidden.grad).all()


def test_huge_logits_stay_finite():
    values, _ = chunked_log_probs(torch.tensor([[1e4]]), torch.tensor([[1.0], [-1.0]]), None, torch.tensor([1]))
    assert values.item() == pytest.approx(-2e4)


def test_a_chunk_of_no_tokens_is_refused():
    hidden, weight, _, targets = example()
    with pytest.raises(ValueError, match="chunk_tokens is 0"):
        chunked_log_probs(hidden, weight, None, targets, 0)


def naive_distributions(hidden, weight, bias, targets, temperature):
    scores = torch.nn.functional.linear(hidden, weight, bias) / temperature
    log_probs = scores.log_softmax(-1)
    return log_probs.gather(-1, targets[:, None]).squeeze(-1), -(log_probs.exp() * log_probs).sum(-1)


def test_temperature_and_entropy_are_those_worked_by_hand():
    # logits (0, 2 ln 3) at temperature 2: probabilities 1/4 and 3/4.
    found = chunked_distributions(
        torch.tensor([[1.0]]),
        torch.tensor([[0.0], [2 * math.log(3)]]),
        None,
        torch.tensor([1]),
        temperature=2.0,
        with_entropies=True,
    )
    assert found.log_probs.item() == pytest.approx(math.log(0.75))
    assert found.entropies.item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


@pytest.mark.parametrize("chunk_tokens", [1, 3, 100])
@pytest.mark.parametrize("temperature", [0.3, 1.0, 1.7])
@pytest.mark.parametrize("bias", [True, False])
def test_log_probs_and_entropies_have_the_gradients_of_autograd(chunk_tokens, temperature, bias):
    hidden, weight, offset, targets = example(dtype=torch.float32, bias=bias)
    leaves = [leaf for leaf in (hidden, weight, offset) if leaf is not None]
    upstream = (torch.linspace(-1, 2, len(targets)), torch.linspace(3, -1, len(targets)))
    expected = naive_distributions(hidden, weight, offset, targets, temperature)
    found = chunked_distributions(
        hidden, weight, offset, targets, temperature=temperature, with_entropies=True, chunk_tokens=chunk_tokens
    )
    values = (found.log_probs, found.entropies)
    for gradient, wanted in zip(
        torch.autograd.grad(values, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, atol=3e-5, rtol=1e-4)
    for value, wanted in zip(values, expected, strict=True):
        torch.testing.assert_close(value, wanted, atol=1e-5, rtol=1e-5)


def test_either_figure_alone_has_its_own_gradient():
    hidden, weight, _, targets = example(dtype=torch.float32)
    expected = naive_distributions(hidden, weight, None, targets, 0.5)
    found = chunked_distributions(hidden, weight, None, targets, temperature=0.5, with_entropies=True)
    for value, wanted in zip((found.log_probs, found.entropies), expected, strict=True):
        gradient, correct = (torch.autograd.grad(v.sum(), hidden, retain_graph=True)[0] for v in (value, wanted))
        torch.testing.assert_close(gradient, correct, atol=3e-5, rtol=1e-4)


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
def test_a_temperature_that_is_no_positive_number_is_refused(temperature):
    with pytest.raises(ValueError, match="temperature is"):
        chunked_distributions(*example(), temperature=temperature)
