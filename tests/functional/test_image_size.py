import io

import pytest
from PIL import Image
from PIL.ExifTags import Base

from lit_vlm.functional.image_size import image_size
from lit_vlm.functional.media import open_image
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef


def encoded(size, form, orientation=None):
    image = Image.new("RGB", size)
    exif = image.getexif()
    if orientation is not None:
        exif[Base.Orientation] = orientation
    contents = io.BytesIO()
    image.save(contents, form, exif=exif)
    return contents.getvalue()


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", [None, *range(1, 9)])
def test_the_size_is_that_of_the_decoded_image(form, orientation):
    reference = MediaRef(bytes=encoded((6, 4), form, orientation))
    assert image_size(reference) == open_image(reference).size


@pytest.mark.parametrize("form", ["PNG", "JPEG", "WEBP"])
def test_pixels_are_not_decoded(form, tmp_path, monkeypatch):
    (tmp_path / "a").write_bytes(encoded((6, 4), form, 6 if form == "JPEG" else None))
    monkeypatch.setattr(Image.Image, "load", None)
    assert image_size(MediaRef(path="a", root=str(tmp_path))) == ((4, 6) if form == "JPEG" else (6, 4))


def test_a_size_that_is_known_is_believed(tmp_path):
    assert image_size(MediaRef(path="missing.png", root=str(tmp_path), size=(3, 2))) == (3, 2)


def test_a_drawn_image_knows_its_size():
    assert image_size(MediaRef(pil=Image.new("RGB", (5, 7)))) == (5, 7)


def line():
    buffer = io.BytesIO()
    Image.new("RGB", (1, 1000)).save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize(
    ("reference", "message"),
    [
        ({"path": "missing.png"}, "there is no media file"),
        ({"path": "../up.png"}, "leaves its folder"),
        ({"bytes": b"no image"}, "cannot read the size of the image '8 bytes'"),
        ({"bytes": b""}, "cannot read the size"),
        ({"bytes": line()}, "1 x 1,000 pixels, one side over 200 times the other"),
        ({"url": "example.org/a.png"}, "remote address"),
    ],
)
def test_what_has_no_size_is_named(reference, message, tmp_path):
    root = {"root": str(tmp_path)} if "path" in reference else {}
    with pytest.raises(UserError, match=message):
        image_size(MediaRef(**reference, **root))
