import torch

from lit_vlm.models.token_row import TokenRow


def test_a_row_grows_by_segments_and_knows_its_prompt():
    row = TokenRow()
    row.add([1, 2], [0, 1], trained=False)
    row.add([3], [0], trained=True)
    assert (row.ids, row.trained, row.media_types) == ([1, 2, 3], [False, False, True], [0, 1, 0])
    assert row.prompt().ids == [1, 2]


def test_a_digest_tells_tokens_and_media_apart():
    pixels = torch.arange(6.0).view(2, 3)
    rows = [
        TokenRow([1, 2]),
        TokenRow([12]),
        TokenRow([1, 2], outputs=[{"pixel_values": pixels}]),
        TokenRow([1, 2], outputs=[{"pixel_values": pixels + 1e-6}]),
        TokenRow([1, 2], outputs=[{"pixel_values": pixels.view(3, 2)}]),
        TokenRow([1, 2], outputs=[{"pixel_values": pixels.half()}]),
    ]
    assert len({row.digest() for row in rows}) == len(rows)
    assert rows[2].digest() == TokenRow([1, 2], outputs=[{"pixel_values": pixels.clone()}]).digest()
