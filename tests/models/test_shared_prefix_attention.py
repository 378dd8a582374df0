import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from lit_vlm.models.shared_prefix_attention import (
    SharedPrefixLayout,
    UnshareableAttentionError,
    shared_prefix_attention,
)

PROMPT_MASK = torch.tensor([[1, 1, 1], [1, 0, 0]])
COMPLETION_MASK = torch.tensor([[1, 1], [1, 0], [0, 0], [1, 1]])
PROMPT_OF = torch.tensor([1, 0, 0, 0])


def layout():
    return SharedPrefixLayout.of_masks(PROMPT_MASK, COMPLETION_MASK, PROMPT_OF)


def block_mask():
    """Written by hand: prompts at 0-2 and 3; completions at 4-5 (of 3), 6 and 7-8 (of 0-2)."""
    sees = {
        **{token: range(token + 1) for token in range(3)},
        3: [3], 4: [3, 4], 5: [3, 4, 5], 6: [0, 1, 2, 6], 7: [0, 1, 2, 7], 8: [0, 1, 2, 7, 8],
    }  # fmt: skip
    mask = torch.zeros(9, 9, dtype=torch.bool)
    for token, keys in sees.items():
        mask[token, list(keys)] = True
    return mask


class Layer(torch.nn.Module):
    def __init__(self, groups=1):
        super().__init__()
        self.num_key_value_groups = groups


def states(heads=2, key_heads=2):
    generator = torch.Generator().manual_seed(0)
    shapes = [(1, count, 9, 4) for count in (heads, key_heads, key_heads)]
    return [torch.randn(shape, generator=generator, requires_grad=True) for shape in shapes]


def test_the_layout_is_that_worked_by_hand():
    found = layout()
    assert found.prompt_tokens.tolist() == [[0, 1, 2], [3, 0, 0]]
    assert found.completion_tokens.tolist() == [[4, 5], [6, 0], [0, 0], [7, 8]]
    assert found.places.tolist() == [0, 1, 2, 3, 6, 7, 8, 12, 13]
    assert found.mask[0, 0].tolist() == [[True, False, False, True, False], [True, False, False, True, True]]


@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("scaling", [None, 0.3])
def test_values_and_gradients_are_those_of_a_block_mask(key_heads, scaling):
    query, key, value = states(4, key_heads)
    layer = Layer(4 // key_heads)
    found, _ = shared_prefix_attention(layer, query, key, value, None, shared_prefix=layout(), scaling=scaling)
    wide = [state.repeat_interleave(4 // key_heads, 1) for state in (key, value)]
    expected = scaled_dot_product_attention(query, *wide, attn_mask=block_mask(), scale=scaling).transpose(1, 2)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-5)
    upstream = torch.linspace(-1, 1, found.numel()).view_as(found)
    leaves = [query, key, value]
    for gradient, wanted in zip(
        torch.autograd.grad(found, leaves, upstream), torch.autograd.grad(expected, leaves, upstream), strict=True
    ):
        torch.testing.assert_close(gradient, wanted, atol=1e-6, rtol=1e-5)


def test_without_a_layout_it_is_plain_causal_attention():
    found, _ = shared_prefix_attention(Layer(), *states(), None)
    expected = scaled_dot_product_attention(*states(), is_causal=True).transpose(1, 2)
    torch.testing.assert_close(found, expected)


def test_prompts_alone_need_no_second_part():
    empty = SharedPrefixLayout.of_masks(torch.ones(1, 9, dtype=torch.long), torch.ones(2, 0), torch.tensor([0, 0]))
    found, _ = shared_prefix_attention(Layer(), *states(), None, shared_prefix=empty)
    torch.testing.assert_close(found, shared_prefix_attention(Layer(), *states(), None)[0])


@pytest.mark.parametrize("option", ["softcap", "s_aux", "position_bias", "sliding_window"])
def test_what_the_pass_does_not_know_is_refused(option):
    name = option if option != "sliding_window" else "sliding window"
    with pytest.raises(UnshareableAttentionError, match=name):
        shared_prefix_attention(Layer(), *states(), None, shared_prefix=layout(), **{option: 4})
