import base64
from pathlib import Path

import pytest

from lit_vlm.data.records.media_references import MediaRoots, image_reference, media_list, video_reference
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import UserError


@pytest.fixture
def roots(media_folder):
    return MediaRoots(media_folder, max_image_pixels=1000, max_video_seconds=60.0)


def test_every_way_to_store_an_image_shows_the_same_picture(roots, png, media_folder):
    data = png((60, 0, 0))
    encoded = base64.b64encode(data).decode()
    padded = encoded + "\n" * 2000  # so long that it can be no path
    for value in (
        "b.png", f"file://{media_folder}/b.png", str(media_folder / "b.png"), data, bytearray(data),
        {"bytes": data, "path": "elsewhere.png"}, {"bytes": None, "path": "b.png"}, {"image": "b.png"},
        {"url": f"data:image/png;base64,{encoded}"}, f"data:image/png;base64,{encoded}", padded, '{"path": "b.png"}',
    ):  # fmt: skip
        reference = image_reference(value, roots)
        assert open_image(reference).getpixel((3, 3)) == (60, 0, 0), value
        assert reference.max_pixels == 1000


@pytest.mark.parametrize("value", ["http://x.invalid/a.png", "https://x.invalid/a.png", "s3://x/a.png"])
def test_nothing_is_downloaded(roots, value):
    with pytest.raises(UserError, match="is a remote address; nothing is downloaded"):
        image_reference(value, roots)


@pytest.mark.parametrize(
    ("value", "told"),
    [
        (7, "must be a path, bytes or base64, not int '7'"),
        ({"colour": "red"}, r"not an object with \['colour'\]"),
        ("é" * 2000, "neither a path nor base64"),
        ("A" * 2001, "base64 text of an image is broken"),
        ("/elsewhere/a.png", "is absolute and lies outside .*; set data.media_root"),
    ],
)
def test_what_is_no_image_is_named(roots, value, told):
    with pytest.raises(UserError, match=told):
        image_reference(value, roots)


def test_the_longest_prefix_of_a_path_names_its_root(tmp_path):
    roots = MediaRoots(
        tmp_path, {"coco": Path("/data/a"), "coco/train/": Path("/data/b"), "/old/disk": Path("/data/c")}
    )
    for path, root, rest in (
        ("coco/train/1.jpg", "/data/b", "1.jpg"),
        ("coco/val/1.jpg", "/data/a", "val/1.jpg"),
        ("cocoa/1.jpg", str(tmp_path), "cocoa/1.jpg"),
        ("/old/disk/x/1.jpg", "/data/c", "x/1.jpg"),
        ("/data/b/2.jpg", "/data/b", "/data/b/2.jpg"),
    ):
        assert (roots.locate(path).root, roots.locate(path).path) == (root, rest)


def test_a_prefix_does_not_let_a_path_out_of_its_root(media_folder, png):
    inner = media_folder / "sub"
    with pytest.raises(UserError, match="leaves its folder"):
        open_image(MediaRoots(media_folder, {"x": inner}).locate("x/../a.png"))
    (inner / "link.png").symlink_to(media_folder / "a.png")
    with pytest.raises(UserError, match="leaves its folder"):
        open_image(MediaRoots(inner).locate("link.png"))
    assert open_image(MediaRoots(media_folder).locate("sub/link.png")).size == (28, 28)


def test_a_column_of_media_has_many_forms():
    nan = float("nan")
    for value, listed in (
        ("a.png", ["a.png"]), (None, []), ("", []), (nan, []), ([], []), (["a", None, "b"], ["a", "b"]),
        ("['a.png', 'b.png']", ["a.png", "b.png"]), (b"x", [b"x"]), ({"path": "a"}, [{"path": "a"}]),
        ({"bytes": [None], "path": ["a"]}, [{"bytes": None, "path": "a"}]),
    ):  # fmt: skip
        assert media_list(value) == listed


def test_videos_are_files_or_frames_with_times(roots):
    video = video_reference("v.mp4", roots)
    assert (video.file.path, video.max_seconds) == ("v.mp4", 60.0)
    assert [frame.path for frame in video_reference(["a.png", "b.png"], roots).frames] == ["a.png", "b.png"]
    video = video_reference({"video": "v.mp4", "video_start": 1, "end": "2.5", "fps": 4}, roots)
    assert (video.file.path, video.start, video.end, video.fps) == ("v.mp4", 1.0, 2.5, 4.0)
    assert len(video_reference({"frames": ["a.png", "b.png"], "fps": 2}, roots).frames) == 2
    for value, told in (
        ([None], "no frame"),
        ({"video": "v.mp4", "end": "x"}, "end of a video is 'x'; give a number"),
        ({"video": "v.mp4", "fps": float("inf")}, "fps of a video is inf; give a number above 0"),
        ({"video": "v.mp4", "start": 1e308}, "start of a video is 1e[+]308; give a number"),
        ({"video": "v.mp4", "start": -1}, "start of a video is -1; give a number"),
    ):
        with pytest.raises(UserError, match=told):
            video_reference(value, roots)
