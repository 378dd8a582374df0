import pytest

from lit_vlm.command_line.null_values import deepen_nulls


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["--model.backbone.adapter=null"], ["--model.backbone={adapter: null}"]),
        (["--model.init_args.backbone.init_args.adapter", "~"], ["--model.backbone={adapter: null}"]),
        (
            ["--model.optimizer.parts.vision.learning_rate", "null"],
            ["--model.optimizer={parts: {vision: {learning_rate: null}}}"],
        ),
        (["--data.system_prompt", "null"], ["--data.system_prompt", "null"]),
        (["--model.backbone.revision", "nullify"], ["--model.backbone.revision", "nullify"]),
        (["--config", "a.b.c", "null"], ["--config", "a.b.c", "null"]),
        (["--model.backbone.adapter"], ["--model.backbone.adapter"]),
    ],
)
def test_only_nulls_of_deep_options_are_rewritten(words, expected):
    assert deepen_nulls(words) == expected
