"""Samples with other pictures in the place of their own, of the same sizes, so that a row keeps its length."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import cycle, islice

from PIL import Image

from lit_vlm.functional.image_size import image_size
from lit_vlm.functional.media import open_image, open_video
from lit_vlm.functional.sample_digests import media_digest
from lit_vlm.interfaces.records import MediaRef, Sample, VideoRef

GREY = (128, 128, 128)


def with_frames(sample: Sample, most_frames: int) -> Sample:
    """Decodes the videos of a sample, so that each is its frames; those that are frames already stay as they are.

    Args:
        sample: Its images are not decoded.
        most_frames: Frames of each video file, at most.

    Raises:
        UserError: A video cannot be decoded.
    """
    return replace(sample, videos=tuple(_as_frames(video, most_frames) for video in sample.videos))


def with_blank_media(sample: Sample) -> Sample:
    """Puts mid grey of the same size in the place of every image and every frame.

    Args:
        sample: Its videos are frames; see ``with_frames``.

    Raises:
        UserError: The size of an image cannot be read.
    """
    return replace(
        sample,
        images=tuple(map(_blank, sample.images)),
        videos=tuple(replace(video, frames=tuple(map(_blank, video.frames))) for video in sample.videos),
    )


def with_media_of(sample: Sample, other: Sample) -> Sample:
    """Puts another sample's pictures in the place of every image and every frame, in turn where there are fewer.

    Images stand in for images and frames for frames as far as the other has both; a picture of another size is resized.

    Args:
        sample: Its videos are frames; see ``with_frames``.
        other: Has an image or a video, whose videos are frames too.

    Raises:
        UserError: An image cannot be decoded.
    """
    frames = [frame for video in other.videos for frame in video.frames]
    images = list(other.images)

    def stand_in(references: Sequence[MediaRef], pool: Sequence[MediaRef]) -> list[MediaRef]:
        return [
            _fitted(picture, image_size(reference))
            for reference, picture in zip(references, islice(cycle(pool), len(references)), strict=True)
        ]

    return replace(
        sample,
        images=tuple(stand_in(sample.images, images or frames)),
        videos=tuple(replace(video, frames=tuple(stand_in(video.frames, frames or images))) for video in sample.videos),
    )


def media_sizes(sample: Sample) -> tuple[tuple[int, int], ...]:
    """Returns width and height of each image, then of each video's first frame.

    Raises:
        UserError: A size cannot be read.
    """
    videos = [
        image_size(video.frames[0]) if video.frames else open_video(video, 1)[0][0].size for video in sample.videos
    ]
    return (*map(image_size, sample.images), *videos)


def media_names(sample: Sample) -> tuple[str, ...]:
    """Names each image and video so that equal names mean the same picture: files by path, others by contents."""
    first_frames = [video.frames[0] if video.file is None else video.file for video in sample.videos]
    return tuple(
        f"{reference.root}/{reference.path}" if reference.path is not None else media_digest(reference).hex()
        for reference in (*sample.images, *first_frames)
    )


def _as_frames(video: VideoRef, most_frames: int) -> VideoRef:
    if video.file is None:
        return video
    frames, rate = open_video(video, most_frames)
    return VideoRef(frames=tuple(MediaRef(pil=frame) for frame in frames), fps=rate)


def blank_picture(width: int, height: int) -> MediaRef:
    """Makes a picture on which nothing is to be seen, in pixels."""
    return MediaRef(pil=Image.new("RGB", (width, height), GREY))


def _blank(reference: MediaRef) -> MediaRef:
    return blank_picture(*image_size(reference))


def _fitted(picture: MediaRef, size: tuple[int, int]) -> MediaRef:
    if image_size(picture) == size:
        return picture
    return MediaRef(pil=open_image(picture).resize(size, Image.Resampling.BICUBIC))
