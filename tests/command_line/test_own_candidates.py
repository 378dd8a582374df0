import pytest

from lit_vlm import __version__
from lit_vlm.command_line.own_candidates import main
from lit_vlm.data.embedded_candidates import EmbeddedCandidates
from lit_vlm.data.own_completions import BUNDLED_FOLDER, questions_fingerprint, read_completions
from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.weight_fingerprint import weight_fingerprint

SMALL = ["--train", "2", "--validation", "1", "--completions", "3", "--max-new-tokens", "5"]


def test_what_is_made_is_what_is_served(random_tiny_folder, tmp_path, capsys):
    path = tmp_path / "own.jsonl.xz"
    assert main(["scenes", str(path), "--checkpoint", str(random_tiny_folder), *SMALL]) == 0
    assert f"wrote {path}" in capsys.readouterr().out
    made = read_completions(path)
    origin = made.origin
    assert (origin.model, origin.version) == (random_tiny_folder.name, __version__)
    assert origin.sampling == {"temperature": 1.0, "max_new_tokens": 5, "completions": 3, "seed": 0}
    assert origin.questions["train"] == questions_fingerprint(ShapeSceneGenerator(), "train", 2)
    assert str(tmp_path) not in repr(origin)
    data = EmbeddedCandidates(tasks_from="scenes", candidates_file=path, errors=())
    for split, size in (("train", 2), ("validation", 1)):
        samples = data.samples(split)
        served = [tuple(candidate.text for candidate in samples[index].candidates) for index in range(size)]
        assert len(samples) == size
        assert served == list(made.texts[split])
        assert all(len(texts) == 3 for texts in served)


def test_completions_depend_on_the_seed_and_not_on_the_batch(random_tiny_folder, tmp_path):
    texts = []
    for extra in ([], ["--batch", "1"], ["--seed", "1"]):
        path = tmp_path / "own.jsonl.xz"
        assert main(["digits", str(path), "--checkpoint", str(random_tiny_folder), *SMALL, *extra]) == 0
        texts.append(read_completions(path).texts)
    assert texts[0] == texts[1] != texts[2]


def test_the_bundled_files_are_of_the_bundled_model():
    backbone = Backbone()
    fingerprint = weight_fingerprint(backbone.load_model(backbone.load_encoder()).model, with_adapter=False)
    for name in ("digits", "scenes"):
        assert read_completions(BUNDLED_FOLDER / f"{name}.jsonl.xz").origin.weights == fingerprint


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["--train", "0"], "--train is 0; give at least 1"),
        (["--completions", "-1"], "--completions is -1"),
        (["--temperature", "-1"], "sampling.temperature is -1.0"),
        (["--checkpoint", "no/such/model"], "no/such/model"),
    ],
)
def test_mistakes_are_told_in_one_line(options, told, tmp_path, capsys):
    assert main(["digits", str(tmp_path / "a.xz"), *options]) == 2
    (line,) = capsys.readouterr().err.splitlines()[-1:]
    assert line.startswith("own_candidates: error: ")
    assert told in line
