"""Whole DPO steps (data, reference, update), ours against TRL's DPOTrainer.

Both train all of the bundled model in fp32 with AdamW, on the same pairs with an image each, against a frozen copy, in
a process each. They take turns, as ``grpo_step.py`` says; a step is timed from the end of the last to its own end, with
reading the data and all else that the trainer does. Neither logs, validates or saves, nor has workers for the data.
After each step both tell what they have done, and the figures are refused where it differs.

TRL has its own choice of AdamW, the fused one, no gradient checkpointing, and as many pairs a pass as ``trl_batch``
says. Its template writes a line break behind a completion, which it learns too: a token more than ours. The growth of
memory is from when the models, references too, are loaded, to the peak; gradients and the optimizer's states are in it.

TRL is no dependency; put it in a folder of its own:

    uv pip install --target TRL_FOLDER --no-deps trl==1.16.0
    PYTHONPATH=TRL_FOLDER python benchmarks/dpo_step.py
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from dpo_step_turns import Setting
from sides import COLUMNS, Side, refuse_different_work, refuse_without_trl, take_turns
from turns import Turns

WANTED, FROM = 1.7, 64
"""Ratio that is wanted, from so many image tokens on."""


def check(sides: Sequence[Side], setting: Setting) -> None:
    """Refuses figures of sides that did different work in their last step."""
    expected = {
        "pairs": setting.pairs,
        "completion_tokens": 2 * setting.pairs * setting.completion_tokens,
        "image_tokens": setting.image_tokens,
        "optimizer_steps": len(sides[0].steps),
        "changed": {"visual": True, "language_model": True},
    }
    refuse_different_work(sides, expected)


def compare(setting: Setting, trl_batch: int, rounds: int) -> bool:
    """Lets both sides take turns, and prints a row; tells whether ours is as fast and small as is wanted."""
    told = {"setting": asdict(setting), "trl_batch": trl_batch}
    outcome = take_turns(__file__, told, setting.threads, rounds, partial(check, setting=setting))
    print(f"| {setting.image_tokens} | {trl_batch} | {' | '.join(outcome.columns)} |", flush=True)
    return outcome.is_good(WANTED if setting.image_tokens >= FROM else 0.0)


def take_side(told: str) -> None:
    """Is one of the sides, in its own process."""
    given = json.loads(told)
    turns, setting = Turns(), Setting(**given["setting"])
    if given["name"] == "TRL":
        import dpo_step_trl

        dpo_step_trl.run(setting, turns, given["trl_batch"])
    else:
        import dpo_step_ours

        dpo_step_ours.run(setting, turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_tokens", type=int, nargs="+", default=[16, 64, 256], help="squares of whole numbers")
    parser.add_argument("--trl_batch", type=int, nargs="+", default=[16, 16, 16], help="for each of the image tokens")
    parser.add_argument("--completion_tokens", type=int, default=32)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if (told := options.pop("side")) is not None:
        take_side(told)
        return
    refuse_without_trl(__file__)
    images, batches, rounds = (options.pop(name) for name in ("image_tokens", "trl_batch", "rounds"))
    if len(images) != len(batches) or rounds < 2:
        parser.error("give a trl_batch for each of the image_tokens, and at least 2 rounds")
    print(
        f"| image tokens | pairs a pass of TRL | {' | '.join(COLUMNS)} |\n|" + " --- |" * (2 + len(COLUMNS)), flush=True
    )
    good = [
        compare(Setting(image_tokens=image, **options), batch, rounds)
        for image, batch in zip(images, batches, strict=True)
    ]
    if not all(good):
        print("a ratio is below, or the memory above, what is wanted", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
