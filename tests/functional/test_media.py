import io

import decord  # noqa: F401  the module that reads videos must be importable
import pytest
from PIL import Image

from lit_vlm.functional.media import open_image, open_video, resolve_media_path
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef, VideoRef


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


def test_a_video_file_is_read_within_its_bounds(tmp_path):
    video = write_video(tmp_path / "a.gif", frames=20, rate=10)
    shown, rate = open_video(VideoRef(file=MediaRef(path=str(video)), start=0.0, end=1.0), max_frames=4)
    assert len(shown) == 2  # one second at two frames a second
    assert rate == 2.0
    # Middles of the two halves of frames 0 to 9.
    assert [frame.getpixel((5, 5))[0] for frame in shown] == [20, 70]
    with pytest.raises(UserError, match="no frame between"):
        open_video(VideoRef(file=MediaRef(path=str(video)), start=5.0, end=9.0), max_frames=4)


def test_a_broken_video_is_named(tmp_path):
    (tmp_path / "broken.mp4").write_bytes(b"not a video")
    with pytest.raises(UserError, match="cannot decode the video"):
        open_video(VideoRef(file=MediaRef(path="broken.mp4", root=str(tmp_path))), max_frames=4)


def write_video(path, frames, rate):
    """Writes an animated GIF, which video readers open like any other video; no encoder is needed."""
    pictures = [Image.new("RGB", (64, 64), (10 * index, 0, 0)) for index in range(frames)]
    pictures[0].save(path, save_all=True, append_images=pictures[1:], duration=1000 // rate)
    return path
