from dataclasses import replace

import pytest

from lit_vlm.models.layer_sizes import LayerSizes, LinearInput, ModelSizes, StackSizes
from lit_vlm.models.memory_plan import Circumstances, PassSize, RolloutSize, kept_by_layer, plan_memory

LAYER = LayerSizes(
    width=8,
    heads=2,
    queries=8,
    keys=4,
    fused=False,
    feed_forward=16,
    gated=True,
    normed=((8, True, True), (8, True, True)),
    inputs=(LinearInput(8, 3, 0, 0), LinearInput(8, 2, 0, 0), LinearInput(16, 1, 0, 0)),
    output_reader=True,
    weights=600,
    trained_bytes=2400,
)
MODEL = ModelSizes(
    weights={"language": 8000},
    trained={"language": 8000},
    largest_trained=1000,
    language=StackSizes((LAYER, LAYER), checkpointed=False, has_graph=True, quadratic=False),
    vision=None,
    width=8,
    vocabulary=50,
    head_trains=True,
    item_size=4,
    adapter_item_size=0,
    largest_unit=2400,
)
PASS = PassSize(tokens=100, row_tokens=50, labels=60)


def parts(phase, **changed):
    return plan_memory(MODEL, PASS, Circumstances(**changed)).phases[phase]


def test_what_a_layer_keeps_is_worked_out_by_hand():
    # fp32: attention 2*8 + 2*4 = 24 numbers; norms 2*(8 + 8); inputs 8 + 8 + 16; gate 3*16: 136 numbers of 4 bytes.
    assert kept_by_layer(LAYER, 10, 0, 4, False, 0) == 10 * 136 * 4
    # bf16: norms read fp32, 2*(8*4 + 8*2); the rest in 2 bytes: (24 + 32 + 48)*2.
    assert kept_by_layer(LAYER, 10, 0, 2, False, 0) == 10 * (2 * 48 + 104 * 2)
    # Eager attention adds a number for each head and token of the row.
    assert kept_by_layer(LAYER, 10, 5, 4, False, 0) - kept_by_layer(LAYER, 10, 0, 4, False, 0) == 10 * 2 * 5 * 4


def test_an_adapter_keeps_its_inputs_and_ranks():
    frozen = replace(LAYER, inputs=(LinearInput(8, 3, 3, 6),), normed=((8, False, True),))
    # 24 of attention, 8 of the norm, 8 read once, 6 of the ranks, 48 of the gate.
    assert kept_by_layer(frozen, 1, 0, 4, False, 4) == (24 + 8 + 8 + 6 + 48) * 4
    # In bf16 each adapter in fp32 keeps a copy of its own: 3 * 8 * 4.
    assert kept_by_layer(frozen, 1, 0, 2, False, 4) == 24 * 2 + 8 * 4 + 3 * 8 * 4 + 6 * 4 + 48 * 2


def test_checkpointing_keeps_inputs_and_makes_one_layer_again():
    stack = replace(MODEL.language, checkpointed=True)
    plan = plan_memory(replace(MODEL, language=stack), PASS, Circumstances())
    less = plan.phases["forward ends"]["activations, language"]
    more = parts("forward ends")["activations, language"]
    each = kept_by_layer(LAYER, 100, 0, 4, False, 0)
    assert more - less == 2 * each - 2 * 8 * 4 * 100
    assert plan.phases["layer made again"]["activations, layer made again"] == each + 2 * 16 * 4 * 100


def test_state_and_gradients_are_those_of_what_trains():
    held = parts("optimizer step")
    assert (held["optimizer state"], held["gradients"]) == (16000, 8000)
    assert held["step of the optimizer"] == 2000
    assert parts("optimizer step", on_gpu=True)["step of the optimizer"] == 8000
    assert "gradients" not in parts("forward ends", drops_gradients=True)
    assert parts("forward ends")["gradients"] == 8000
    assert parts("backward begins")["gradients"] == 4 * 50 * 8
    assert parts("backward begins", accumulates=True)["gradients"] == 8000 + 4 * 50 * 8


def test_processes_exchange_or_share():
    assert parts("optimizer step", strategy="ddp", ranks=4)["gradients"] == 16000
    for kind in ("fsdp1", "fsdp2", "deepspeed_3"):
        held = parts("optimizer step", strategy=kind, ranks=4)
        assert held["weights, language"] == 2000
        assert held["optimizer state"] == 4000
        assert held["gradients"] == 2000
        assert held["weights gathered from ranks"] == 4800
    held = parts("optimizer step", strategy="deepspeed", ranks=4, shards=(False, True, True))
    assert (held["weights, language"], held["gradients"], held["optimizer state"]) == (8000, 2000 + 8000, 4000)


def test_autocast_copies_weights():
    assert parts("forward ends", autocast=True)["weights, copies of autocast"] == 2 * 2 * 600
    assert "weights, copies of autocast" not in parts("forward ends")


def test_a_reference_and_features_last():
    plan = plan_memory(MODEL, replace(PASS, media_tokens=5), Circumstances(reference_bytes=70, keeps_features=True))
    for held in plan.phases.values():
        assert held["reference"] == 70
        assert held["features of media"] == 5 * 8 * 4


def test_logits_exist_in_slices():
    assert parts("forward ends", chunk_tokens=10)["logits"] == 8 * 10 * 50
    assert parts("forward ends", chunk_tokens=1000)["logits"] == 8 * 60 * 50


def test_rollouts_hold_keys_and_values_of_all_rows():
    rollout = RolloutSize(prompts=2, prompt_tokens=20, rows=8, new_tokens=10)
    held = plan_memory(MODEL, PASS, Circumstances(), rollout).phases["rollout"]
    # 20 tokens and room for 64; two layers of 2 * 4 numbers, and one of them again while it grows.
    assert held["keys and values"] == 8 * 84 * 3 * 2 * 4 * 4
    assert held["logits"] == 5 * 4 * 8 * 50


def test_a_frozen_tower_keeps_nothing_but_is_read():
    tower = StackSizes((replace(LAYER, fused=True, keys=8),), checkpointed=False, has_graph=False, quadratic=False)
    seen = replace(PASS, patches=200, largest_image=200)
    plan = plan_memory(replace(MODEL, vision=tower), seen, Circumstances())
    assert "activations, vision" not in plan.phases["forward ends"]
    assert plan.phases["images read"]["vision tower"] == kept_by_layer(tower.layers[0], 200, 0, 4, False, 0)
    trained = plan_memory(replace(MODEL, vision=replace(tower, has_graph=True)), seen, Circumstances())
    assert trained.phases["forward ends"]["activations, vision"] > 0
    assert "images read" not in trained.phases


def test_twice_the_tokens_keep_twice_as_much():
    more = plan_memory(MODEL, PassSize(200, 50, 120), Circumstances()).phases["forward ends"]["activations, language"]
    assert more == pytest.approx(2 * parts("forward ends")["activations, language"])


def test_shared_prompts_cost_their_tokens_once():
    shared = plan_memory(MODEL, PassSize(100, 50, 60, shared_keys=20), Circumstances())
    repeated = plan_memory(MODEL, PassSize(400, 50, 60), Circumstances())
    assert shared.peak < repeated.peak
