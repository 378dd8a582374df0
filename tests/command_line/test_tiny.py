from itertools import islice

from lit_vlm.cli import main
from lit_vlm.command_line import tiny


def test_the_corpus_speaks_of_every_task():
    texts = " ".join(tiny.embedded_corpus(samples=20))
    assert all(word in texts for word in ("Think in", "digit", "triangle", "knave"))


def test_a_model_is_built_that_loads(tmp_path, monkeypatch, capsys):
    from transformers import AutoModelForImageTextToText

    corpus = list(islice(tiny.embedded_corpus(samples=20), 60))
    monkeypatch.setattr(tiny, "embedded_corpus", lambda: corpus)
    folder = tmp_path / "new"
    assert main(["tiny", str(folder)]) == 0
    assert "untrained tiny VLM" in capsys.readouterr().out
    AutoModelForImageTextToText.from_pretrained(folder)


def test_an_existing_folder_is_not_written_over(tmp_path, capsys):
    assert main(["tiny", str(tmp_path)]) == 2
    assert "this folder exists" in capsys.readouterr().err
    assert main(["tiny"]) == 2
