"""The rules that most families of vision-language models follow; a family's own file overrides what differs.

A processor turns a run of text with its media into token ids and tensors, and writes as many placeholder tokens as the
model will make feature rows. What a family must tell is which tokens are placeholders, how many feature rows a
processor's output stands for, and how the tensors of several runs are put together.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor
from torch.nn.functional import pad

from lit_vlm.interfaces.errors import UserError

Frames = list[Any]
"""The images of one video, in order."""
Visual = dict[str, Tensor]
"""What a model's forward takes for media, by name."""


@dataclass(frozen=True)
class MediaCounts:
    """Tokens or feature rows, of images and of videos."""

    image: int = 0
    video: int = 0


@dataclass(frozen=True)
class Run:
    """A run of text with its media, decoded."""

    text: str
    """Rendered text with one placeholder a medium."""
    images: Sequence[Any]
    """Images in order."""
    videos: Sequence[tuple[Frames, float]]
    """Frames and frame rate of each video, in order."""
    in_row: int
    """Images of the whole conversation."""


class Family:
    """Rules that hold without knowing the family."""

    model_types: ClassVar[tuple[str, ...]] = ()
    """Names of the family, as in a checkpoint's ``config.json``."""
    even_frames: ClassVar[Literal["never", "turn", "always"]] = "never"
    """Whether videos must have equally many frames: those of one turn, or all, always the most that are read."""

    def placeholder_ids(self, processor: Any) -> MediaCounts:
        """Returns the ids of the tokens that image and video features replace; -1 where there is no such token."""
        return MediaCounts(*(self._token_id(processor, kind) for kind in ("image", "video")))

    def control_tokens(self, processor: Any) -> list[str]:
        """Lists the tokens that stand for media and must not come from the text of data."""
        tokens = [getattr(processor, f"{kind}_token", None) for kind in ("image", "video")]
        ids = self.placeholder_ids(processor)
        # Some processors know further marks, such as those that end a line or an image.
        marks = [mark for kind in ("image", "video") for mark in getattr(processor, f"{kind}_token_ids", None) or ()]
        known = [token_id for token_id in (ids.image, ids.video, *marks) if isinstance(token_id, int) and token_id >= 0]
        written = [token for token in tokens if isinstance(token, str)]
        return list(dict.fromkeys([*written, *processor.tokenizer.convert_ids_to_tokens(known)]))

    def chat_template(self, processor: Any, shows_video: bool) -> str | None:
        """Returns the template to render a conversation with; None leaves the choice to the processor."""
        return None

    def process(
        self, processor: Any, text: str, images: Sequence[Any], videos: Sequence[tuple[Frames, float]], in_row: int
    ) -> Mapping[str, Any]:
        """Runs the processor on one run of text.

        Args:
            processor: The checkpoint's processor.
            text: Rendered text with one placeholder a medium.
            images: Decoded images, in order.
            videos: Frames and frame rate of each video, in order.
            in_row: Images of the whole conversation.

        Returns:
            The processor's output for one row, without padding.
        """
        options: dict[str, Any] = {}
        if images:
            options["images"] = [list(images)]
        if videos:
            options["videos"] = [[frames for frames, _ in videos]]
            options["video_metadata"] = [video_metadata(len(frames), rate) for frames, rate in videos]
            options["do_sample_frames"] = False
        output: Mapping[str, Any] = processor(text=[text], return_tensors="pt", add_special_tokens=False, **options)
        return output

    def process_all(self, processor: Any, runs: Sequence[Run]) -> list[Mapping[str, Any]]:
        """Runs the processor on several runs of text; a family may do so in fewer calls.

        Returns:
            For each run, the processor's output for one row, without padding.
        """
        return [self.process(processor, run.text, run.images, run.videos, run.in_row) for run in runs]

    def even(self, videos: Sequence[tuple[Frames, float]], most: int) -> list[tuple[Frames, float]]:
        """Repeats frames where the family needs videos to have equally many.

        Args:
            videos: Frames and frame rate of each video of a turn.
            most: Frames read from a video at most.
        """
        counts = self.even_counts([len(frames) for frames, _ in videos], most)
        return [
            ([frames[index * len(frames) // count] for index in range(count)], rate * count / len(frames))
            for (frames, rate), count in zip(videos, counts, strict=True)
        ]

    def even_counts(self, counts: Sequence[int], most: int) -> list[int]:
        """Returns how many frames each video of a turn will have, by how many were read."""
        if self.even_frames == "never":
            return list(counts)
        return [most if self.even_frames == "always" else max(counts, default=0)] * len(counts)

    def feature_rows(self, processor: Any, visual: Visual) -> MediaCounts | None:
        """Counts the feature rows that the model will make of a processor's output, without running it.

        Returns:
            The counts; None where no rule tells, so that only the model itself notices a difference.
        """
        image: int | None = 0
        if "image_grid_thw" in visual:
            image = grid_rows(visual["image_grid_thw"], processor.image_processor)
        elif "pixel_values" in visual:
            rows = self.rows_of_a_tile(processor, visual["pixel_values"])
            image = None if rows is None else self.tiles(visual["pixel_values"]) * rows
        video = grid_rows(visual["video_grid_thw"], processor.video_processor) if "video_grid_thw" in visual else 0
        videos_unknown = "pixel_values_videos" in visual and "video_grid_thw" not in visual
        return None if image is None or videos_unknown else MediaCounts(image, video)

    def tiles(self, pixels: Tensor) -> int:
        """Counts the images or crops that pass through the vision tower, of shape ``(tiles, C, H, W)``."""
        return len(pixels)

    def rows_of_a_tile(self, processor: Any, pixels: Tensor) -> int | None:
        """Counts the feature rows of one image or crop; None where the processor does not say."""
        for name in ("image_seq_length", "image_seq_len"):
            rows = getattr(processor, name, None)
            if isinstance(rows, int):
                return rows
        return None

    def check_model(self, model: Any) -> None:
        """Refuses a model that the general rules would feed wrongly without anybody's notice.

        Raises:
            UserError: The family has no rules of its own, and the model does not compare placeholders with features.
        """
        if not self.model_types and not hasattr(model.base_model, "get_placeholder_mask"):
            raise UserError(
                f"{type(model).__name__} does not put image features in the place of placeholder tokens as most "
                f"families do; its model type {model.config.model_type!r} needs a file in lit_vlm/models/families"
            )

    def join(self, rows: Sequence[Sequence[Visual]]) -> Visual:
        """Puts the tensors of a batch together.

        Args:
            rows: For each row, the processor's outputs of its runs of text, in order.

        Raises:
            UserError: They do not fit together.
        """
        runs = [run for row in rows for run in row]
        names = dict.fromkeys(name for run in runs for name in run)
        joined = {}
        for name in names:
            tensors = [run[name] for run in runs if name in run]
            if name == "pixel_values" and all("image_sizes" in run for run in runs if name in run):
                # The model leaves out again what lies beyond an image's size.
                tensors = pad_alike(tensors)
            shapes = {tuple(tensor.shape[1:]) for tensor in tensors}
            if len(shapes) > 1:
                raise UserError(
                    f"{name!r} has the shapes {sorted(shapes)} within a batch, and no rule tells how to join them; "
                    "this model family needs a file in lit_vlm/models/families, or a batch size of 1"
                )
            joined[name] = torch.cat(tensors)
        return joined

    def token_types(self, outputs: Sequence[Mapping[str, Any]]) -> str | None:
        """Names the input that tells the kind of each token; None where the model takes none.

        Args:
            outputs: What the processor gave for the runs of a batch; empty where there are no media.
        """
        return "mm_token_type_ids" if any("mm_token_type_ids" in output for output in outputs) else None

    def image_text(self, processor: Any, height: int, width: int, in_row: int) -> str | None:
        """Returns what the processor writes in place of an image's placeholder; None where no rule tells.

        Args:
            processor: The checkpoint's processor.
            height: Height of the upright image in pixels.
            width: Its width.
            in_row: Images of the whole conversation.
        """
        return None

    def video_text(self, processor: Any, frames: int, height: int, width: int, rate: float) -> str | None:
        """Returns what the processor writes in place of a video's placeholder; None where no rule tells."""
        return None

    def _token_id(self, processor: Any, kind: str) -> int:
        token = getattr(processor, f"{kind}_token", None)
        return int(processor.tokenizer.convert_tokens_to_ids(token)) if isinstance(token, str) else -1


def video_metadata(frames: int, rate: float) -> dict[str, Any]:
    """Describes frames that are sampled already, as video processors want to know."""
    return {"fps": rate, "total_num_frames": frames, "frames_indices": list(range(frames)), "duration": frames / rate}


def pad_alike(tensors: Sequence[Tensor]) -> list[Tensor]:
    """Adds zeros at the end of every axis but the first, so that the tensors differ in that one alone."""
    shape = [max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True)]
    return [
        pad(x, [item for size, most in zip(x.shape[:0:-1], shape[::-1], strict=True) for item in (0, most - size)])
        for x in tensors
    ]


def grid_rows(grids: Tensor, patcher: Any) -> int:
    """Counts feature rows where each is a square of patches.

    Args:
        grids: Patches in time, height and width of each medium, shape ``(media, 3)``.
        patcher: The image or video processor, with the side of that square.
    """
    return int(grids.prod(1).sum()) // int(patcher.merge_size) ** 2
