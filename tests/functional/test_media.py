import io
from pathlib import Path

import decord
import numpy
import pytest
import torch
from PIL import Image

from lit_vlm.functional import media
from lit_vlm.functional.media import open_image, open_video, resolve_media_path
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, VideoRef

STEPS = MediaRef(path="grey_steps.mp4", root=str(Path(__file__).parent))
"""A video of 20 frames of 64 x 64 pixels, ten a second; frame ``i`` is a grey of ``12 i``."""


def png(colour=(10, 20, 30), size=(8, 6), mode="RGB", **options):
    buffer = io.BytesIO()
    Image.new(mode, size, colour).save(buffer, "PNG", **options)
    return buffer.getvalue()


def test_bytes_files_and_drawn_images_give_the_same_picture(tmp_path):
    (tmp_path / "a.jpg").write_bytes(png())  # named by mistake: opened by content
    images = [
        open_image(MediaRef(bytes=png())),
        open_image(MediaRef(path="a.jpg", root=str(tmp_path))),
        open_image(MediaRef(pil=Image.new("RGB", (8, 6), (10, 20, 30)))),
    ]
    assert all(image.mode == "RGB" and image.getpixel((3, 3)) == (10, 20, 30) for image in images)


@pytest.mark.parametrize(("mode", "colour"), [("L", 5), ("RGBA", (1, 2, 3, 4)), ("P", 0), ("LA", (9, 9))])
def test_every_mode_becomes_rgb(mode, colour):
    assert open_image(MediaRef(bytes=png(colour, mode=mode))).mode == "RGB"


def test_a_picture_taken_sideways_is_turned_upright():
    exif = Image.Exif()
    exif[0x0112] = 6  # camera turned by 90 degrees
    buffer = io.BytesIO()
    Image.new("RGB", (8, 6)).save(buffer, "JPEG", exif=exif)
    assert open_image(MediaRef(bytes=buffer.getvalue())).size == (6, 8)


def test_a_path_may_not_leave_its_root(tmp_path):
    inside = tmp_path / "inside"
    inside.mkdir()
    (tmp_path / "secret.png").write_bytes(png())
    with pytest.raises(UserError, match="leaves its folder"):
        resolve_media_path(MediaRef(path="../secret.png", root=str(inside)))
    (inside / "link.png").symlink_to(tmp_path / "secret.png")
    with pytest.raises(UserError, match="leaves its folder"):
        resolve_media_path(MediaRef(path="link.png", root=str(inside)))
    with pytest.raises(UserError, match="leaves its folder"):
        resolve_media_path(MediaRef(path=str(tmp_path / "secret.png"), root=str(inside)))


def test_a_path_that_cannot_be_followed_is_named(tmp_path):
    (tmp_path / "loop").symlink_to(tmp_path / "loop")
    for path in ("a" * 900 + ".png", "half\ud800.png", "loop"):
        with pytest.raises(UserError, match="media path '.*' cannot be followed|there is no media file"):
            resolve_media_path(MediaRef(path=path, root=str(tmp_path)))
    with pytest.raises(UserError) as fault:
        resolve_media_path(MediaRef(path="a" * 900, root=str(tmp_path)))
    assert len(str(fault.value)) < 250


@pytest.mark.parametrize("size", [(1, 1000), (1000, 1)])
def test_a_line_of_pixels_is_refused(size):
    with pytest.raises(UserError, match=r"1,?0?0?0? x .* pixels, one side over 200 times the other; crop it"):
        open_image(MediaRef(bytes=png(size=size)))
    assert open_image(MediaRef(bytes=png(size=(1, 200)))).size == (1, 200)


def test_frames_of_several_sizes_are_refused():
    frames = tuple(MediaRef(pil=Image.new("RGB", size)) for size in ((4, 4), (4, 6)))
    with pytest.raises(UserError, match="frame 2 of a video has 4 x 6 pixels and frame 1 4 x 4; make them equal"):
        open_video(VideoRef(frames=frames), max_frames=2)


def test_missing_broken_and_remote_images_are_named(tmp_path):
    with pytest.raises(UserError, match="no media file"):
        open_image(MediaRef(path="nothing.png", root=str(tmp_path)))
    (tmp_path / "broken.png").write_bytes(png()[:30])
    with pytest.raises(UserError, match=r"cannot decode the image 'broken.png'"):
        open_image(MediaRef(path="broken.png", root=str(tmp_path)))
    with pytest.raises(UserError, match="remote address"):
        open_image(MediaRef(url="http://example.invalid/a.png"))


def test_a_reference_has_exactly_one_source():
    with pytest.raises(ValueError, match="exactly one"):
        MediaRef()
    with pytest.raises(ValueError, match="exactly one"):
        MediaRef(path="a", bytes=b"b")


def test_frames_of_a_folder_are_spread_evenly():
    frames = tuple(MediaRef(pil=Image.new("RGB", (4, 4), (index, 0, 0))) for index in range(10))
    shown, rate = open_video(VideoRef(frames=frames, fps=5.0), max_frames=5)
    assert [frame.getpixel((0, 0))[0] for frame in shown] == [1, 3, 5, 7, 9]
    assert rate == 2.5


def test_a_video_file_is_read_within_its_bounds():
    shown, rate = open_video(VideoRef(file=STEPS, start=0.0, end=1.0), max_frames=4)
    assert len(shown) == 2  # one second at two frames a second
    assert rate == 2.0
    # Middles of the two halves of frames 0 to 9, as near as the video's compression keeps them.
    assert [round(frame.getpixel((5, 5))[0] / 12) for frame in shown] == [2, 7]
    with pytest.raises(UserError, match="no frame between"):
        open_video(VideoRef(file=STEPS, start=5.0, end=9.0), max_frames=4)


def test_an_image_bomb_is_refused_by_its_header(monkeypatch):
    small = png()
    reference = MediaRef(bytes=png(size=(100, 50)), max_pixels=4999)
    monkeypatch.setattr(Image.Image, "load", lambda self: pytest.fail("decoded"))
    with pytest.raises(UserError, match="100 x 50 pixels, more than the 4,999 allowed; shrink it, or raise"):
        open_image(reference)
    monkeypatch.setattr(media, "MAX_IMAGE_PIXELS", 10)
    with pytest.raises(UserError, match="more than the 10 allowed"):
        open_image(MediaRef(bytes=small))
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 20)  # Pillow's own limit, at twice that number
    with pytest.raises(UserError, match="is too large to be decoded at all"):
        open_image(MediaRef(bytes=small, max_pixels=1000))


def test_an_image_within_the_limit_is_decoded_without_a_warning(monkeypatch):
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", 40)
    assert open_image(MediaRef(bytes=png(), max_pixels=48)).size == (8, 6)


def test_empty_media_are_named(tmp_path):
    (tmp_path / "empty.png").touch()
    with pytest.raises(UserError, match="the image 'empty.png' is empty"):
        open_image(MediaRef(path="empty.png", root=str(tmp_path)))
    with pytest.raises(UserError, match="the image given as 0 bytes is empty"):
        open_image(MediaRef(bytes=b""))
    with pytest.raises(UserError, match="the video 'empty.png' is empty"):
        open_video(VideoRef(file=MediaRef(path="empty.png", root=str(tmp_path))), max_frames=4)


def test_sixteen_bits_a_pixel_keep_their_shades():
    buffer = io.BytesIO()
    Image.fromarray(numpy.array([[0, 32768, 65535]], dtype="uint16")).save(buffer, "PNG")
    image = open_image(MediaRef(bytes=buffer.getvalue()))
    assert [image.getpixel((x, 0))[0] for x in range(3)] == [0, 128, 255]


def test_a_video_that_is_too_long_is_refused_but_a_span_of_it_is_read():
    with pytest.raises(UserError, match="is 2.0 s long, more than the 1.0 s allowed; cut it, or raise"):
        open_video(VideoRef(file=STEPS, max_seconds=1.0), max_frames=4)
    assert len(open_video(VideoRef(file=STEPS, max_seconds=1.0, start=0.5, end=1.5), max_frames=4)[0]) == 2


@pytest.mark.parametrize("convert", [numpy.asarray, lambda batch: torch.from_numpy(batch.copy())])
def test_readers_may_return_arrays_of_their_own_or_others(monkeypatch, convert):
    video = VideoRef(file=STEPS)
    expected, _ = open_video(video, max_frames=3)
    own = decord.VideoReader.get_batch
    monkeypatch.setattr(decord.VideoReader, "get_batch", lambda self, at: convert(own(self, at).asnumpy()))
    shown, _ = open_video(video, max_frames=3)
    assert [frame.getpixel((5, 5)) for frame in shown] == [frame.getpixel((5, 5)) for frame in expected]


def test_remote_videos_are_not_fetched():
    with pytest.raises(UserError, match="is a remote address; download it"):
        open_video(VideoRef(file=MediaRef(url="http://example.invalid/a.mp4")), max_frames=4)


def test_a_broken_video_is_named(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match="cannot decode the video"):
        open_video(VideoRef(file=MediaRef(path="broken.mp4", root=str(tmp_path))), max_frames=4)
