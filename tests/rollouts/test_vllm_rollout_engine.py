from dataclasses import replace

import pytest
import torch

from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.paradigms.mismatch_correction import MismatchCorrection
from lit_vlm.paradigms.policy_update import UpdateSettings
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.vllm_rollout_engine import VLLMRolloutEngine
from tests.paradigms.on_policy_material import data, engine, fit, module
from tests.rollouts.material import rows_of, teacher_forced
from tests.rollouts.policy_server import PolicyBackend, serving, stop


def alone(value):
    return value


@pytest.fixture(scope="module")
def backend(random_tiny_folder):
    return PolicyBackend(random_tiny_folder)


@pytest.fixture
def served(backend):
    backend.before_answer = lambda: None
    backend.requests.clear()
    backend.buckets.clear()
    with serving(backend) as (address, server):
        yield address, server


def remote(address, tokens=6, **options):
    sampling = SamplingSettings(max_new_tokens=tokens, **options.pop("sampling", {}))
    return VLLMRolloutEngine(address, sampling, timeout_seconds=300, **options)


@pytest.fixture
def tiny(random_tiny_encoder, random_tiny_model, make_sample):
    samples = [make_sample("i see 7.", "7", images=images, sample_id=str(images)) for images in (1, 0, 2)]
    return random_tiny_encoder, random_tiny_model, random_tiny_encoder.encode_prompts(samples)


def sampled(made, tiny, group_size=2, seeds=(5, 6, 7)):
    encoder, policy, prompts = tiny
    made.follow(policy, encoder, prompts, 0, alone)
    return made(policy, encoder, prompts, group_size, seeds)


def test_completions_come_with_the_policys_own_log_probabilities(served, backend, tiny):
    encoder, policy, prompts = tiny
    made = remote(served[0], sampling={"temperature": 0.7, "top_p": 0.9})
    made.check(policy, encoder)
    found = sampled(made, tiny)
    log_probs, _ = teacher_forced(policy, encoder, found, 0.7)
    torch.testing.assert_close(found.log_probs, log_probs, atol=1e-4, rtol=1e-4)
    assert found.prompt_of.tolist() == [0, 0, 1, 1, 2, 2]
    assert found.entropies is None
    assert len({tuple(row) for row in rows_of(found)}) == 6
    assert [completion.text for completion in found.completions] == [encoder.decode(row) for row in rows_of(found)]
    assert [row for row, cut in zip(rows_of(found), found.is_truncated.tolist(), strict=True) if cut] == [
        row for row in rows_of(found) if row[-1] not in policy.end_token_ids
    ]
    # An image goes once for all completions of its prompt; two more requests were probes.
    requests = backend.requests[-3:]
    assert sorted(len(request["images"]) for request in requests) == [0, 1, 2]
    assert all(len(request["seeds"]) == 2 for request in requests)
    assert set(found.seconds) == {"sync", "send", "decode", "text"}


def test_completions_depend_on_the_seed_of_the_prompt_and_the_place_in_the_group(served, tiny):
    encoder, policy, prompts = tiny
    made = remote(served[0])
    whole = rows_of(sampled(made, tiny, group_size=3))
    assert rows_of(sampled(made, tiny, group_size=2)) == [row for i, row in enumerate(whole) if i % 3 < 2]
    other = rows_of(sampled(made, tiny, group_size=3, seeds=(5, 6, 8)))
    assert other[:6] == whole[:6]
    assert other[6:] != whole[6:]


def test_stop_strings_end_completions_and_stay_in_them(served, tiny):
    encoder, policy, _ = tiny
    free = sampled(remote(served[0], tokens=12), tiny)
    stop_text = next(text[3:5] for text in (one.text for one in free.completions) if len(text) > 6)
    found = sampled(remote(served[0], tokens=12, sampling={"stop_strings": (stop_text,)}), tiny)
    ended = [one.text for one in found.completions if stop_text in one.text]
    assert ended
    assert all(text.endswith(stop_text) for text in ended)
    assert all(row == long[: len(row)] for row, long in zip(rows_of(found), rows_of(free), strict=True))


def test_a_server_that_dies_in_a_round_hands_its_prompts_to_the_others(backend, served, tiny, random_tiny_folder):
    expected = rows_of(sampled(remote(served[0]), tiny))
    dying = PolicyBackend(random_tiny_folder)
    with serving(dying) as (second, server):
        made = remote(f"{served[0]},{second}")
        encoder, policy, prompts = tiny
        made.follow(policy, encoder, prompts, 0, alone)

        def die():
            raise ConnectionError  # the connection ends without an answer

        dying.before_answer = die
        assert rows_of(made(policy, encoder, prompts, 2, (5, 6, 7))) == expected
        backend.before_answer = die
        with pytest.raises(UserError, match="no vLLM server is left") as fault:
            made(policy, encoder, prompts, 2, (5, 6, 7))
        assert second in str(fault.value)
        assert served[0] in str(fault.value)


@pytest.mark.parametrize("transport", ["http", "broadcast"])
def test_a_run_learns_with_the_weights_that_it_sends(random_tiny_folder, served, backend, transport):
    before = backend.loaded
    model = module(random_tiny_folder, engine=remote(served[0], transport=transport))
    watch, weights = fit(model, data_of(random_tiny_folder), steps=3)
    assert backend.loaded == before + 3
    # The server has the weights of the last round, not those after it.
    theirs = backend.policy.state_dict()
    assert not all(torch.equal(theirs[name], value) for name, value in weights.items())
    for iteration in watch.iterations:
        assert iteration.figures["mismatch"] < 1e-5
        assert iteration.figures["mismatch_max"] < 1e-4
        assert iteration.figures["mismatch_ratio_max"] == pytest.approx(1, abs=1e-3)
        assert iteration.figures["mismatch_cut"] == 0
        assert iteration.figures["seconds/sync"] > 0


def data_of(folder):
    return data(Backbone(str(folder)).load_encoder())


def test_with_the_policys_own_engine_nothing_is_corrected(random_tiny_folder, one_thread):
    runs = []
    for options in ({"kind": "none"}, {"kind": "masked", "lowest": 1.0, "highest": 1.0}):
        update = UpdateSettings(mismatch=MismatchCorrection(**options))
        watch, weights = fit(
            module(random_tiny_folder, engine=engine(), update=update), data_of(random_tiny_folder), steps=2
        )
        runs.append(weights)
        assert not any("mismatch" in name for iteration in watch.iterations for name in iteration.figures)
    assert all(torch.equal(runs[0][name], runs[1][name]) for name in runs[0])


def test_images_whose_placeholders_are_not_there_are_refused(served, tiny):
    encoder, policy, prompts = tiny
    made = remote(served[0])
    made.follow(policy, encoder, prompts, 0, alone)
    ids = prompts.input_ids.clone()
    ids[ids == encoder.media_token_ids[0]] = encoder.tokenise("7")[0]
    with pytest.raises(BadSampleError, match="1 images, but 0 runs of placeholder"):
        made(policy, encoder, replace(prompts, input_ids=ids), 2, (5, 6, 7))


def test_a_server_that_reads_other_prompts_is_refused_by_the_samples_name(served, backend, tiny, monkeypatch):
    generate = backend.generate
    made = remote(served[0])
    encoder, policy, prompts = tiny
    made.follow(policy, encoder, prompts, 0, alone)

    def misread(request, given_up):
        answer = generate(request, given_up)
        return {**answer, "token_ids": answer["token_ids"][:-1]}

    monkeypatch.setattr(backend, "generate", misread)
    with pytest.raises(UserError, match="sample '.': the vLLM server reads a prompt of"):
        made(policy, encoder, prompts, 2, (5, 6, 7))


@pytest.mark.parametrize(
    ("options", "told"),
    [
        ({"servers": "localhost:8000"}, "is no address"),
        ({"servers": "http://a:1,http://a:1"}, "give one address or more, each once"),
        ({"servers": ()}, "give one address or more"),
        ({"timeout_seconds": 0}, "timeout_seconds is 0"),
        ({"parity_tolerance": -1}, "parity_tolerance is -1"),
        ({"transport": "pigeon"}, "transport is 'pigeon'; give http or broadcast"),
        ({"broadcast_port": 70_000}, "broadcast_port is 70000"),
        ({"start_server": True}, "needs model.engine.python"),
        ({"start_server": True, "python": "x", "servers": "http://a:1,http://b:2"}, "one address"),
    ],
)
def test_options_out_of_range_are_refused(options, told):
    with pytest.raises(UserError, match=told):
        VLLMRolloutEngine(**options)


def test_settings_that_do_not_go_with_the_model_are_refused_before_the_first_step(tiny):
    encoder, policy, _ = tiny
    with pytest.raises(UserError, match="context holds"):
        remote("http://127.0.0.1:1", tokens=100_000).check(policy, encoder)
    with pytest.raises(UserError, match="cannot be written"):
        remote("http://127.0.0.1:1", sampling={"stop_strings": ("<|im_end|>",)}).check(policy, encoder)
    with pytest.raises(UserError, match="group_size is 0"):
        remote("http://127.0.0.1:1")(policy, encoder, encoder.encode_prompts([]), 0, ())


@pytest.mark.parametrize("transport", ["http", "broadcast"])
def test_an_adapter_goes_alone(random_tiny_folder, transport):
    settings = AdapterSettings(rank=4)
    backend = PolicyBackend(random_tiny_folder, settings)
    with serving(backend) as (address, server):
        engine = remote(address, transport=transport)
        model = module(random_tiny_folder, rate=0.05, engine=engine, backbone={"adapter": settings})
        watch, _ = fit(model, data_of(random_tiny_folder), steps=3)
        assert backend.loaded == 3
        assert backend.buckets == []
        assert backend.joins == 0
        assert max(iteration.figures["mismatch_max"] for iteration in watch.iterations) < 1e-4
        stop(server)
        with pytest.raises(UserError, match="no vLLM server is left"):
            fit(model, data_of(random_tiny_folder), steps=4)
