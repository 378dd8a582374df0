"""What every model family must keep, shown on a tiny checkpoint of each."""

import inspect
import os
import subprocess
import sys
from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.errors import BadSampleError
from lit_vlm.interfaces.records import (
    IGNORED_LABEL,
    ImagePart,
    MediaRef,
    Message,
    Sample,
    SampleMeta,
    TextPart,
    VideoPart,
    VideoRef,
    assistant_message,
    user_message,
)
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import GenerationSettings
from tests.models.family_checkpoints import FAMILIES, TEXT_ONLY, WITH_VIDEO

WITH_IMAGES = tuple(family for family in FAMILIES if family not in TEXT_ONLY)
WITHOUT_VIDEO = tuple(family for family in WITH_IMAGES if family not in WITH_VIDEO)
SIZES = ((32, 32), (64, 40), (20, 48), (100, 30), (33, 70), (16, 16), (640, 480), (57, 57))


def picture(size=(32, 32), turn=0) -> MediaRef:
    """A gradient: no two sizes or turns look alike, and no pixel is the mean of a processor."""
    return MediaRef(pil=Image.linear_gradient("L").rotate(90 * turn).resize(size).convert("RGB"))


def video(frames: int, size=(32, 32)) -> VideoRef:
    return VideoRef(frames=tuple(picture(size, turn) for turn in range(frames)), fps=2.0)


TEXT = Sample("text", (user_message("Which digit is this?"), assistant_message("i see 7.")))
ONE_IMAGE = Sample("one", (user_message("What happens?", images=1), assistant_message("it glows.")), (picture(),))
WIDE_IMAGE = replace(ONE_IMAGE, id="wide", images=(picture((100, 30)),))
SEVERAL_IMAGES = Sample(
    "several",
    (user_message("yes or no?", images=3), assistant_message("no")),
    (picture(), picture((64, 40), 1), picture((20, 48), 2)),
)
TWO_TURNS = Sample(
    "turns",
    (
        user_message("Which digit?", images=1),
        assistant_message("i see 7."),
        user_message("And here?", images=1, first_image=1),
        assistant_message("i see 4, happens."),
    ),
    (picture((64, 40)), picture((32, 32), 1)),
)
VIDEO = Sample(
    "video",
    (Message("user", (VideoPart(0), TextPart("what happens here?"))), assistant_message("it glows.")),
    videos=(video(4),),
)
SHORT_VIDEO = replace(VIDEO, id="short", videos=(video(3, (40, 24)),))
BOTH_KINDS = Sample(
    "both",
    (
        Message("user", (ImagePart(0), TextPart("and"), VideoPart(0), ImagePart(1), TextPart("?"))),
        assistant_message("yes"),
    ),
    (picture((64, 40)), picture((32, 32), 3)),
    (video(2),),
)
TWO_VIDEOS = Sample(
    "videos",
    (Message("user", (VideoPart(0), VideoPart(1), TextPart("which?"))), assistant_message("yes")),
    videos=(video(2), video(5)),
)
IMAGES = (TEXT, ONE_IMAGE, WIDE_IMAGE, SEVERAL_IMAGES, TWO_TURNS)
VIDEOS = (VIDEO, SHORT_VIDEO, BOTH_KINDS, TWO_VIDEOS)


def samples_of(family):
    if family in TEXT_ONLY:
        second = (user_message("one"), assistant_message("first"), user_message("two"), assistant_message("second"))
        return (TEXT, replace(TEXT, id="turns", messages=second))
    return IMAGES + VIDEOS if family in WITH_VIDEO else IMAGES


@pytest.fixture(scope="module")
def loaded(family_folder):
    """Returns encoder and model of a family; the model is shared and in evaluation mode."""

    @cache
    def load(family):
        backbone = Backbone(str(family_folder(family)))
        encoder = backbone.load_encoder()
        return encoder, backbone.load_model(encoder).eval()

    return load


@torch.no_grad()
def logits(policy, batch):
    return policy.model.get_output_embeddings()(policy.hidden_states(batch))


def row_logits(policy, batch, row):
    return logits(policy, batch)[row][batch.attention_mask[row] == 1]


@torch.no_grad()
def feature_rows(policy, batch, kind):
    """Runs the vision tower and projector, and counts what they make."""
    pixels = "pixel_values" if kind == "image" else "pixel_values_videos"
    if pixels not in batch.visual:
        return 0
    method = getattr(policy.model.base_model, f"get_{kind}_features")
    wanted = list(inspect.signature(method).parameters)
    rest = {name: value for name, value in batch.visual.items() if name in wanted[1:]}
    features = method(batch.visual[pixels], **rest).pooler_output
    pieces = features if isinstance(features, list | tuple) else [features]
    # LLaVA-OneVision in older versions of transformers: other names, and the row that ends a video is added later.
    ends = 0 if wanted[0] == pixels else len(batch.visual[pixels])
    return ends + sum(piece.reshape(-1, piece.shape[-1]).shape[0] for piece in pieces)


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_there_are_as_many_placeholders_as_feature_rows(family, loaded):
    encoder, policy = loaded(family)
    for samples in [[sample] for sample in samples_of(family)] + [list(samples_of(family))]:
        batch = encoder.encode(samples)
        assert not batch.dropped
        ids = encoder.media_token_ids
        counts = [int((batch.input_ids == token_id).sum()) for token_id in ids]
        expected = [feature_rows(policy, batch, kind) for kind in ("image", "video")]
        assert counts == expected[: len(ids)]
        shows_media = any(sample.images or sample.videos for sample in samples)
        assert (sum(counts) > 0) == shows_media
        assert (batch.labels[torch.isin(batch.input_ids, torch.tensor(ids))] == IGNORED_LABEL).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_a_row_of_a_mixed_batch_is_what_it_is_alone(family, loaded):
    encoder, policy = loaded(family)
    samples = samples_of(family)
    together = encoder.encode(samples)
    for row, sample in enumerate(samples):
        alone = encoder.encode([sample])
        assert torch.equal(together.input_ids[row][together.attention_mask[row] == 1], alone.input_ids[0])
        torch.testing.assert_close(
            row_logits(policy, together, row), row_logits(policy, alone, 0), atol=1e-4, rtol=1e-4
        )


@pytest.mark.parametrize("family", FAMILIES)
def test_every_completion_is_learnt_with_its_end_and_nothing_else(family, loaded):
    encoder, _ = loaded(family)
    for sample in samples_of(family):
        batch = encoder.encode([sample])
        learnt = encoder.decode(batch.labels[batch.labels != IGNORED_LABEL].tolist())
        turns = [message.text for message in sample.messages if message.role == "assistant"]
        assert "".join(learnt.split()) == "".join("".join(turns).split())
        last = int(batch.labels[0][batch.labels[0] != IGNORED_LABEL][-1])
        assert last in encoder.tokenizer.all_special_ids or last in encoder.tokenizer.added_tokens_decoder


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_another_image_changes_the_logits(family, loaded):
    encoder, policy = loaded(family)
    blank = replace(ONE_IMAGE, images=(MediaRef(pil=Image.new("RGB", (32, 32), (255, 255, 255))),))
    seen, unseen = (logits(policy, encoder.encode([sample])) for sample in (ONE_IMAGE, blank))
    assert (seen[:, -3:] - unseen[:, -3:]).abs().max() > 1e-4


@pytest.mark.parametrize("family", WITH_VIDEO)
def test_another_video_changes_the_logits(family, loaded):
    encoder, policy = loaded(family)
    blank = MediaRef(pil=Image.new("RGB", (32, 32), (255, 255, 255)))
    other = replace(VIDEO, videos=(VideoRef(frames=(blank,) * 4, fps=2.0),))
    seen, unseen = (logits(policy, encoder.encode([sample])) for sample in (VIDEO, other))
    assert (seen[:, -3:] - unseen[:, -3:]).abs().max() > 1e-4


@pytest.mark.parametrize("family", WITHOUT_VIDEO)
def test_a_family_without_videos_says_so(family, loaded):
    encoder, _ = loaded(family)
    with pytest.raises(BadSampleError, match="takes no videos"):
        encoder.encode([VIDEO])


@pytest.mark.parametrize("family", FAMILIES)
def test_the_loss_reaches_every_part(family, family_folder):
    backbone = Backbone(str(family_folder(family)))
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).train()
    (-policy.score(encoder.encode(samples_of(family))).log_probs.mean()).backward()
    reached = {
        policy.part_of(f"model.{name}")
        for name, parameter in policy.model.named_parameters()
        if parameter.grad is not None and parameter.grad.abs().max() > 0
    }
    assert {"language"} <= reached if family in TEXT_ONLY else {"vision", "projector", "language"} <= reached


@pytest.mark.parametrize("family", FAMILIES)
def test_left_padded_prompts_go_on_as_they_do_alone(family, loaded):
    encoder, policy = loaded(family)
    settings = GenerationSettings(max_new_tokens=5)
    samples = samples_of(family)
    together = policy.generate(encoder.encode_prompts(samples), settings)
    alone = [policy.generate(encoder.encode_prompts([sample]), settings)[0] for sample in samples]
    assert together == alone


@pytest.mark.parametrize("family", FAMILIES)
def test_prompts_are_the_beginning_of_complete_rows(family, loaded):
    encoder, _ = loaded(family)
    batch = encoder.encode_evaluation(samples_of(family))
    for row in range(len(batch)):
        prompt = batch.prompts.input_ids[row][batch.prompts.attention_mask[row] == 1]
        whole = batch.complete.input_ids[row][batch.complete.attention_mask[row] == 1]
        assert torch.equal(whole[: len(prompt)], prompt)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_saved_model_is_the_same_when_loaded_again(family, loaded, tmp_path):
    encoder, policy = loaded(family)
    policy.save(tmp_path)
    encoder.processor.save_pretrained(tmp_path)
    backbone = Backbone(str(tmp_path))
    encoder_again = backbone.load_encoder()
    again = backbone.load_model(encoder_again).eval()
    first, second = encoder.encode(samples_of(family)), encoder_again.encode(samples_of(family))
    assert torch.equal(logits(policy, first), logits(again, second))


@pytest.mark.parametrize("family", FAMILIES)
def test_the_predicted_tokens_of_a_row_are_those_it_has(family, loaded):
    encoder, _ = loaded(family)
    samples = list(samples_of(family))
    if family in WITH_IMAGES:
        samples += [replace(ONE_IMAGE, images=(picture(size),)) for size in SIZES]
        samples += [replace(TWO_TURNS, images=(picture(size), picture((64, 40)))) for size in SIZES]
    for sample in samples:
        ids = encoder.encode([sample]).input_ids[0]
        media = int(torch.isin(ids, torch.tensor(encoder.media_token_ids)).sum())
        count = encoder.count_tokens(sample)
        assert (count.media, count.total) == (media, len(ids))


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_tokens_are_counted_without_decoding(family, loaded, tmp_path, monkeypatch):
    encoder, _ = loaded(family)
    samples = []
    for number, sample in enumerate(samples_of(family)):
        paths = []
        for index, reference in enumerate(sample.images):
            paths.append(f"{number}-{index}.png")
            reference.pil.save(tmp_path / paths[-1])
        samples.append(replace(sample, images=tuple(MediaRef(path=path, root=str(tmp_path)) for path in paths)))
    expected = [encoder.count_tokens(sample) for sample in samples_of(family)]
    monkeypatch.setattr("lit_vlm.models.processor_encoder.open_image", None)
    monkeypatch.setattr("lit_vlm.models.processor_encoder.open_video", None)
    monkeypatch.setattr(Image.Image, "load", None)
    assert [encoder.count_tokens(sample) for sample in samples] == expected


@pytest.mark.parametrize("family", WITH_IMAGES)
def test_a_count_that_does_not_match_names_the_sample(family, loaded, monkeypatch):
    encoder, _ = loaded(family)
    rows = encoder.family.feature_rows
    monkeypatch.setattr(
        encoder.family, "feature_rows", lambda *args: replace(rows(*args), image=rows(*args).image + 1), raising=False
    )
    marked = replace(ONE_IMAGE, meta=SampleMeta(origin="data.jsonl, line 12"))
    with pytest.raises(BadSampleError, match=r"placeholder tokens, but .* feature rows") as fault:
        encoder.encode([TEXT, marked])
    assert fault.value.origin == "data.jsonl, line 12"
    assert encoder.encode([TEXT]).count().labels > 0


RANK = """
import sys, torch
from torch.nn.parallel import DistributedDataParallel
sys.path.insert(0, {root!r})
from tests.models.families.test_contract import ONE_IMAGE, TEXT
from lit_vlm.models.backbone import Backbone

rank, folder, meeting, out = int(sys.argv[1]), sys.argv[2], sys.argv[3], sys.argv[4]
torch.distributed.init_process_group("gloo", init_method="file://" + meeting, rank=rank, world_size=2)
backbone = Backbone(folder)
encoder = backbone.load_encoder()
policy = backbone.load_model(encoder).train()


class Loss(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.policy = policy

    def forward(self, batch):
        return -self.policy.score(batch).log_probs.mean()


model = DistributedDataParallel(Loss())
model(encoder.encode([TEXT if rank else ONE_IMAGE])).backward()
torch.save({{name: parameter.grad for name, parameter in policy.named_parameters()}}, out + str(rank))
# Neither may leave while the other still talks to it.
torch.distributed.barrier()
torch.distributed.destroy_process_group()
"""


def test_a_rank_with_text_alone_takes_the_step_of_the_others(family_folder, tmp_path):
    # LLaVA's last vision layer is never used, so that its parameters would have no gradient on any rank.
    folder = family_folder("llava")
    script = tmp_path / "rank.py"
    script.write_text(RANK.format(root=str(os.getcwd())))
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    ranks = [
        subprocess.Popen(
            [sys.executable, str(script), str(rank), str(folder), str(tmp_path / "meeting"), str(tmp_path / "rank")],
            env=environment,
        )
        for rank in range(2)
    ]
    try:
        assert [rank.wait(timeout=300) for rank in ranks] == [0, 0]
    finally:
        for rank in ranks:
            rank.kill()
    backbone = Backbone(str(folder))
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).train()
    losses = [-policy.score(encoder.encode([sample])).log_probs.mean() for sample in (ONE_IMAGE, TEXT)]
    (sum(losses) / 2).backward()
    first, second = (torch.load(tmp_path / f"rank{rank}", weights_only=True) for rank in range(2))
    for name, parameter in policy.named_parameters():
        expected = torch.zeros_like(parameter) if parameter.grad is None else parameter.grad
        torch.testing.assert_close(first[name], expected, atol=1e-6, rtol=1e-4)
        assert torch.equal(first[name], second[name])
