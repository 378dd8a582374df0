"""Takes some rows out of a batch of prompts, with the pixels that belong to them.

Pixels of a batch lie end to end, in the order of the placeholder tokens. Which of them belong to a row follows from
its placeholders: media of a grid have as many as the grid's share of all patches, tiles have equally many each.

Legend: ``P`` rows, ``M`` placeholder tokens of a kind of media.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from lit_vlm.interfaces.batches import PromptBatch

TOKEN_TYPES = ("mm_token_type_ids", "token_type_ids")
"""Inputs that tell the kind of each token; the others are media."""
PIXELS = {"image": "pixel_values", "video": "pixel_values_videos"}
"""Pixels of each kind of media."""
GRIDS = {"image": "image_grid_thw", "video": "video_grid_thw"}
TILE_AXES = 5
"""Axes of pixels whose first one may stand for all rows at once, their tiles lying along the second."""


def placeholder_rows(configuration: Any, kind: str, input_ids: Tensor) -> Tensor:
    """Returns the row of each placeholder token of a kind of media, in order, shape ``(M,)``.

    Args:
        configuration: The model's.
        kind: ``image`` or ``video``.
        input_ids: Shape ``(P, L)``.
    """
    token_id = getattr(configuration, f"{kind}_token_id", None)
    if token_id is None:
        token_id = getattr(configuration, f"{kind}_token_index")
    rows: Tensor = (input_ids == token_id).nonzero()[:, 0]
    return rows


def select_prompts(model: Any, prompts: PromptBatch, rows: Tensor) -> PromptBatch | None:
    """Takes some rows, in the order given; a row may come several times.

    Args:
        model: The Hugging Face model.
        prompts: Rows without labels, padded on either side.
        rows: Indices, shape ``(N,)``.

    Returns:
        The rows, with all padding; None where nothing tells which pixels belong to which row.
    """
    if len(rows) == len(prompts) and torch.equal(rows, torch.arange(len(prompts), device=rows.device)):
        return prompts
    owners = _owners(model.config, prompts)
    if owners is None:
        return None
    visual = {}
    for name, (axis, owner) in owners.items():
        places = torch.cat([(owner == row).nonzero().squeeze(1) for row in rows])
        if len(places):
            visual[name] = prompts.visual[name].index_select(axis, places)
    return replace(
        prompts,
        input_ids=prompts.input_ids[rows],
        attention_mask=prompts.attention_mask[rows],
        visual=visual,
        samples=tuple(prompts.samples[row] for row in rows.tolist()) if prompts.samples else (),
    )


def _owners(configuration: Any, prompts: PromptBatch) -> dict[str, tuple[int, Tensor]] | None:
    """Returns, for every visual tensor, the axis of its entries and the row of each; None where one is not known."""
    visual, device = prompts.visual, prompts.input_ids.device
    owners = {name: (0, torch.arange(len(prompts), device=device)) for name in TOKEN_TYPES if name in visual}
    for kind, pixels in PIXELS.items():
        if pixels not in visual:
            continue
        rows = placeholder_rows(configuration, kind, prompts.input_ids)
        if GRIDS[kind] in visual:
            patches = visual[GRIDS[kind]].prod(1)
            ends = patches.cumsum(0)
            of_medium = rows[(ends - patches) * len(rows) // ends[-1]]
            owners |= {GRIDS[kind]: (0, of_medium), pixels: (0, of_medium.repeat_interleave(patches))}
            if kind == "video" and "second_per_grid_ts" in visual:
                owners["second_per_grid_ts"] = (0, of_medium)
        elif kind == "image" and "batch_num_images" in visual:
            with_images = rows.unique()
            of_image = with_images.repeat_interleave(visual["batch_num_images"])
            owners["batch_num_images"] = (0, with_images)
            owners |= dict.fromkeys(("image_sizes", pixels), (0, of_image))
        else:
            axis = int(kind == "image" and visual[pixels].ndim == TILE_AXES and visual[pixels].shape[0] == 1)
            of_tile = _rows_of_tiles(rows, visual[pixels].shape[axis])
            if of_tile is None:
                return None
            names = (pixels, "pixel_attention_mask") if kind == "image" else (pixels,)
            owners |= {name: (axis, of_tile) for name in names if name in visual}
    return owners if owners.keys() == visual.keys() else None


def _rows_of_tiles(rows: Tensor, tiles: int) -> Tensor | None:
    """Returns the row of each tile where each has equally many placeholders, all of one row."""
    if not tiles or len(rows) % tiles:
        return None
    by_tile = rows.unflatten(0, (tiles, -1))
    return by_tile[:, 0] if bool((by_tile == by_tile[:, :1]).all()) else None
