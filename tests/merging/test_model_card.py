import yaml

from lit_vlm.merging.model_card import MergeSource, model_card

SOURCES = [
    MergeSource("target", "org/chat", {"model.safetensors": "a" * 64}),
    MergeSource("donor 1", 'a "quoted": path|with bars', {"one.safetensors": "b" * 64, "two.safetensors": "c" * 64}),
    MergeSource("base", "org/chat", {"model.safetensors": "a" * 64}),
]
RECIPE = "merge:\n  operation: TIES\n"


def card(**changed):
    options = {"title": "out", "operation": "TIES", "sources": SOURCES, "recipe": RECIPE, "outcome": "3 merged, 1 kept"}
    return model_card(**{**options, **changed})


def front_matter(text):
    begin, middle, _ = text.split("---\n", 2)
    assert begin == ""
    return yaml.safe_load(middle)


def test_the_fields_before_it_are_what_the_hub_reads():
    assert front_matter(card()) == {
        "library_name": "transformers",
        "base_model": ["org/chat", 'a "quoted": path|with bars'],
        "tags": ["merge", "lit-vlm"],
    }
    assert front_matter(card(library="peft"))["library_name"] == "peft"


def test_every_file_of_every_source_stands_with_its_digest():
    text = card()
    rows = [line for line in text.splitlines() if line.startswith("| ")][2:]
    assert len(rows) == 4
    for source in SOURCES:
        for file, digest in source.digests.items():
            assert any(source.role in row and file in row and digest in row for row in rows)
    assert all(row.replace("\\|", "").count("|") == 5 for row in rows)


def test_the_recipe_stands_as_it_is():
    text = card()
    assert f"```yaml\n{RECIPE}```\n" in text
    assert "3 merged, 1 kept" in text


def test_a_recipe_with_a_fence_does_not_end_the_block():
    text = card(recipe="about:\n  summary: '```'\n")
    assert "````yaml\nabout:\n  summary: '```'\n````\n" in text


def test_warnings_are_told_in_one_line_each():
    assert "## Warnings" not in card()
    assert "- rope_theta differs\n" in card(warnings=["rope_theta\n differs"])
