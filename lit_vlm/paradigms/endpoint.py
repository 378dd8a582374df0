"""Lets a model behind an OpenAI-compatible endpoint write completions, as a teacher or a judge."""

from __future__ import annotations

import hashlib
import json
import os
import time
from collections.abc import Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from lightning.pytorch.trainer.states import TrainerFn

from lit_vlm import __version__
from lit_vlm.evaluation.judgement import judged_verdict
from lit_vlm.functional.chat_payload import SentPictures, chat_messages, described
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.batches import EvaluationBatch
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.ledgers import LedgerHeader
from lit_vlm.interfaces.records import Completion, Sample, Verdict
from lit_vlm.interfaces.run_module import RunModule
from lit_vlm.models.vision_language_model import GenerationSettings
from lit_vlm.paradigms.endpoint_cache import AnswerCache
from lit_vlm.paradigms.endpoint_client import ChatRequest, Endpoint, EndpointClient, FailedAnswerError
from lit_vlm.paradigms.endpoint_limits import BudgetSpentError, RequestBudget, RequestLimits
from lit_vlm.paradigms.predicting import prediction_seed
from lit_vlm.paradigms.sample_carrier import SampleCarrier
from lit_vlm.parsing.answers import check_answer
from lit_vlm.parsing.chat_answers import ChatAnswer

FAILED_FILE = "failed_answers.jsonl"
LISTED = 10
"""Failed answers printed; the file has all."""


@dataclass(frozen=True)
class ProtocolOptions:
    """What endpoints differ in."""

    limit_name: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    """What the endpoint calls the limit of a completion's tokens."""
    send_seed: bool = True
    """Whether a seed is sent; the endpoint decides what it does with it."""
    log_probs: bool = False
    """Whether log-probabilities of the completion's tokens are asked for."""
    extra: dict[str, Any] = field(default_factory=dict)
    """What else is sent with every request, such as ``reasoning_effort: low``."""

    def __post_init__(self) -> None:
        own = sorted(set(self.extra) & {"model", "messages", "n", "stream", "seed", "logprobs", "temperature", "top_p"})
        if own:
            raise UserError(f"protocol.extra holds {own[0]!r}, which has a setting of its own; set that instead")


@dataclass(frozen=True)
class _Failure:
    sample_id: str
    index: int
    reason: str


class EndpointModule(RunModule):
    """Continues samples by asking an endpoint; serves ``predict`` alone, so that its completions lie in a ledger.

    Answers that cannot be used (no JSON, no choices, nothing said, wrong types, requests that fail to the last) never
    end the run: they are counted, printed, and listed in ``failed_answers.jsonl`` in the run's folder. When the budget
    is spent, the run ends and keeps what was written; with the same ``CompletionLedger.path`` another run goes on from
    there, and pays for nothing twice that is in the cache.

    Args:
        endpoint: Where, and which model.
        limits: How patiently, and how fast.
        generation: How completions are decoded there, and how many of each prompt.
        budget: The most that one run may use.
        pictures: How pictures are sent.
        protocol: What endpoints differ in.
        cache: Folder for answers, so that none is paid for twice; None keeps none.
        failed: What becomes of a sample of which a completion failed. ``leave_out``: the next run asks again, and the
            ledger has no row of it; ``write``: the failed completion is written without text.
    """

    def __init__(
        self,
        endpoint: Endpoint,
        *,
        limits: RequestLimits = RequestLimits(),
        generation: GenerationSettings = GenerationSettings(),
        budget: RequestBudget = RequestBudget(),
        pictures: SentPictures = SentPictures(),
        protocol: ProtocolOptions = ProtocolOptions(),
        cache: Path | None = Path("runs/endpoint_cache"),
        failed: Literal["leave_out", "write"] = "leave_out",
    ) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.limits = limits
        self.generation = generation
        self.budget = budget
        self.pictures = pictures
        self.protocol = protocol
        self.cache = cache
        self.failed: Literal["leave_out", "write"] = failed
        self.failures: list[_Failure] = []
        """What failed so far."""
        self.budget_spent: str | None = None
        """Which limit the run came to."""
        self._encoder = SampleCarrier(pictures)
        self._client: EndpointClient | None = None
        self._done = self._answers = 0

    @property
    def encoder(self) -> SampleCarrier:
        """Carries samples as they are."""
        return self._encoder

    @property
    def client(self) -> EndpointClient:
        """Sends the requests; made when first asked for.

        Raises:
            UserError: The key is not there.
        """
        if self._client is None:
            cache = None if self.cache is None else AnswerCache(self.cache)
            self._client = EndpointClient(self.endpoint, self.limits, self.budget, cache)
        return self._client

    def setup(self, stage: str) -> None:
        """Checks that this is ``predict``, in one process, with a key.

        Raises:
            UserError: It is not.
        """
        if stage != "predict":
            self._refuse(TrainerFn(stage).value)
        if self.trainer.world_size > 1:
            raise UserError(
                f"trainer.devices gives {self.trainer.world_size} processes, but the limits of an endpoint hold for "
                "one; set it to 1 and raise model.limits.concurrency"
            )
        self.client  # noqa: B018 - the key is asked for before data are read

    def predict_step(self, batch: EvaluationBatch, batch_idx: int) -> list[Completion]:
        """Asks for the completions of a batch, several at a time.

        Returns:
            All completions of each sample, in order; none of samples that failed or that the budget did not reach.
        """
        if self.budget_spent is not None:
            raise StopIteration  # which ends Lightning's loop as if there were no more batches
        samples = batch.prompts.samples
        completions: list[Completion] = []
        with ThreadPoolExecutor(self.limits.concurrency) as threads:
            asked = [
                [threads.submit(self._complete, sample, index) for index in range(self.generation.completions)]
                for sample in samples
            ]
            try:
                for sample, futures in zip(samples, asked, strict=True):
                    completions.extend(self._collected(sample, futures))
            except BaseException:
                self.client.close()
                threads.shutdown(wait=False, cancel_futures=True)
                raise
        return completions

    def on_predict_end(self) -> None:
        """Says what was asked, what it cost and what failed."""
        self.client.close()
        print("\n".join(self.summary()), flush=True)

    def summary(self) -> list[str]:
        """Words what was asked, what it cost and what failed, a line each."""
        client, spending = self.client, self.client.spending
        cost = f", {spending.cost:.4g} in money" if self.budget.input_price or self.budget.output_price else ""
        lines = [
            f"{self.endpoint.model} at {self.endpoint.url} answered {self._answers:,} times, {client.from_cache:,} of "
            f"them from the cache: {spending.requests:,} requests, {spending.used.tokens:,} tokens{cost}"
        ]
        if self.budget_spent is not None:
            lines.append(
                f"the budget is spent ({self.budget_spent}) and {self._done:,} samples are done; to go on, run "
                "again with the same CompletionLedger.path"
            )
        if self.failures:
            fate = "left out of the ledger" if self.failed == "leave_out" else "written without text"
            ids = {failure.sample_id for failure in self.failures}
            where = self._write_failures()
            lines.append(f"{len(self.failures):,} answers of {len(ids):,} samples failed and are {fate}; see {where}")
            lines += [f"  {item.sample_id}, completion {item.index}: {item.reason}" for item in self.failures[:LISTED]]
        return lines

    def ledger_header(self) -> LedgerHeader:
        """Tells what holds for all completions; for want of weights the model's hash is of its address and name."""
        sampling = asdict(self.generation)
        del sampling["completions"]
        named = json.dumps([self.endpoint.address, self.endpoint.model])
        return LedgerHeader(
            model=self.endpoint.model,
            model_hash=hashlib.blake2b(named.encode(), digest_size=16).hexdigest(),
            config_hash="",
            template_hash="",
            completions=self.generation.completions,
            seed=_run_seed(),
            sampling=sampling,
            version=__version__,
        )

    def verdict_of(self, sample: Sample, text: str) -> Verdict | None:
        """Says whether a critique judges rightly, or a solution is right; None where nothing is known to compare."""
        if sample.critique is not None:
            return judged_verdict(sample, text)
        return None if sample.answer is None else check_answer(text, sample.answer)

    def training_step(self, *_: Any) -> NoReturn:
        """Is refused."""
        self._refuse("fit")

    def validation_step(self, *_: Any) -> NoReturn:
        """Is refused."""
        self._refuse("validate")

    def test_step(self, *_: Any) -> NoReturn:
        """Is refused."""
        self._refuse("test")

    def configure_optimizers(self) -> NoReturn:
        """Is refused."""
        self._refuse("fit")

    def _complete(self, sample: Sample, index: int) -> tuple[ChatAnswer, float]:
        """Asks for one completion; returns it with the seconds it took."""
        start = time.perf_counter()
        return self.client.ask(self._request(sample, index)), time.perf_counter() - start

    def _request(self, sample: Sample, index: int) -> ChatRequest:
        generation, protocol = self.generation, self.protocol
        body: dict[str, Any] = {
            "model": self.endpoint.model,
            "messages": chat_messages(sample, self.pictures),
            "temperature": generation.temperature,
            protocol.limit_name: generation.max_new_tokens,
            "n": 1,
            "stream": False,
        }
        if generation.top_p < 1:
            body["top_p"] = generation.top_p
        if generation.top_k:
            body["top_k"] = generation.top_k
        if protocol.send_seed:
            # Within 31 bits, since endpoints differ in what they hold.
            body["seed"] = stream_seed(_seed_of(sample), index) % 2**31
        if protocol.log_probs:
            body["logprobs"] = True
        return ChatRequest({**body, **protocol.extra}, index, generation.max_new_tokens)

    def _collected(self, sample: Sample, futures: Sequence[Future[tuple[ChatAnswer, float]]]) -> list[Completion]:
        """Waits for the completions of a sample; none where the ledger is not to have it."""
        completions, whole = [], True
        for index, future in enumerate(futures):
            try:
                answer, seconds = future.result()
                self._answers += 1
                completions.append(self._completion(sample, index, answer, seconds))
            except FailedAnswerError as failure:
                self.failures.append(_Failure(sample.id, index, failure.reason))
                whole = whole and self.failed == "write"
                completions.append(self._completion(sample, index, ChatAnswer(""), 0.0))
            except BudgetSpentError as limit:
                self.budget_spent, whole = str(limit), False
        self._done += whole
        return completions if whole else []

    def _completion(self, sample: Sample, index: int, answer: ChatAnswer, seconds: float) -> Completion:
        return Completion(
            sample=sample,
            prompt=described(sample.prompt),
            text=answer.text,
            verdict=self.verdict_of(sample, answer.text),
            log_prob_sum=sum(answer.log_probs) if answer.log_probs else None,
            token_count=len(answer.log_probs) if answer.completion_tokens is None else answer.completion_tokens,
            seconds=seconds,
            index=index,
            log_probs=answer.log_probs,
            finish_reason=answer.finish_reason,
            seed=_seed_of(sample),
        )

    def _write_failures(self) -> Path:
        path = Path(self.trainer.log_dir or self.trainer.default_root_dir) / FAILED_FILE
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("w", encoding="utf-8") as file:
            file.writelines(f"{json.dumps(vars(failure), ensure_ascii=False)}\n" for failure in self.failures)
        return path

    @staticmethod
    def _refuse(verb: str) -> NoReturn:
        raise UserError(
            f"EndpointModule has no weights, so that there is nothing to {verb}; use predict to write completions, and "
            "train a local model on their ledger"
        )


def _seed_of(sample: Sample) -> int:
    return prediction_seed(_run_seed(), sample.id)


def _run_seed() -> int:
    # Lightning's seed_everything leaves the run's seed here.
    return int(os.environ.get("PL_GLOBAL_SEED", "0"))
