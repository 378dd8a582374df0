"""Follows CONTRIBUTING.md as a newcomer would: writes its files, runs its commands."""

import re
import shlex
from pathlib import Path

import pytest

from lit_vlm.cli import main

GUIDE = (Path(__file__).parent.parent / "CONTRIBUTING.md").read_text(encoding="utf-8")
SECTIONS = re.findall(r"^## (A .*?)\n(.*?)(?=^## )", GUIDE, re.MULTILINE | re.DOTALL)
SMALL = {
    "quickstart": "--data.validation_size 4 --data.evaluation_batch_size 4",
    "grpo": "--data.validation_size 4 --data.batch_size 2 --data.evaluation_batch_size 4 --data.train_size 8",
    "my_data.Doubling": "--data.batch_size 2 --data.evaluation_batch_size 4",
}
COMMON = "--data.num_workers 0 --trainer.accelerator cpu --trainer.logger false --model.generation.max_new_tokens 8"
EXPECTED = {
    "A reward": "validation/reward",
    "A reward function": "| reward ",
    "A callback": "validation/longest_completion",
    "A rollout callback": "| reward ",
    "A data module": "exact match",
}


def test_the_guide_has_its_sections_of_a_screen_each():
    assert [title for title, _ in SECTIONS] == list(EXPECTED)
    assert all(len(text.splitlines()) <= 60 for _, text in SECTIONS)


@pytest.mark.filterwarnings("ignore:.*tensorboard.*")
@pytest.mark.parametrize(("title", "text"), SECTIONS, ids=list(EXPECTED))
def test_a_section_works_as_written(title, text, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend(str(tmp_path))
    code = re.search(r"```python\n# (\w+\.py)\n(.*?)```", text, re.DOTALL)
    (tmp_path / code.group(1)).write_text(code.group(2))
    words = shlex.split(re.search(r"```bash\nlit-vlm (.*?)\n```", text).group(1))
    for name, options in SMALL.items():
        if name in words:
            words += options.split()
    words += [*COMMON.split()]
    assert main(words) == 0
    assert EXPECTED[title] in capsys.readouterr().out
