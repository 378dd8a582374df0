import math

import pytest

from lit_vlm.callbacks.kl_scheduler import KLScheduler
from lit_vlm.interfaces.coefficients import Coefficient, Coefficients
from lit_vlm.interfaces.errors import UserError
from tests.callbacks.rollout_fakes import Module, make_iteration, make_rollouts, make_trainer, on_ranks, play

FOUR = make_rollouts([[0.0]] * 4)


def start(callback, high=1.0, **options):
    trainer, module = make_trainer(**options), Module(kl=Coefficient(0.04, 0.0, high))
    callback.setup(trainer, module, "fit")
    return trainer, module


@pytest.mark.parametrize(
    ("kind", "values"),
    [("linear", [0.0, 0.01, 0.02, 0.04, 0.04]), ("cosine", [0.0, 0.005858, 0.02, 0.04, 0.04])],
)
def test_the_weights_of_grpo_d_are_those_of_the_card(kind, values):
    callback = KLScheduler(kind, steps=200)
    trainer, module = start(callback)
    for step, value in zip((0, 50, 100, 200, 300), values, strict=True):
        play(callback, trainer, module, make_iteration(step=step))
        assert module.coefficients["kl"] == pytest.approx(value, abs=5e-7)


def test_a_constant_is_what_is_given_or_declared():
    for given, expected in ((0.3, 0.3), (None, 0.04), (0.0, 0.0)):
        callback = KLScheduler("constant", start=given)
        trainer, module = start(callback, max_steps=-1)
        play(callback, trainer, module, make_iteration(step=50))
        assert module.coefficients["kl"] == expected


def test_the_adaptive_weight_follows_the_divergence():
    callback = KLScheduler("adaptive", start=0.1, target=0.1, horizon=40)
    trainer, module = start(callback)
    play(callback, trainer, module, make_iteration(FOUR, kl=0.5))
    # Clipped to 0.2: 0.1 * (1 + 0.2 * 4 / 40).
    assert module.coefficients["kl"] == callback.value == pytest.approx(0.102)
    # The round itself was trained with the weight before.
    assert module.logged == {"train/coefficient/kl": 0.1}
    play(callback, trainer, module, make_iteration(FOUR, kl=0.09))
    # 10 % below: 0.102 * (1 - 0.1 * 4 / 40).
    assert module.coefficients["kl"] == pytest.approx(0.100980)


def test_the_adaptive_weight_stays_within_its_bounds():
    callback = KLScheduler("adaptive", target=0.1, horizon=1, lowest=0.01, highest=0.06)
    trainer, module = start(callback)
    seen = []
    for divergence in (9.0, 9.0, 0.0, 0.0, 0.0):
        play(callback, trainer, module, make_iteration(FOUR, kl=divergence))
        seen.append(module.coefficients["kl"])
    # Factors of 1.8 and 0.2 from 0.04.
    assert seen == pytest.approx([0.06, 0.06, 0.012, 0.01, 0.01])
    unbounded = KLScheduler("adaptive", horizon=1)
    trainer, module = start(unbounded, high=0.05)
    play(unbounded, trainer, module, make_iteration(FOUR, kl=9.0))
    assert module.coefficients["kl"] == 0.05


def test_the_figure_is_chosen_by_name():
    for options, figures in (({}, {"reward_kl": 9.0}), ({"metric": "old_kl"}, {"kl": 0.0, "old_kl": 9.0})):
        callback = KLScheduler("adaptive", start=0.1, horizon=40, **options)
        trainer, module = start(callback)
        play(callback, trainer, module, make_iteration(FOUR, **figures))
        assert module.coefficients["kl"] == pytest.approx(0.102)
    callback = KLScheduler("adaptive", metric="divergence")
    trainer, module = start(callback)
    with pytest.raises(UserError, match=r"reads the figure divergence, which .* it has kl, loss; set metric"):
        play(callback, trainer, module, make_iteration(FOUR, kl=0.1, loss=1.0))
    with pytest.raises(UserError, match="adapts to kl, which is NaN"):
        play(KLScheduler("adaptive", start=0.1), trainer, module, make_iteration(FOUR, kl=math.nan))


def test_a_round_that_learns_nothing_changes_nothing():
    callback = KLScheduler("adaptive", start=0.1)
    trainer, module = start(callback)
    play(callback, trainer, module, make_iteration())
    play(callback, trainer, module, make_iteration(FOUR, updates=0.0))
    assert module.coefficients["kl"] == 0.1


def test_two_ranks_count_their_completions_together_and_agree():
    def run(rank, make):
        callback = KLScheduler("adaptive", start=0.1, target=0.1, horizon=40)
        module, trainer = Module(), make()
        callback.setup(trainer, module, "fit")
        # All four completions lie on the first rank.
        play(callback, trainer, module, make_iteration(make_rollouts([[0.0]] * (4 if rank == 0 else 0)), kl=0.5))
        assert trainer.strategy.calls == 1
        return module.coefficients["kl"]

    first, second = on_ranks(2, run)
    assert first == second == pytest.approx(0.102)


def test_a_resumed_run_adapts_as_the_uninterrupted_one():
    def make():
        return KLScheduler("adaptive", target=0.1, horizon=10)

    divergences = [0.3, 0.02, 0.11, 0.09, 0.2, 0.0]
    whole = make()
    trainer, module = start(whole)
    for step, divergence in enumerate(divergences):
        play(whole, trainer, module, make_iteration(FOUR, step=step, kl=divergence))
    first = make()
    trainer, module = start(first)
    for step in range(3):
        play(first, trainer, module, make_iteration(FOUR, step=step, kl=divergences[step]))
    again = make()
    trainer, module = start(again)
    again.load_state_dict(first.state_dict())
    for step in range(3, 6):
        play(again, trainer, module, make_iteration(FOUR, step=step, kl=divergences[step]))
    assert again.state_dict() == whole.state_dict()
    assert module.coefficients["kl"] == whole.value


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"kind": "square"}, "kind is 'square'; it must be one of constant, linear, cosine, adaptive"),
        ({"start": 0.1}, "goes down from start 0.1 to end 0.04; set allow_decay to true"),
        ({"kind": "adaptive", "target": 0.0}, "has target 0.0 and horizon 10000; give positive"),
        ({"kind": "adaptive", "lowest": 0.0}, "has lowest 0.0 and highest None; they must be finite"),
        ({"kind": "adaptive", "lowest": 0.2, "highest": 0.1}, "has lowest 0.2 and highest 0.1; they must be"),
    ],
)
def test_options_that_make_no_schedule_are_refused(options, told):
    with pytest.raises(UserError, match=f"KLScheduler.{told}"):
        KLScheduler(**options)


def test_going_down_is_allowed_where_it_is_meant():
    callback = KLScheduler(start=0.1, end=0.0, steps=10, allow_decay=True)
    trainer, module = start(callback)
    play(callback, trainer, module, make_iteration(step=5))
    assert module.coefficients["kl"] == pytest.approx(0.05)


def test_what_the_module_does_not_allow_fails_before_training():
    with pytest.raises(UserError, match=r"KLScheduler takes .* from 0 to 3, .* \[0, 1\]; raise highest_kl of the obj"):
        start(KLScheduler(end=3.0))
    with pytest.raises(UserError, match=r"from 1e-06 to 3, .* raise highest_kl"):
        start(KLScheduler("adaptive", highest=3.0))
    with pytest.raises(UserError, match=r"begins to adapt at 0, outside its bounds \[1e-06, 1\]; set start"):
        start(KLScheduler("adaptive", start=0.0))
    module = Module(clip_low=Coefficient(0.2, 0.0, 0.9))
    with pytest.raises(UserError, match=r"'kl', which this module lacks; it has clip_low; .* highest_kl .* at least 0"):
        KLScheduler().setup(make_trainer(), module, "fit")


def test_a_weight_cannot_adapt_to_completions_that_nobody_samples():
    class Comparing:
        coefficients = Coefficients({"beta": Coefficient(0.1)})

    KLScheduler("linear", coefficient="beta", start=0.1, end=0.3).setup(make_trainer(), Comparing(), "fit")
    with pytest.raises(UserError, match="Comparing samples none; choose linear or cosine"):
        KLScheduler("adaptive", coefficient="beta").setup(make_trainer(), Comparing(), "fit")
