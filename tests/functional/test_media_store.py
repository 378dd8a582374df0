import hashlib

import pytest
from PIL import Image

from lit_vlm.functional.media import open_image
from lit_vlm.functional.media_store import MediaStore
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import MediaRef


@pytest.fixture
def store(tmp_path):
    return MediaStore(tmp_path / "media")


def test_the_same_bytes_are_kept_once_wherever_they_come_from(store, tmp_path):
    path = tmp_path / "a.png"
    Image.new("RGB", (3, 2), (1, 2, 3)).save(path)
    references = [
        MediaRef(path=str(path)),
        MediaRef(path="a.png", root=str(tmp_path)),
        MediaRef(bytes=path.read_bytes()),
    ]
    names = {store.put(reference) for reference in references}
    assert names == {hashlib.sha256(path.read_bytes()).hexdigest()}
    assert [file.name for file in store.folder.iterdir()] == list(names)
    assert (store.folder / names.pop()).read_bytes() == path.read_bytes()


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "L", "P", "1", "CMYK", "I;16"])
def test_a_decoded_image_comes_back_as_the_model_saw_it(store, mode):
    image = Image.linear_gradient("L").resize((5, 4)).convert("L" if mode == "I;16" else mode)
    image = image if mode != "I;16" else image.convert("I").convert("I;16")
    reference = MediaRef(pil=image)
    held = store.reference(store.put(reference))
    assert open_image(held).tobytes() == open_image(reference).tobytes()
    assert store.put(MediaRef(pil=image.copy())) == held.path


def test_a_file_that_changed_is_kept_anew(store, tmp_path):
    path = tmp_path / "a"
    path.write_bytes(b"first")
    first = store.put(MediaRef(path=str(path)))
    path.write_bytes(b"second one")
    assert store.put(MediaRef(path=str(path))) != first


def test_what_cannot_be_kept_is_refused(store, tmp_path):
    with pytest.raises(UserError, match="remote address; download it"):
        store.put(MediaRef(url="https://example.org/a.png"))
    with pytest.raises(UserError, match="leaves its folder"):
        store.put(MediaRef(path="../a.png", root=str(tmp_path)))
    with pytest.raises(UserError, match="there is no media file"):
        store.put(MediaRef(path="missing.png", root=str(tmp_path)))


@pytest.mark.parametrize("name", ["../secret", "", "A" * 64, "a" * 63, "a" * 64 + "/.."])
def test_only_names_of_the_store_become_references(store, name):
    with pytest.raises(UserError, match="64 hexadecimal digits"):
        store.reference(name)


def test_a_link_out_of_the_store_is_not_followed(store, tmp_path):
    store.folder.mkdir()
    (tmp_path / "secret").write_bytes(b"secret")
    (store.folder / ("a" * 64)).symlink_to(tmp_path / "secret")
    with pytest.raises(UserError, match="leaves its folder"):
        open_image(store.reference("a" * 64))
