import logging
import math

import pytest
import torch

from lit_vlm.functional.gradient_directions import biased_gradient
from lit_vlm.functional.weight_coefficients import CoefficientRule
from lit_vlm.gradients.directional_bias import DirectionalBias
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import ModelReference
from tests.gradients.direction_material import MEMORY, HeldSource, SmallModule, decoder

PER_LAYER = 5  # q weight and bias, o, up, down


def run(module, bias, **coefficients):
    """Returns gradients before and after by name, and the figures."""
    before = dict(zip(module.parameters, module.draw_gradients(), strict=False))
    figures = bias.attach(module)(coefficients)
    return before, {name: value.grad for name, value in module.parameters.items()}, figures


@pytest.mark.parametrize("mode", ["absolute", "gradnorm", "adaptive_cosine"])
def test_every_projection_is_biased_along_its_own_difference_and_nothing_else_is_touched(mode):
    module = SmallModule()
    before, after, figures = run(module, DirectionalBias("prior", mode=mode, alpha=0.7))
    acted = [name for name in before if "_proj." in name]
    assert len(acted) == 2 * PER_LAYER == figures["tensors"]
    for name in before:
        if name in acted:
            wanted = biased_gradient(before[name], module.delta(name), 0.7, mode)
            torch.testing.assert_close(after[name], wanted)
            assert not torch.equal(after[name], before[name])
        else:
            assert torch.equal(after[name], before[name])


def test_figures_tell_how_gradients_lie_to_the_direction_and_how_far_they_are_pushed():
    module = SmallModule()
    before, after, figures = run(module, DirectionalBias("prior"))
    acted = [name for name in before if "_proj." in name]
    cosines = [torch.cosine_similarity(before[name].flatten(), module.delta(name).flatten(), dim=0) for name in acted]
    assert figures["cosine"].item() == pytest.approx(sum(cosines).item() / len(acted), abs=1e-6)
    pushed = sum((after[name] - before[name]).square().sum() for name in acted).sqrt()
    whole = sum(before[name].square().sum() for name in acted).sqrt()
    assert figures["push"].item() == pytest.approx((pushed / whole).item(), rel=1e-5)


def test_the_direction_comes_from_the_checkpoint_and_not_from_what_training_reached():
    weights = {}
    for reached in (0.0, 3.0):
        module = SmallModule()
        for parameter in module.parameters.values():
            parameter.data += reached
        weights[reached] = run(module, DirectionalBias("prior"))[1]
    assert all(torch.equal(weights[0.0][name], weights[3.0][name]) for name in weights[0.0])


def test_names_of_a_text_model_are_found_behind_those_of_a_vision_language_model():
    bias = DirectionalBias("prior").attach(SmallModule())
    assert len(bias.acts_on) == 2 * PER_LAYER
    assert all(name.startswith(f"{MEMORY}layers.") for name in bias.acts_on)


def test_a_bias_that_the_prior_lacks_counts_as_zero():
    module = SmallModule(prior=decoder(1, without=["bias"]))
    before, after, figures = run(module, DirectionalBias("prior", mode="absolute"))
    assert figures["tensors"] == 2 * PER_LAYER
    name = f"{MEMORY}layers.0.self_attn.q_proj.bias"
    torch.testing.assert_close(after[name], before[name] + module.start.tensors["model.layers.0.self_attn.q_proj.bias"])


def test_two_priors_give_their_own_difference():
    other = HeldSource(decoder(3), "other")
    module = SmallModule(others={"other": other})
    before, after, _ = run(module, DirectionalBias("prior", base=ModelReference("other"), mode="absolute"))
    name = f"{MEMORY}layers.1.mlp.up_proj.weight"
    difference = (
        module.sources["prior"].tensors["model.layers.1.mlp.up_proj.weight"]
        - (other.tensors["model.layers.1.mlp.up_proj.weight"])
    )
    torch.testing.assert_close(after[name], before[name] - difference)
    assert module.start.reads == []


def test_modules_and_layers_choose_what_is_biased():
    def chosen(**settings):
        names = DirectionalBias("prior", **settings).attach(SmallModule()).acts_on
        return [name.removeprefix(f"{MEMORY}layers.") for name in names]

    assert chosen(modules=("q",), only_layers=[1]) == ["1.self_attn.q_proj.weight", "1.self_attn.q_proj.bias"]
    assert chosen(modules=("mlp",), skip_first_layers=1) == ["1.mlp.up_proj.weight", "1.mlp.down_proj.weight"]
    assert chosen(modules=("attn", "down"), only_layers=[0]) == [
        "0.self_attn.q_proj.weight",
        "0.self_attn.q_proj.bias",
        "0.self_attn.o_proj.weight",
        "0.mlp.down_proj.weight",
    ]


def test_alpha_may_differ_by_layer_and_group_and_weights_with_none_are_not_read():
    module = SmallModule()
    rules = [CoefficientRule("mlp", [0.0, 2.0]), CoefficientRule("q_proj", 0.5)]
    before, after, figures = run(module, DirectionalBias("prior", alpha=rules, mode="absolute"))
    up, query = f"{MEMORY}layers.1.mlp.up_proj.weight", f"{MEMORY}layers.0.self_attn.q_proj.weight"
    torch.testing.assert_close(after[up], before[up] - 2 * module.delta(up))
    torch.testing.assert_close(after[query], before[query] - 0.5 * module.delta(query))
    untouched = [name for name in before if "layers.0.mlp" in name or "o_proj" in name]
    assert len(untouched) == 4
    assert all(torch.equal(after[name], before[name]) for name in untouched)
    assert figures["tensors"] == 6
    assert not any("layers.0.mlp" in name or "o_proj" in name for name in module.sources["prior"].reads)


def test_a_share_of_alpha_acts_like_a_smaller_alpha():
    halves = run(SmallModule(), DirectionalBias("prior"), alpha_share=0.5)[1]
    smaller = run(SmallModule(), DirectionalBias("prior", alpha=0.5))[1]
    assert all(torch.equal(halves[name], smaller[name]) for name in halves)


def test_a_share_of_none_leaves_every_bit():
    before, after, figures = run(SmallModule(), DirectionalBias("prior"), alpha_share=0.0)
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert figures["push"] == 0
    assert figures["tensors"] == 2 * PER_LAYER


def test_no_alpha_at_all_is_told_and_touches_nothing(caplog):
    with caplog.at_level(logging.WARNING):
        before, after, figures = run(SmallModule(), DirectionalBias("prior", alpha=0))
    assert "0 of 10 chosen weights are biased (10 with alpha 0" in caplog.text
    assert all(torch.equal(after[name], before[name]) for name in before)
    assert figures["tensors"] == 0


def test_the_count_of_biased_weights_is_told(caplog):
    with caplog.at_level(logging.INFO):
        DirectionalBias("prior").attach(SmallModule())
    assert "10 of 10 chosen weights are biased" in caplog.text


def test_a_prior_with_another_rotary_base_is_told(caplog):
    module = SmallModule()
    module.start = HeldSource(module.start.tensors, "start", {"text_config": {"rope_theta": 1e6}})
    for base, warnings in ((10_000.0, 1), (1e6, 0)):
        caplog.clear()
        module.sources["prior"] = HeldSource(decoder(1), "prior", {"rope_theta": base})
        with caplog.at_level(logging.WARNING):
            DirectionalBias("prior").attach(module)
        assert caplog.text.count("than in start: rope_theta 1000000.0 against 10000.0") == warnings


def test_rescaling_brings_the_difference_to_the_length_of_the_weight():
    module = SmallModule()
    before, after, _ = run(module, DirectionalBias("prior", mode="absolute", rescale=True))
    name = f"{MEMORY}layers.0.mlp.down_proj.weight"
    start = module.start.tensors["model.layers.0.mlp.down_proj.weight"]
    assert (before[name] - after[name]).norm().item() == pytest.approx(start.norm().item(), rel=1e-5)


def test_rescaling_has_no_effect_on_rules_that_go_by_norms():
    plain, rescaled = (run(SmallModule(), DirectionalBias("prior", rescale=on))[1] for on in (False, True))
    for name in plain:
        torch.testing.assert_close(plain[name], rescaled[name])


def test_half_the_memory_gives_nearly_the_same_push():
    whole, half = (run(SmallModule(), DirectionalBias("prior", keep_dtype=kept))[1] for kept in ("float32", "bfloat16"))
    for name in whole:
        torch.testing.assert_close(half[name], whole[name], atol=0.05, rtol=0)


def test_gradients_in_half_precision_are_biased_in_single():
    module = SmallModule()
    for parameter in module.parameters.values():
        parameter.data = parameter.data.bfloat16()
    before = dict(zip(module.parameters, module.draw_gradients(), strict=True))
    DirectionalBias("prior").attach(module)({})
    for name in filter(lambda name: "_proj." in name, before):
        wanted = biased_gradient(before[name], module.delta(name), 1.0).bfloat16()
        assert torch.equal(module.parameters[name].grad, wanted)


def test_weights_without_a_gradient_are_passed_by():
    module = SmallModule()
    module.draw_gradients()
    name = f"{MEMORY}layers.0.mlp.down_proj.weight"
    module.parameters[name].grad = None
    figures = DirectionalBias("prior").attach(module)({})
    assert module.parameters[name].grad is None
    assert figures["tensors"] == 2 * PER_LAYER - 1


def test_a_weight_that_the_prior_shares_is_left_alone():
    prior = decoder(1)
    prior["model.layers.0.mlp.up_proj.weight"] = decoder(0)["model.layers.0.mlp.up_proj.weight"]
    bias = DirectionalBias("prior").attach(SmallModule(prior=prior))
    assert f"{MEMORY}layers.0.mlp.up_proj.weight" not in bias.acts_on
    assert len(bias.acts_on) == 2 * PER_LAYER - 1


def test_factors_of_an_adapter_are_biased_along_the_projection_at_each_step():
    module = SmallModule(adapted=True)
    attached = DirectionalBias("prior", modules=("mlp",), only_layers=[1]).attach(module)
    assert attached.acts_on == [f"{MEMORY}layers.1.mlp.up_proj.weight", f"{MEMORY}layers.1.mlp.down_proj.weight"]
    for step in range(2):
        module.draw_gradients(step)
        held = module.factors[attached.acts_on[0]]
        held.inner.data += step  # training moves the factors; the projection follows
        delta = module.delta(attached.acts_on[0])
        outer = biased_gradient(held.outer.grad, 1.5 * delta @ held.inner.T, 1.0)
        inner = biased_gradient(held.inner.grad, 1.5 * held.outer.T @ delta, 1.0)
        assert attached({})["tensors"] == 4
        torch.testing.assert_close(held.outer.grad, outer)
        torch.testing.assert_close(held.inner.grad, inner)


def test_an_adapter_that_adds_nothing_yet_keeps_the_gradient_of_its_inner_factor():
    module = SmallModule(adapted=True)
    for held in module.factors.values():
        held.outer.data.zero_()
    module.draw_gradients()
    held = next(iter(module.factors.values()))
    inner, outer = held.inner.grad.clone(), held.outer.grad.clone()
    DirectionalBias("prior").attach(module)({})
    assert torch.equal(held.inner.grad, inner)
    assert not torch.equal(held.outer.grad, outer)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"alpha": math.nan}, "alpha of DirectionalBias is nan; give finite numbers"),
        ({"alpha": [0.0, math.inf]}, "give finite numbers"),
        ({"alpha": []}, "give finite numbers"),
        ({"mode": "cosine"}, "mode of DirectionalBias is 'cosine'; give one of absolute, gradnorm, adaptive_cosine"),
        ({"modules": ("norm",)}, "choose from attn, mlp, q"),
        ({"modules": ()}, "choose from attn, mlp, q"),
        ({"skip_first_layers": -1}, "layers count from 0"),
        ({"only_layers": []}, "at least one must be left"),
    ],
)
def test_settings_that_mean_nothing_are_refused(settings, message):
    with pytest.raises(UserError, match=message):
        DirectionalBias("prior", **settings)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        ({}, {}, None),
        ({"prior": decoder(1, layers=3)}, {}, "the decoder of prior has 3 layers, that of start 2"),
        ({}, {"only_layers": [7]}, "only_layers of DirectionalBias has 7"),
        ({}, {"alpha": [CoefficientRule("q_porj", 1.0)]}, "filter 'q_porj' finds no weight"),
        ({}, {"alpha": [CoefficientRule("norm", 1.0)]}, "filter 'norm' finds no weight"),
        ({}, {"base": "other"}, "other"),
    ],
)
def test_what_can_be_seen_before_a_model_is_loaded_is_told(module, settings, message):
    small = SmallModule(**module)
    del small.parameters, small.factors  # as before configure_model
    if message is None:
        DirectionalBias("prior", **settings).check(small)
        return
    with pytest.raises((UserError, KeyError), match=message):
        DirectionalBias("prior", **settings).check(small)


@pytest.mark.parametrize(
    ("module", "settings", "message"),
    [
        ({"trains": lambda name: "visual" in name}, {}, "of which nothing trains, only others such as model.visual"),
        ({"trains": lambda name: False}, {}, "decoder, of which nothing trains; train the language part"),
        ({"trains": lambda name: "norm" in name}, {}, "chooses none of the 2 weights that train"),
        ({}, {"skip_first_layers": 2}, "chooses none of the 13 weights that train in the decoder of 2 layers"),
        ({}, {"only_layers": [1, 7]}, "only_layers of DirectionalBias has 7, but the decoder has layers 0 to 1"),
        ({"prior": decoder(1, layers=3)}, {}, "the decoder of prior has 3 layers, that of start 2"),
        (
            {"prior": {name.replace("_proj", "_layer"): value for name, value in decoder(1).items()}},
            {},
            r"prior lacks 10 of the 10 weights to bias, layers\.0\.self_attn\.q_proj.*layers\.0\.self_attn\.q_layer",
        ),
        ({"prior": {f"gpt.{name}": value for name, value in decoder(1).items()}}, {}, "prior has 0 layers"),
        (
            {"prior": decoder(1) | {"model.layers.1.mlp.up_proj.weight": torch.ones(9, 4)}},
            {},
            r"1 weights of other shapes .*layers\.1\.mlp\.up_proj\.weight \[9, 4\] instead of \[5, 4\]",
        ),
        ({"prior": decoder(0)}, {}, "the direction is zero everywhere: prior and start have the same 10 weights"),
        (
            {"prior": decoder(1) | {"model.layers.1.mlp.up_proj.weight": torch.full((5, 4), math.nan)}},
            {},
            r"layers\.1\.mlp\.up_proj\.weight of prior holds NaN or infinity; .* fetch it again",
        ),
        ({}, {"alpha": [CoefficientRule("q_porj", 1.0)]}, "filter 'q_porj' finds no weight; did you mean .*q_proj"),
    ],
)
def test_what_cannot_be_biased_is_told(module, settings, message):
    with pytest.raises(UserError, match=message):
        DirectionalBias("prior", **settings).attach(SmallModule(**module))
