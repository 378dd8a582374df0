from PIL import Image

from lit_vlm.functional.image_size import image_size
from lit_vlm.functional.media import open_image
from lit_vlm.functional.replaced_media import (
    GREY,
    blank_picture,
    media_names,
    media_sizes,
    with_blank_media,
    with_frames,
    with_media_of,
)
from lit_vlm.interfaces.records import MediaRef, Sample, VideoRef, user_message


def picture(colour, size=(8, 8)):
    return MediaRef(pil=Image.new("RGB", size, colour))


def sample(*images, videos=()):
    return Sample("s", (user_message("q", images=len(images)),), images=images, videos=videos)


def colours(references):
    return [open_image(reference).getpixel((0, 0)) for reference in references]


RED, BLUE, LIME = (255, 0, 0), (0, 0, 255), (0, 255, 0)


def test_blank_pictures_keep_sizes_and_everything_else():
    video = VideoRef(frames=(picture("red", (6, 4)),) * 3, fps=1.5)
    given = sample(picture("red", (10, 20)), picture("blue"), videos=(video,))
    blank = with_blank_media(given)
    assert [image_size(image) for image in blank.images] == [(10, 20), (8, 8)]
    assert colours(blank.images) == [GREY, GREY]
    assert colours(blank.videos[0].frames) == [GREY] * 3
    assert (blank.videos[0].fps, image_size(blank.videos[0].frames[0])) == (1.5, (6, 4))
    assert blank.messages == given.messages
    assert colours(given.images) == [RED, BLUE]


def test_another_samples_pictures_are_fitted():
    given = sample(picture("red", (10, 20)), picture("red"), picture("red"))
    other = sample(picture("blue"), picture("lime"))
    swapped = with_media_of(given, other)
    assert colours(swapped.images) == [BLUE, LIME, BLUE]
    assert [image_size(image) for image in swapped.images] == [(10, 20), (8, 8), (8, 8)]
    assert swapped.images[1] is other.images[1]  # nothing is decoded where the size fits


def test_frames_stand_in_for_frames_and_images_where_there_are_none():
    video = VideoRef(frames=(picture("red"),) * 3)
    other = sample(picture("blue"), videos=(VideoRef(frames=(picture("lime"), picture("blue"))),))
    swapped = with_media_of(sample(picture("red"), videos=(video,)), other)
    assert (colours(swapped.images), colours(swapped.videos[0].frames)) == ([BLUE], [LIME, BLUE, LIME])
    still = with_media_of(sample(videos=(video,)), sample(picture("blue")))
    assert colours(still.videos[0].frames) == [BLUE] * 3
    moving = with_media_of(sample(picture("red")), sample(videos=(video,)))
    assert colours(moving.images) == [RED]


def test_video_files_become_frames(monkeypatch):
    asked = []

    def read(reference, most):
        asked.append(most)
        return [Image.new("RGB", (4, 4))] * most, 0.5

    monkeypatch.setattr("lit_vlm.functional.replaced_media.open_video", read)
    framed = VideoRef(frames=(picture("red"),) * 9)
    given = sample(videos=(VideoRef(file=MediaRef(path="v.mp4")), framed))
    first, second = with_frames(given, 5).videos
    assert (len(first.frames), first.fps, asked) == (5, 0.5, [5])
    assert second is framed
    assert media_sizes(given) == ((4, 4), (8, 8))


def test_equal_names_are_equal_pictures(tmp_path):
    Image.new("RGB", (3, 5)).save(tmp_path / "a.png")
    file = MediaRef(path="a.png", root=str(tmp_path))
    names = [media_names(sample(reference)) for reference in (file, picture("red"), picture("red"), picture("blue"))]
    assert names[0] == (f"{tmp_path}/a.png",)
    assert names[1] == names[2] != names[3]
    assert media_sizes(sample(file, picture("red"))) == ((3, 5), (8, 8))


def test_the_same_picture_may_serve_many():
    assert colours(with_media_of(sample(*[picture("red")] * 4), sample(picture("blue"))).images) == [BLUE] * 4


def test_a_blank_picture_is_grey_all_over():
    made = blank_picture(3, 2)
    assert image_size(made) == (3, 2)
    assert open_image(made).getcolors() == [(6, GREY)]
