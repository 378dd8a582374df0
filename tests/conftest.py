"""Shared fixtures: a random tiny VLM built in code, and small samples."""

import os
import time
from collections.abc import Callable

# Before torch and tokenizers are imported: forked workers must not spawn threads of their own.
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
# No test may wait for a hub that is out of reach.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
# Test processes side by side have a core each.
if "PYTEST_XDIST_WORKER" in os.environ:
    os.environ.setdefault("OMP_NUM_THREADS", "1")

from pathlib import Path

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.records import Answer, MediaRef, Sample, SampleMeta, assistant_message, user_message

CORPUS = ["Which digit is this? Think in <think></think>, then answer in <answer></answer>. i see 7. yes no"] * 20


@pytest.fixture(scope="session")
def random_tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny Qwen2.5-VL with random weights, as a Hugging Face folder."""
    from lit_vlm.models.tiny_vlm import build_tiny_vlm

    folder = tmp_path_factory.mktemp("tiny")
    build_tiny_vlm(folder, CORPUS, seed=0)
    return folder


@pytest.fixture(scope="session")
def random_tiny_encoder(random_tiny_folder: Path):
    """The encoder of the random tiny model."""
    from lit_vlm.models.backbone import Backbone

    return Backbone(str(random_tiny_folder)).load_encoder()


@pytest.fixture
def random_tiny_model(random_tiny_folder: Path, random_tiny_encoder):
    """A fresh copy of the random tiny model."""
    from lit_vlm.models.backbone import Backbone

    return Backbone(str(random_tiny_folder)).load_model(random_tiny_encoder).eval()


@pytest.fixture
def assert_linear() -> Callable[[Callable[[int], object], int], None]:
    """Refuses work that grows faster than its input: compares itself with a sixteenth of it, on any machine.

    Of an input 16 times as long linear work takes 16 times the time, quadratic work 256 times.
    """

    def seconds(work: Callable[[int], object], size: int) -> float:
        start = time.process_time()
        work(size)
        return time.process_time() - start

    def check(work: Callable[[int], object], size: int) -> None:
        small, large = (min(seconds(work, count) for _ in range(3)) for count in (size // 16, size))
        # What takes less than a few milliseconds is mostly overhead.
        assert large < 64 * max(small, 0.005), f"{small:.4f} s grow to {large:.4f} s"

    return check


def picture(colour: tuple[int, int, int] = (200, 30, 30), size: tuple[int, int] = (64, 64)) -> MediaRef:
    """A plain image."""
    return MediaRef(pil=Image.new("RGB", size, colour))


@pytest.fixture
def image_sample() -> Sample:
    """One question about one image, with its answer."""
    return make_sample("i see 7.", "7")


def make_sample(thought: str, answer: str, images: int = 1, sample_id: str = "s") -> Sample:
    """A question about ``images`` images, with a chain of thought."""
    return Sample(
        id=sample_id,
        messages=(
            user_message("Which digit is this?", images=images),
            assistant_message(f"<think>{thought}</think><answer>{answer}</answer>"),
        ),
        images=tuple(picture((40 * index, 90, 200)) for index in range(images)),
        answer=Answer("number", answer),
        meta=SampleMeta(source="test", category="read"),
    )


@pytest.fixture(name="make_sample")
def make_sample_fixture():
    """The sample factory."""
    return make_sample


@pytest.fixture
def one_thread():
    """Has torch compute in one thread, which rounds alike at every run and is faster where models are tiny."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
