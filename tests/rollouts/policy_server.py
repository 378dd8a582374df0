"""A server that speaks the protocol in this process; behind it samples a copy of the policy, in vLLM's place."""

import base64
import io
import json
import threading
import time
from contextlib import contextmanager

import torch
from PIL import Image
from safetensors import safe_open

from lit_vlm.interfaces.batches import PromptBatch
from lit_vlm.models.adapters import load_state
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.disk_names import memory_names
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.rollouts.token_sampler import TokenSampler
from lit_vlm.rollouts.vllm_server.bucket_receiver import BucketReceiver
from lit_vlm.rollouts.vllm_server.service import Server, Service
from lit_vlm.rollouts.vllm_server.weight_group import Place
from lit_vlm.rollouts.vllm_server.worker_extension import read_weights


class PolicyBackend:
    """Samples with a copy of the policy.

    Args:
        folder: The model.
        adapter: Settings of an adapter that it takes; None for whole weights.
        spoil: Added to every weight that comes, as a fault.
        ignores: Whether it lets new weights go by, as a fault.
    """

    def __init__(self, folder, adapter=None, spoil=0.0, ignores=False):
        backbone = Backbone(str(folder), adapter=adapter)
        self.folder, self.adapter, self.spoil, self.ignores = str(folder), adapter, spoil, ignores
        self.encoder = backbone.load_encoder()
        self.policy = backbone.load_model(self.encoder).eval()
        self.lock = threading.Lock()
        self.requests, self.buckets, self.loaded = [], [], 0
        self.before_answer = lambda: None
        self.receiver, self.joins = BucketReceiver(), 0

    def state(self):
        rank = 0 if self.adapter is None else self.adapter.rank
        return {
            "model": self.folder, "dtype": "float32", "max_tokens": 512, "max_lora_rank": rank, "vllm": "none",
            "workers": 1, "device": "cpu",
        }  # fmt: skip

    def generate(self, request, given_up):
        self.requests.append(request)
        self.before_answer()
        with self.lock, torch.no_grad():
            whole, visual = self.prompt(request)
            completions = [self.completion(whole, visual, request["sampling"], seed) for seed in request["seeds"]]
        return {"token_ids": whole, "completions": completions}

    def prompt(self, request):
        """Processes the images, and puts as many placeholders as they need."""
        images = [Image.open(io.BytesIO(base64.b64decode(image))) for image in request["images"]]
        if not images:
            return request["token_ids"], {}
        processor = self.encoder.processor.image_processor
        visual = dict(processor(images, return_tensors="pt", **request["processor"]))
        counts = iter((visual["image_grid_thw"].prod(1) // processor.merge_size**2).tolist())
        placeholder = self.encoder.processor.image_token_id
        whole = []
        for token in request["token_ids"]:
            whole.extend([token] * (next(counts) if token == placeholder else 1))
        visual["mm_token_type_ids"] = (torch.tensor([whole]) == placeholder).long()
        return whole, visual

    def completion(self, whole, visual, sampling, seed):
        ids = torch.tensor([whole])
        state = self.policy.prefill(PromptBatch(ids, torch.ones_like(ids), visual), 1)
        names = ("temperature", "top_p", "min_p")
        settings = SamplingSettings(
            max_new_tokens=sampling["max_tokens"], top_k=max(sampling["top_k"], 0), **{n: sampling[n] for n in names}
        )
        sampler = TokenSampler(settings, torch.tensor([seed]), sampling["never"])
        tokens, log_probs = [], []
        while len(tokens) < settings.max_new_tokens:
            drawn = sampler(state.logits, len(tokens))
            tokens.append(int(drawn.token_ids))
            log_probs.append(float(drawn.log_probs))
            text = self.encoder.decode(tokens)
            if tokens[-1] in sampling["end_token_ids"] or any(stop in text for stop in sampling["stop"]):
                return {"token_ids": tokens, "log_probs": log_probs, "finish": "stop"}
            state.advance(drawn.token_ids)
        return {"token_ids": tokens, "log_probs": log_probs, "finish": "length"}

    def begin_weights(self):
        self.buckets.append([])
        self.receiver.begin()

    def load_bucket(self, path):
        self.load(read_weights(path))

    def join_group(self, place):
        self.joins += 1
        return self.receiver.join(Place(**place), torch.device("cpu"))

    def receive_bucket(self, number, described):
        return self.receiver.receive(number, described, self.load)

    def load(self, weights):
        tensors = {name: value + self.spoil for name, value in weights}
        self.buckets[-1].append(sorted(tensors))
        if not self.ignores:
            names = memory_names(self.policy.model)
            renamed = {names[name]: value for name, value in tensors.items()}
            assert not self.policy.model.load_state_dict(renamed, strict=False).unexpected_keys

    def finish_weights(self):
        self.loaded += 1

    def load_adapter(self, path):
        with safe_open(path, framework="pt") as file:
            assert json.loads(file.metadata()["adapter_config"])["r"] == self.adapter.rank
            tensors = {name: file.get_tensor(name) + self.spoil for name in file.keys()}  # noqa: SIM118
        if not self.ignores:
            load_state(self.policy.model, tensors, "the trainer")
        self.loaded += 1


@contextmanager
def serving(backend, token=None, **limits):
    """Opens a server; gives its address and the server."""
    server = Server(("127.0.0.1", 0), Service(backend, token, **limits))
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", server
    finally:
        stop(server)


def stop(server):
    """Ends a server as a crash does: nobody listens any more."""
    server.shutdown()
    server.server_close()


class Stub:
    """A backend without a model: it answers what it is told to.

    Args:
        seconds: Time for an answer.
    """

    def __init__(self, seconds=0.0):
        self.seconds, self.done, self.given_up = seconds, [], 0
        self.fault = self.broken = None
        self.answer = {"token_ids": [1, 2], "completions": [{"token_ids": [3], "log_probs": [-1.0], "finish": "stop"}]}

    def state(self):
        return {
            "model": "m", "dtype": "float32", "max_tokens": 64, "max_lora_rank": 8, "vllm": "0", "workers": 2,
            "device": "cpu",
        }  # fmt: skip

    def generate(self, request, given_up):
        if self.fault:
            raise self.fault
        deadline = time.monotonic() + self.seconds
        while time.monotonic() < deadline:
            if given_up.wait(0.01):
                self.given_up += 1
                return {}
        self.done.append(request)
        return self.answer

    def begin_weights(self):
        self.done.append("begin")

    def join_group(self, place):
        self.done.append(place)
        return self.broken

    def receive_bucket(self, number, described):
        self.done.append((number, described))
        return self.broken

    def load_bucket(self, path):
        self.done.append(path.read_bytes())

    def finish_weights(self):
        self.done.append("finish")

    def load_adapter(self, path):
        self.done.append(path.read_bytes())
