import torch

from lit_vlm.models.backbone import Backbone
from lit_vlm.models.stand_in import StandIn, in_step


def test_a_stand_in_has_a_row_without_media_and_one_with_a_blank_image(random_tiny_encoder):
    stand_in = StandIn.of_encoder(random_tiny_encoder)
    assert len(stand_in.text) == len(stand_in.media) == 1
    assert "pixel_values" not in stand_in.text.visual
    assert "pixel_values" in stand_in.media.visual


def test_whole_weights_need_none(random_tiny_model):
    assert in_step(random_tiny_model, 0, has_rows=False) == 0.0


def test_a_rank_without_rows_or_media_carries_a_graph_to_all_that_trains(
    random_tiny_folder, random_tiny_encoder, monkeypatch
):
    for encodings in (0, 2):
        # Another rank runs the vision tower as often.
        monkeypatch.setattr(
            "lit_vlm.models.stand_in.most_of_all_ranks", lambda own, device, most=encodings: max(own, most)
        )
        policy = Backbone(str(random_tiny_folder)).load_model(random_tiny_encoder).train()
        policy.stand_in = StandIn.of_encoder(random_tiny_encoder)
        runs = []
        policy.model.base_model.visual.register_forward_hook(lambda *given, runs=runs: runs.append(1))
        zero = in_step(policy, 0, has_rows=False)
        assert float(zero.detach()) == 0.0
        assert len(runs) == max(1, encodings)
        zero.backward()
        missing = [name for name, value in policy.named_parameters() if value.grad is None]
        assert missing == []
        assert all(not value.grad.any() for value in policy.parameters())
        with torch.no_grad():
            in_step(policy, 0, has_rows=False)
        assert len(runs) == max(1, encodings) + encodings


def test_gathered_weights_need_none(random_tiny_model, random_tiny_encoder, monkeypatch):
    random_tiny_model.stand_in = StandIn.of_encoder(random_tiny_encoder)
    monkeypatch.setattr(type(random_tiny_model), "is_gathered", True)
    assert in_step(random_tiny_model, 0, has_rows=True) == 0.0
