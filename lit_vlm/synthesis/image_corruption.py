"""Spoils the images of a sample, so that an answer no longer follows from them."""

import random
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal, get_args

from PIL.Image import Image

from lit_vlm.functional.media import open_image
from lit_vlm.functional.random_streams import random_stream
from lit_vlm.functional.replaced_media import with_frames
from lit_vlm.functional.spoilt_images import blank, blown_up, blurred, patches_hidden, random_crop_box
from lit_vlm.interfaces.errors import BadSampleError, UserError
from lit_vlm.interfaces.records import MediaRef, Sample, VideoRef
from lit_vlm.interfaces.roles import SampleCorruption

CorruptionKind = Literal["crop", "blank", "blur", "patch_mask"]


@dataclass(frozen=True)
class ImageCorruption(SampleCorruption):
    """Puts a spoilt picture of the same size in the place of every image and every frame of a video.

    What is drawn depends on ``seed`` and the sample's id alone: policy and reference see the same picture, and so does
    every epoch. The frames of a video are spoilt alike.

    Source:
        mDPO (Wang et al., 2024), ``bunny/modeling_bunny_phi.py`` ``crop_images`` (confirmed-in-code): a
        RandomResizedCrop to the original size with an area share in [0.01, 0.20]. There the crop is drawn anew for the
        reference and at each step; here once for each sample. The other kinds are ours.
    """

    kind: CorruptionKind = "crop"
    """``crop``: a small box, blown up; ``blank``: mid grey; ``blur``: Gaussian; ``patch_mask``: cells painted grey."""
    low: float = 0.01
    """``crop``: least share of the area that is kept."""
    high: float = 0.2
    """``crop``: greatest share of the area that is kept."""
    radius: float = 0.1
    """``blur``: standard deviation as a share of the shorter side."""
    hidden: float = 0.75
    """``patch_mask``: share of the cells that are painted."""
    cells: int = 8
    """``patch_mask``: cells along each side."""
    max_video_frames: int = 8
    """Frames read of a video file; give what ``model.backbone.max_video_frames`` says."""
    seed: int = 0
    """Names the random stream."""

    def __post_init__(self) -> None:
        if self.kind not in get_args(CorruptionKind):
            raise UserError(f"corruption.kind is {self.kind!r}; give one of {', '.join(get_args(CorruptionKind))}")
        if not 0 < self.low <= self.high <= 1:
            raise UserError(f"corruption has low {self.low} and high {self.high}; wanted is 0 < low <= high <= 1")
        if not self.radius > 0 or not 0 < self.hidden <= 1:
            raise UserError(
                f"corruption has radius {self.radius} and hidden {self.hidden}; wanted are radius > 0, 0 < hidden <= 1"
            )
        for name in ("cells", "max_video_frames"):
            if getattr(self, name) < 1:
                raise UserError(f"corruption.{name} is {getattr(self, name)}; give at least 1")

    def __call__(self, sample: Sample) -> Sample:
        """Returns the sample with spoilt images; without images and videos it stays as it is.

        Raises:
            BadSampleError: An image or video cannot be decoded.
        """
        if not sample.images and not sample.videos:
            return sample
        stream = random_stream(self.seed, "corruption", sample.id)
        try:
            sample = with_frames(sample, self.max_video_frames)
            return replace(
                sample,
                images=tuple(self._spoilt(image, self._drawn(stream)) for image in sample.images),
                videos=tuple(self._spoilt_video(video, self._drawn(stream)) for video in sample.videos),
            )
        except UserError as fault:
            raise BadSampleError(sample.meta.origin or sample.id, str(fault)) from fault

    def _drawn(self, stream: random.Random) -> Callable[[Image], Image]:
        """Draws how one medium is spoilt; the same numbers each time it is applied."""
        seed = stream.getrandbits(64)

        def spoil(picture: Image) -> Image:
            own = random.Random(seed)
            match self.kind:
                case "crop":
                    return blown_up(picture, random_crop_box(picture.size, (self.low, self.high), (3 / 4, 4 / 3), own))
                case "blank":
                    return blank(picture)
                case "blur":
                    return blurred(picture, self.radius)
                case "patch_mask":
                    return patches_hidden(picture, self.hidden, self.cells, own)

        return spoil

    def _spoilt_video(self, video: VideoRef, spoil: Callable[[Image], Image]) -> VideoRef:
        return replace(video, frames=tuple(self._spoilt(frame, spoil) for frame in video.frames))

    def _spoilt(self, reference: MediaRef, spoil: Callable[[Image], Image]) -> MediaRef:
        picture = spoil(open_image(reference))
        return MediaRef(pil=picture, size=picture.size)
