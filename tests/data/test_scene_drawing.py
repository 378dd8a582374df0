import random

import pytest
from PIL import Image, ImageChops

from lit_vlm.data.scene_drawing import (
    COLOURS,
    LARGEST_HIDDEN_SHARE,
    SHAPES,
    SIZES,
    Clutter,
    Description,
    SceneObject,
    draw_mask,
    draw_scene,
    place_objects,
    side_of,
)

RED_SQUARE = Description("large", "red", "square")


def crowded_scene(seed: int, overlap: float) -> tuple[SceneObject, ...]:
    """Nine random objects in the first nine cells, where every one has neighbours."""
    stream = random.Random(seed)
    layout = [
        (cell, Description(stream.choice(SIZES), stream.choice(tuple(COLOURS)), stream.choice(SHAPES)))
        for cell in range(9)
    ]
    return place_objects(layout, 64, overlap, stream)


def total(image: Image.Image) -> int:
    return sum(value * count for value, count in enumerate(image.histogram()))


def test_a_phrase_says_the_given_attributes_and_calls_an_open_shape_an_object() -> None:
    assert RED_SQUARE.phrase == "large red square"
    assert Description(colour="red", shape="star").phrase == "red star"
    assert Description(size="small").phrase == "small object"


def test_a_description_matches_whatever_has_all_its_attributes() -> None:
    assert Description(colour="red").matches(RED_SQUARE)
    assert Description().matches(RED_SQUARE)
    assert not Description(colour="red", shape="star").matches(RED_SQUARE)


def test_cell_six_is_row_two_column_three() -> None:
    # Cells of a row are 4: cell 6 = 1 * 4 + 2, so the second row and the third column.
    item = SceneObject(RED_SQUARE, 6, (33, 17, 47, 31))
    assert (item.row, item.column) == (2, 3)
    # (33 + 47) / 2 = 40 and (17 + 31) / 2 = 24.
    assert item.centre == (40, 24)


@pytest.mark.parametrize(("image_size", "small", "large"), [(64, 8, 14), (32, 4, 6), (128, 16, 28), (50, 6, 10)])
def test_sides_are_even_and_fit_the_cell(image_size: int, small: int, large: int) -> None:
    # 64: a cell is 16 pixels, 16 / 4 = 4 and 16 * 0.4375 = 7, doubled. 50: 12.5 / 4 = 3.1 and 5.5, cut and doubled.
    assert side_of("small", image_size) == small
    assert side_of("large", image_size) == large <= image_size / 4


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("side", [8, 14])
def test_a_box_is_the_tightest_around_the_pixels_of_its_shape(shape: str, side: int) -> None:
    item = SceneObject(Description("", "red", shape), 5, (19, 22, 19 + side, 22 + side))
    assert draw_mask(item, 64).getbbox() == item.box


@pytest.mark.parametrize(("shape", "share"), [("square", 1.0), ("circle", 0.785), ("triangle", 0.5)])
def test_a_shape_fills_its_share_of_the_box(shape: str, share: float) -> None:
    # A circle fills pi / 4 of its square, a triangle half; fine pixels on the edge count whole.
    mask = draw_mask(SceneObject(Description("large", "red", shape), 5, (18, 18, 32, 32)), 64)
    assert total(mask) / 255 / 14**2 == pytest.approx(share, abs=0.03)


@pytest.mark.parametrize("colour", sorted(COLOURS))
def test_the_middle_of_an_object_has_its_colour_and_its_surroundings_are_dark(colour: str) -> None:
    item = SceneObject(Description("large", colour, "circle"), 5, (18, 18, 32, 32))
    image = draw_scene([item], 64, Clutter(), random.Random(0))
    assert image.mode == "RGB"
    assert image.size == (64, 64)
    assert image.getpixel(item.centre) == COLOURS[colour]
    ground = image.getpixel((50, 50))
    assert len(set(ground)) == 1
    assert ground[0] <= 44


def test_only_pixels_of_the_mask_differ_from_the_empty_scene() -> None:
    item = SceneObject(Description("small", "blue", "star"), 5, (20, 21, 28, 29))
    empty = draw_scene([], 64, Clutter(), random.Random(3))
    drawn = draw_scene([item], 64, Clutter(), random.Random(3))
    assert ImageChops.difference(empty, drawn).getbbox() == item.box


def test_later_objects_cover_earlier_ones() -> None:
    below = SceneObject(RED_SQUARE, 0, (0, 0, 14, 14))
    above = SceneObject(Description("large", "blue", "square"), 1, (10, 0, 24, 14))
    image = draw_scene([below, above], 64, Clutter(), random.Random(0))
    assert image.getpixel((12, 7)) == COLOURS["blue"]


def test_edges_are_anti_aliased() -> None:
    item = SceneObject(Description("large", "red", "circle"), 0, (0, 0, 14, 14))
    shares = {value for value, count in enumerate(draw_mask(item, 64).histogram()) if count}
    assert shares - {0, 255}


def test_noise_changes_no_channel_by_more_than_its_bound() -> None:
    plain = draw_scene([], 64, Clutter(), random.Random(5))
    noisy = draw_scene([], 64, Clutter(noise=10), random.Random(5))
    largest = max(high for _, high in ImageChops.difference(plain, noisy).getextrema())
    assert 8 <= largest <= 10


def test_lines_are_grey_and_lie_behind_the_objects() -> None:
    image = draw_scene([], 64, Clutter(lines=6), random.Random(1))
    pixels = [image.getpixel((x, y)) for x in range(64) for y in range(64)]
    assert len(set(pixels)) > 1
    assert all(red == green == blue for red, green, blue in pixels)
    covering = SceneObject(RED_SQUARE, 0, (0, 0, 64, 64))
    covered = draw_scene([covering], 64, Clutter(lines=6), random.Random(1))
    assert covered.getcolors() == [(64 * 64, COLOURS["red"])]


def test_the_same_stream_draws_the_same_picture() -> None:
    clutter = Clutter(overlap=0.3, lines=3, noise=20, shade=20)
    first, second = (draw_scene(crowded_scene(7, 0.3), 64, clutter, random.Random(9)) for _ in range(2))
    assert first.tobytes() == second.tobytes()


@pytest.mark.parametrize("image_size", [32, 50, 64, 224])
def test_boxes_stay_in_the_picture_and_centres_in_their_cells(image_size: int) -> None:
    layout = [(cell, Description(SIZES[cell % 2], "red", "square")) for cell in range(16)]
    for seed in range(20):
        for item in place_objects(layout, image_size, 0.3, random.Random(seed)):
            assert min(item.box) >= 0
            assert max(item.box) <= image_size
            assert int(item.centre[0] / image_size * 4) + 1 == item.column
            assert int(item.centre[1] / image_size * 4) + 1 == item.row


def test_without_overlap_no_two_boxes_meet() -> None:
    for seed in range(30):
        objects = crowded_scene(seed, 0.0)
        painted = Image.new("L", (64, 64))
        for item in objects:
            assert painted.crop(item.box).getextrema() == (0, 0)
            painted.paste(255, item.box)


def test_overlap_hides_only_the_allowed_share_and_never_joins_one_colour() -> None:
    overlaps = 0
    for seed in range(80):
        objects = crowded_scene(seed, 0.3)
        masks = [draw_mask(item, 64) for item in objects]
        for index, mask in enumerate(masks):
            cover = Image.new("L", (64, 64))
            for other, covering in zip(objects[index + 1 :], masks[index + 1 :], strict=True):
                shared = total(ImageChops.multiply(mask, covering))
                if other.looks.colour == objects[index].looks.colour:
                    assert shared == 0
                cover = ImageChops.lighter(cover, covering)
            hidden = total(ImageChops.multiply(mask, cover))
            overlaps += hidden > 0
            assert hidden <= LARGEST_HIDDEN_SHARE * total(mask)
    assert overlaps > 50
