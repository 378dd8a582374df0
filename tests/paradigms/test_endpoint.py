import base64
import json
import re
import threading

import pytest
from lightning import Trainer
from PIL import Image
from torch.utils.data import Dataset

from lit_vlm.callbacks.completion_ledger import CompletionLedger
from lit_vlm.cli import main
from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.functional.chat_payload import SentPictures
from lit_vlm.functional.ledger_files import read_header, read_rows
from lit_vlm.interfaces.critiques import Critique
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Answer, MediaRef, Message, Sample, SampleMeta, TextPart, user_message
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.endpoint import EndpointModule, ProtocolOptions
from lit_vlm.paradigms.endpoint_client import Endpoint
from lit_vlm.paradigms.endpoint_limits import RequestBudget, RequestLimits
from tests.paradigms.endpoint_server import Reply, said, serving

PATIENT = RequestLimits(backoff_seconds=0.0, attempts=3, timeout_seconds=5.0)


def asked(number, colour=(9, 9, 9)):
    """Question ``number``, with a picture, whose answer is its number."""
    system = Message("system", (TextPart("Be brief."),))
    return Sample(
        f"q{number}",
        (system, user_message(f"What is {number} + 0?", images=1)),
        images=(MediaRef(pil=Image.new("RGB", (4, 4), colour)),),
        answer=Answer("number", str(number)),
        meta=SampleMeta(category="sum", split="test"),
    )


class Questions(VLMDataModule):
    """Serves samples in order."""

    predict_split = "test"

    def __init__(self, samples, encoder, **options):
        super().__init__(encoder, num_workers=0, **{"evaluation_batch_size": 2, **options})
        self._samples = samples

    @property
    def tasks(self):
        return ("sum",)

    def samples(self, split):
        class Listed(Dataset):
            def __len__(self):
                return len(samples)

            def __getitem__(self, index):
                return samples[index]

        samples = self._samples
        return Listed()


def predict(tmp_path, url, samples, path="ledger", **options):
    options = {"limits": PATIENT, "cache": tmp_path / "cache", **options}
    module = EndpointModule(Endpoint(url, "teacher"), **options)
    trainer = Trainer(
        accelerator="cpu",
        logger=False,
        enable_progress_bar=False,
        enable_model_summary=False,
        enable_checkpointing=False,
        default_root_dir=tmp_path / "run",
        callbacks=[CompletionLedger(str(tmp_path / path))],
        use_distributed_sampler=False,
    )
    trainer.predict(module, Questions(samples, module.encoder))
    return module


def rows(tmp_path, path="ledger"):
    return [row.completion for row in read_rows(tmp_path / path)]


def number_of(request):
    return re.search(r"[0-9]+", request.question).group()


def answering(request):
    return said(f"<answer>{number_of(request)}</answer>", tokens=4)


def test_completions_land_in_the_ledger_with_what_is_known(tmp_path):
    with serving(answering) as server:
        predict(
            tmp_path,
            server.url,
            [asked(number) for number in range(3)],
            generation=GenerationSettings(temperature=0.7, max_new_tokens=9, completions=2),
        )
    written = rows(tmp_path)
    assert [(item.sample.id, item.index, item.text) for item in written] == [
        (f"q{number}", index, f"<answer>{number}</answer>") for number in range(3) for index in range(2)
    ]
    first = written[0]
    assert (first.verdict.correct, first.finish_reason, first.token_count) == (True, "stop", 4)
    assert first.prompt == "system: Be brief.\nuser: <image>What is 0 + 0?"
    assert len({item.seed for item in written}) == 3
    header = read_header(tmp_path / "ledger")
    assert (header.model, header.completions, header.sampling["temperature"]) == ("teacher", 2, 0.7)


def test_what_is_sent_is_the_prompt_with_its_picture_and_the_sampling(tmp_path):
    with serving(answering) as server:
        predict(
            tmp_path,
            server.url,
            [asked(5, colour=(250, 0, 0))],
            generation=GenerationSettings(temperature=0.5, top_p=0.9, top_k=20, max_new_tokens=9, completions=2),
            protocol=ProtocolOptions(limit_name="max_completion_tokens", log_probs=True, extra={"effort": "low"}),
        )
    body = server.asked[0].body
    system, user = body.pop("messages")
    seeds = {request.body["seed"] for request in server.asked}
    del body["seed"]
    assert body == {
        "model": "teacher",
        "temperature": 0.5,
        "top_p": 0.9,
        "top_k": 20,
        "max_completion_tokens": 9,
        "n": 1,
        "stream": False,
        "logprobs": True,
        "effort": "low",
    }
    assert len(seeds) == 2
    assert all(0 <= seed < 2**31 for seed in seeds)
    assert system == {"role": "system", "content": "Be brief."}
    assert user["content"][1] == {"type": "text", "text": "What is 5 + 0?"}
    head, _, content = user["content"][0]["image_url"]["url"].partition(",")
    assert head == "data:image/png;base64"
    assert base64.b64decode(content).startswith(b"\x89PNG")


def test_no_seed_is_sent_where_the_endpoint_takes_none(tmp_path):
    with serving(answering) as server:
        predict(tmp_path, server.url, [asked(1)], protocol=ProtocolOptions(send_seed=False))
    assert "seed" not in server.asked[0].body


def test_log_probabilities_are_kept(tmp_path):
    given = {"content": [{"token": "4", "logprob": -0.25}, {"token": ".", "logprob": -1.0}]}
    with serving(lambda request: said("4.", logprobs=given)) as server:
        predict(tmp_path, server.url, [asked(4)], protocol=ProtocolOptions(log_probs=True))
    (written,) = rows(tmp_path)
    assert (written.log_probs, written.log_prob_sum) == ((-0.25, -1.0), -1.25)


GARBAGE = [
    Reply("<html>"),
    Reply({"choices": []}),
    said(""),
    said("x", finish_reason="content_filter"),
    Reply({"choices": [{"message": {"content": 7}}]}),
    Reply({"error": {"message": "picture too large"}}, 400),
]


@pytest.mark.parametrize("garbage", GARBAGE, ids=range(len(GARBAGE)))
def test_garbage_is_counted_named_and_left_out_and_the_next_run_asks_again(tmp_path, capsys, garbage):
    broken = [True]

    def answer(request):
        return garbage if broken[0] and number_of(request) == "1" else answering(request)

    sampled = GenerationSettings(temperature=1.0, completions=2)
    samples = [asked(number) for number in range(4)]
    with serving(answer) as server:
        module = predict(tmp_path, server.url, samples, generation=sampled)
        assert {item.sample.id for item in rows(tmp_path)} == {"q0", "q2", "q3"}
        told = capsys.readouterr().out
        assert "2 answers of 1 samples failed and are left out of the ledger" in told
        assert "q1, completion 0: " in told
        listed = (tmp_path / "run" / "failed_answers.jsonl").read_text().splitlines()
        assert [json.loads(line)["sample_id"] for line in listed] == ["q1", "q1"]
        assert [failure.sample_id for failure in module.failures] == ["q1", "q1"]
        broken[0], before = False, len(server.asked)
        predict(tmp_path, server.url, samples, generation=sampled)
        assert len(server.asked) == before + 2
    assert sorted((item.sample.id, item.index) for item in rows(tmp_path)) == [
        (f"q{number}", index) for number in range(4) for index in range(2)
    ]


def test_one_failed_completion_keeps_its_sample_out_but_not_in_the_cache(tmp_path):
    failed = []

    def answer(request):
        if number_of(request) == "1" and not failed:
            failed.append(request)
            return Reply("garbage")
        return answering(request)

    sampled = GenerationSettings(temperature=1.0, completions=3)
    with serving(answer) as server:
        predict(tmp_path, server.url, [asked(0), asked(1)], generation=sampled)
        assert {item.sample.id for item in rows(tmp_path)} == {"q0"}
        predict(tmp_path, server.url, [asked(0), asked(1)], generation=sampled)
    assert len(server.asked) == 7
    assert len(rows(tmp_path)) == 6


def test_failed_answers_can_be_written_without_text(tmp_path, capsys):
    with serving(lambda request: Reply("garbage") if number_of(request) == "1" else answering(request)) as server:
        predict(tmp_path, server.url, [asked(0), asked(1)], failed="write")
    assert [(item.sample.id, item.text, item.finish_reason) for item in rows(tmp_path)] == [
        ("q0", "<answer>0</answer>", "stop"),
        ("q1", "", None),
    ]
    assert rows(tmp_path)[1].verdict.correct is False
    assert "written without text" in capsys.readouterr().out


def test_nothing_but_garbage_does_not_end_the_run(tmp_path, capsys):
    with serving(lambda request: Reply("garbage")) as server:
        predict(tmp_path, server.url, [asked(number) for number in range(12)])
    assert rows(tmp_path) == []
    assert "12 answers of 12 samples failed" in capsys.readouterr().out


def test_a_spent_budget_ends_the_run_which_can_be_gone_on_with(tmp_path, capsys):
    samples = [asked(number) for number in range(5)]
    with serving(answering) as server:
        module = predict(tmp_path, server.url, samples, budget=RequestBudget(requests=3))
        assert len(server.asked) == 3
        assert len(rows(tmp_path)) == 3
        told = capsys.readouterr().out
        assert "the budget is spent (3 requests of 3) and 3 samples are done" in told
        assert module.budget_spent is not None
        predict(tmp_path, server.url, samples, budget=RequestBudget(requests=3))
        assert len(server.asked) == 5
    assert sorted(item.sample.id for item in rows(tmp_path)) == [f"q{number}" for number in range(5)]
    assert "the budget is spent" not in capsys.readouterr().out


def test_a_sample_that_the_budget_cuts_is_not_written_by_halves(tmp_path):
    sampled = GenerationSettings(temperature=1.0, completions=2)
    with serving(answering) as server:
        predict(
            tmp_path,
            server.url,
            [asked(0), asked(1)],
            generation=sampled,
            budget=RequestBudget(requests=3),
            limits=RequestLimits(concurrency=1),
        )
        assert [(item.sample.id, item.index) for item in rows(tmp_path)] == [("q0", 0), ("q0", 1)]
        predict(tmp_path, server.url, [asked(0), asked(1)], generation=sampled)
    assert len(server.asked) == 4
    assert len(rows(tmp_path)) == 4


def test_another_ledger_of_the_same_questions_costs_nothing(tmp_path, capsys):
    with serving(answering) as server:
        predict(tmp_path, server.url, [asked(0), asked(1)])
        predict(tmp_path, server.url, [asked(0), asked(1)], path="again")
    assert len(server.asked) == 2
    assert [item.text for item in rows(tmp_path)] == [item.text for item in rows(tmp_path, "again")]
    assert "answered 2 times, 2 of them from the cache: 0 requests, 0 tokens" in capsys.readouterr().out


def test_another_picture_is_another_request(tmp_path):
    with serving(answering) as server:
        predict(tmp_path, server.url, [asked(0)])
        predict(tmp_path, server.url, [asked(0, colour=(1, 2, 3))], path="again")
        predict(tmp_path, server.url, [asked(0)], path="jpeg", pictures=SentPictures(format="jpeg"))
    assert len(server.asked) == 3


def test_faults_of_the_moment_are_not_seen_in_the_ledger(tmp_path):
    seen = {}

    def answer(request):
        seen[number_of(request)] = seen.get(number_of(request), 0) + 1
        if seen[number_of(request)] == 1:
            return [Reply("", 500), Reply("", 429), Reply(drop=True)][int(number_of(request)) % 3]
        return answering(request)

    with serving(answer) as server:
        predict(tmp_path, server.url, [asked(number) for number in range(6)])
    assert len(server.asked) == 12
    assert len(rows(tmp_path)) == 6


def test_no_more_requests_are_under_way_than_allowed(tmp_path):
    lock, under_way, most = threading.Lock(), [0], [0]
    both = threading.Barrier(2)

    class Counting(threading.Event):
        def wait(self, timeout=None):
            with lock:
                under_way[0] += 1
                most[0] = max(most[0], under_way[0])
            both.wait(5)  # passes only when two are under way at once
            with lock:
                under_way[0] -= 1
            return True

    def answer(request):
        reply = answering(request)
        reply.hang = Counting()
        return reply

    limits = RequestLimits(concurrency=2)
    with serving(answer) as server:
        predict(
            tmp_path,
            server.url,
            [asked(0), asked(1)],
            limits=limits,
            generation=GenerationSettings(temperature=1.0, completions=2),
        )
    assert most[0] == 2


@pytest.mark.parametrize(("code", "told"), [(401, "check the key"), (404, "check endpoint.url and endpoint.model")])
def test_what_cannot_be_mended_ends_in_one_line_and_keeps_what_was_written(tmp_path, code, told):
    def answer(request):
        return answering(request) if number_of(request) in "01" else Reply({"error": {"message": "no"}}, code)

    with serving(answer) as server, pytest.raises(UserError, match=told):
        predict(tmp_path, server.url, [asked(number) for number in range(6)])
    assert [item.sample.id for item in rows(tmp_path)] == ["q0", "q1"]


def test_a_critique_is_judged_by_its_verdict(tmp_path):
    module = EndpointModule(Endpoint("http://127.0.0.1:1/v1", "m"))
    sample = Sample("s", (user_message("Judge."),), answer=Answer("number", "4"), critique=Critique("q", "r"))
    judged = Sample("s", (user_message("Judge."),), critique=Critique("q", "r", verdict="wrong"))
    assert module.verdict_of(sample, "4") is None
    assert module.verdict_of(judged, "Conclusion: wrong [END]").correct
    assert not module.verdict_of(judged, "Conclusion: right [END]").correct
    assert module.verdict_of(Sample("s", (user_message("?"),)), "4") is None


@pytest.mark.parametrize("verb", ["fit", "validate", "test"])
def test_other_verbs_end_in_one_clear_line(tmp_path, monkeypatch, capsys, verb):
    monkeypatch.chdir(tmp_path)
    words = [verb, "--model", "EndpointModule", "--model.endpoint.url", "http://127.0.0.1:1/v1"]
    words += ["--model.endpoint.model", "m", "--data", "DigitsReasoning", "--data.num_workers", "0"]
    assert main([*words, "--trainer.logger", "false", "--trainer.accelerator", "cpu", "--trainer.max_epochs", "1"]) != 0
    (line,) = [line for line in capsys.readouterr().err.splitlines() if "EndpointModule" in line]
    assert f"has no weights, so that there is nothing to {verb}; use predict" in line


def test_the_command_line_writes_a_ledger_and_no_key(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TEACHER_KEY", "sk-very-secret")
    with serving(lambda request: said("<answer>7</answer>")) as server:
        words = ["predict", "--model", "EndpointModule", "--model.endpoint.url", server.url]
        words += ["--model.endpoint.model", "m", "--model.endpoint.api_key_variable", "TEACHER_KEY"]
        words += ["--data", "DigitsReasoning", "--data.test_size", "3", "--data.num_workers", "0"]
        assert main([*words, "--trainer.accelerator", "cpu"]) == 0
    assert {request.headers["Authorization"] for request in server.asked} == {"Bearer sk-very-secret"}
    (folder,) = (tmp_path / "runs").glob("*/version_0/ledger")
    assert len(list(read_rows(folder))) == 3
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(files) > 5
    assert not any(b"sk-very-secret" in path.read_bytes() for path in files)
    assert "sk-very-secret" not in "".join(capsys.readouterr())


def test_a_setting_of_its_own_is_not_given_as_extra():
    with pytest.raises(UserError, match="extra holds 'seed'"):
        ProtocolOptions(extra={"seed": 1})
