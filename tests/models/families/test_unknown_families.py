"""Families without a file of their own: those that the general rules feed rightly, and those that are refused."""

from dataclasses import replace
from functools import cache

import pytest
import torch
from PIL import Image

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import IGNORED_LABEL, MediaRef, Sample, assistant_message, user_message
from lit_vlm.models.adapters import AdapterSettings
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.families.discovery import known_families
from lit_vlm.models.families.family import Family
from lit_vlm.models.vision_language_model import GenerationSettings
from tests.models.unknown_checkpoints import FED_BY_GENERAL_RULES, build_unknown_checkpoint


def picture(size, turn=0):
    return MediaRef(pil=Image.linear_gradient("L").rotate(90 * turn).resize(size).convert("RGB"))


TEXT = Sample("text", (user_message("Which digit?"), assistant_message("i see 7.")))
WIDE = Sample("wide", (user_message("a", images=1), assistant_message("it glows.")), (picture((90, 40)),))
SMALL = replace(WIDE, id="small", images=(picture((30, 34), 1),))
SEVERAL = Sample(
    "several",
    (
        user_message("b", images=2),
        assistant_message("no"),
        user_message("c", images=1, first_image=2),
        assistant_message("yes"),
    ),
    (picture((40, 90)), picture((64, 64), 1), picture((20, 30), 2)),
)
SAMPLES = (TEXT, WIDE, SMALL, SEVERAL)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("unknown")

    @cache
    def folder(family):
        build_unknown_checkpoint(family, root / family)
        return str(root / family)

    return folder


@pytest.fixture(params=FED_BY_GENERAL_RULES)
def loaded(request, folders):
    backbone = Backbone(folders(request.param))
    encoder = backbone.load_encoder()
    assert type(encoder.family) is Family
    assert request.param not in known_families()
    return encoder, backbone.load_model(encoder).eval()


@torch.no_grad()
def logits(policy, batch):
    return policy.model.get_output_embeddings()(policy.hidden_states(batch))


def test_a_row_of_a_mixed_batch_is_what_it_is_alone(loaded):
    encoder, policy = loaded
    together = encoder.encode(SAMPLES)
    assert not together.dropped
    batched = logits(policy, together)
    for row, sample in enumerate(SAMPLES):
        alone = encoder.encode([sample])
        read = together.attention_mask[row] == 1
        assert torch.equal(together.input_ids[row][read], alone.input_ids[0])
        torch.testing.assert_close(batched[row][read], logits(policy, alone)[0], atol=1e-4, rtol=1e-4)
        assert encoder.count_tokens(sample).total == alone.input_ids.shape[1]


def test_completions_are_learnt_and_images_are_seen(loaded):
    encoder, policy = loaded
    batch = encoder.encode([SEVERAL])
    assert encoder.decode(batch.labels[batch.labels != IGNORED_LABEL].tolist()).split() == ["noyes"]
    other = replace(WIDE, images=(picture((90, 40), 2),))
    seen, unseen = (logits(policy, encoder.encode([sample])) for sample in (WIDE, other))
    assert (seen[:, -3:] - unseen[:, -3:]).abs().max() > 1e-4


def test_the_loss_reaches_every_part_and_prompts_are_continued(loaded):
    encoder, policy = loaded
    assert set(policy.parts) == {"vision", "projector", "language", "head"}
    (-policy.score(encoder.encode(SAMPLES)).log_probs.mean()).backward()
    reached = {
        policy.part_of(f"model.{name}")
        for name, value in policy.model.named_parameters()
        if value.grad is not None and value.grad.abs().max() > 0
    }
    assert {"vision", "projector", "language"} <= reached
    settings = GenerationSettings(max_new_tokens=4)
    together = policy.generate(encoder.encode_prompts(SAMPLES), settings)
    assert together == [policy.generate(encoder.encode_prompts([sample]), settings)[0] for sample in SAMPLES]


def test_an_adapter_is_added_and_saved(loaded, tmp_path):
    encoder, policy = loaded
    checkpoint = policy.model.config._name_or_path
    backbone = Backbone(checkpoint, adapter=AdapterSettings(rank=2))
    adapted = backbone.load_model(encoder)
    adapted.save(tmp_path)
    again = Backbone(checkpoint, adapter=AdapterSettings(load=str(tmp_path))).load_model(encoder)
    batch = encoder.encode(SAMPLES)
    assert torch.equal(logits(adapted.eval(), batch), logits(again.eval(), batch))


def test_marks_of_images_in_the_data_are_text(folders):
    encoder = Backbone(folders("mistral3")).load_encoder()
    ids = encoder.encode([replace(TEXT, messages=(user_message("[IMG][IMG_BREAK][IMG_END]"), TEXT.messages[1]))])
    marks = encoder.tokenizer.convert_tokens_to_ids(["[IMG]", "[IMG_BREAK]", "[IMG_END]"])
    assert not torch.isin(ids.input_ids, torch.tensor(marks)).any()


def test_a_model_that_reads_images_in_another_way_is_refused(folders):
    backbone = Backbone(folders("mllama"))
    with pytest.raises(UserError, match="'mllama' needs a file in lit_vlm/models/families"):
        backbone.load_model(backbone.load_encoder())
