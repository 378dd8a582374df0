import pytest
import torch

from lit_vlm.interfaces.errors import UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.paradigms.grpo import GRPOModule
from lit_vlm.paradigms.reference_policy import ReferencePolicy, ReferenceSettings, reference_for


@pytest.fixture
def load(random_tiny_folder, random_tiny_encoder):
    """Loads a copy of the random tiny model."""
    return lambda **options: Backbone(str(random_tiny_folder), **options).load_model(random_tiny_encoder)


def trained(policy):
    return {name: value.detach().clone() for name, value in policy.named_parameters() if value.requires_grad}


def move(policy, distance=1.0):
    with torch.no_grad():
        for value in policy.parameters():
            if value.requires_grad:
                value.add_(distance)


def same(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"kind": "copy"}, r"model\.reference\.kind is 'copy'; give one of adapter_off, frozen_copy, cached"),
        ({"sync_every": 0}, r"sync_every is 0"),
        ({"mixing": 0.0}, r"mixing is 0\.0"),
        ({"mixing": 1.5}, r"mixing is 1\.5"),
        ({"kind": "adapter_off", "sync_every": 4}, "without its adapter cannot follow the policy"),
        ({"kind": "cached", "sync_every": 4}, "a file cannot follow the policy"),
        ({"cache": "file"}, r"model\.reference\.cache is given, but model\.reference\.kind is frozen_copy"),
    ],
)
def test_settings_out_of_range_are_refused(options, message):
    with pytest.raises(UserError, match=message):
        ReferenceSettings(**options)


def test_switching_off_an_adapter_needs_one():
    ReferenceSettings("adapter_off").check(has_adapter=True)
    ReferenceSettings().check(has_adapter=False)
    with pytest.raises(UserError, match="set it to frozen_copy"):
        ReferenceSettings("adapter_off").check(has_adapter=False)


def test_memory_that_runs_out_in_a_swap_leaves_the_policy_as_it_was(load, monkeypatch):
    policy = load()
    reference, start = ReferencePolicy(ReferenceSettings(), policy), trained(policy)
    move(policy)
    moved, given, calls = trained(policy), torch.Tensor.to, []

    def scarce(self, *arguments, **options):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no memory for the copy on the device")
        return given(self, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(torch.Tensor, "to", scarce)
        with pytest.raises(torch.OutOfMemoryError), reference.installed():
            pass
    assert same(trained(policy), moved)
    with reference.installed():
        assert same(trained(policy), start)
    assert same(trained(policy), moved)


def test_a_frozen_copy_stays_while_the_policy_moves(load):
    policy = load()
    reference, start = ReferencePolicy(ReferenceSettings(), policy), trained(policy)
    move(policy)
    moved = trained(policy)
    with reference.installed():
        assert same(trained(policy), start)
        assert not policy.training
        assert not torch.is_grad_enabled()
    assert same(trained(policy), moved)
    assert not same(moved, start)


def test_the_policy_is_back_after_a_fault(load):
    policy = load()
    reference = ReferencePolicy(ReferenceSettings(), policy)
    move(policy)
    moved = trained(policy)
    with pytest.raises(KeyError), reference.installed():
        raise KeyError
    assert same(trained(policy), moved)


def test_a_copy_holds_only_what_trains(load):
    policy = load(adapter=AdapterSettings(rank=4))
    reference = ReferencePolicy(ReferenceSettings(sync_every=1), policy)
    assert reference.state_dict().keys() == trained(policy).keys()
    assert len(trained(policy)) < len(list(policy.parameters()))


@pytest.mark.parametrize("mixing", [1.0, 0.6])
def test_a_copy_follows_when_it_is_time(load, mixing):
    policy = load()
    reference, start = ReferencePolicy(ReferenceSettings(sync_every=3, mixing=mixing), policy), trained(policy)
    move(policy)
    assert [step for step in range(8) if reference.follow(step)] == [3, 6]
    reference = ReferencePolicy(ReferenceSettings(sync_every=3, mixing=mixing), policy)
    move(policy)
    reference.follow(3)
    with reference.installed():
        for name, value in trained(policy).items():
            torch.testing.assert_close(value, start[name] + 1 + mixing)


def test_a_copy_that_never_follows_is_not_saved(load):
    policy = load()
    assert ReferencePolicy(ReferenceSettings(), policy).state_dict() == {}
    following = ReferencePolicy(ReferenceSettings(sync_every=1), policy)
    move(policy)
    following.follow(1)
    saved = following.state_dict()
    again = ReferencePolicy(ReferenceSettings(sync_every=1), policy)
    move(policy)
    again.load_state_dict(saved)
    with again.installed():
        assert same(trained(policy), saved)


def test_a_saved_copy_of_other_weights_is_refused(load):
    reference = ReferencePolicy(ReferenceSettings(sync_every=1), load())
    with pytest.raises(UserError, match=r"resume with the same model\.reference"):
        reference.load_state_dict({"other": torch.zeros(1)})


def test_features_are_shared_where_vision_does_not_train(load):
    assert ReferencePolicy(ReferenceSettings(), load(train_parts=["language"])).shares_vision
    assert not ReferencePolicy(ReferenceSettings(), load()).shares_vision
    adapted = load(adapter=AdapterSettings(rank=4))
    assert ReferencePolicy(ReferenceSettings("adapter_off"), adapted).shares_vision


def test_a_module_that_samples_its_completions_refuses_a_file():
    with pytest.raises(UserError, match=r"model\.reference\.kind is cached, but this module samples"):
        GRPOModule(reference=ReferenceSettings("cached"))
    ReferenceSettings().check_on_policy()


def test_what_nobody_asked_for_is_chosen_by_the_adapter():
    new, loaded = AdapterSettings(), AdapterSettings(load="folder")
    assert reference_for(None, None, is_needed=False) is None
    assert reference_for(None, None, is_needed=True).kind == "frozen_copy"
    assert reference_for(None, new, is_needed=True).kind == "adapter_off"
    assert reference_for(None, loaded, is_needed=True).kind == "frozen_copy"
    assert reference_for(ReferenceSettings("cached"), new, is_needed=False).kind == "cached"
    with pytest.raises(UserError, match="set it to frozen_copy"):
        reference_for(ReferenceSettings("adapter_off"), None, is_needed=True)
