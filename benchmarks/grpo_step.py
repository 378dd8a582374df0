"""Whole GRPO steps (data, rollouts, rewards, update), ours against TRL's GRPOTrainer.

Both train all of the bundled model in fp32 with AdamW, on the same prompts with an image each, one optimizer step a
rollout, in a process each. They take turns: while one takes a step, the other waits on a pipe, and the one that goes
first changes from round to round, so that other work on the machine hits both. A step is timed from the end of the last
to its own end, with reading the data and all else that the trainer does; only what is checked and told is left out.
Neither logs, validates or saves, nor has workers for the data. After each step both tell what they have done, and the
figures are refused where it differs.

No token ends a completion: TRL is not to sample the end token, ours is to go on behind it. TRL has its own choice of
AdamW, the fused one, no gradient checkpointing, and the ``trl_batch`` that was fastest for it on two cores, of 64, 32,
16 and 8 completions a pass: all 64 at 16 image tokens, 32 at 256; smaller ones take less memory. Ours is as it comes.
On a CPU, TRL makes logits for prompt tokens too, which it does not on a GPU; with the 685 words of this model that is
little. The growth of memory is from when the models, a reference too, are loaded, to the peak; gradients and the
optimizer's states are in it.

TRL is no dependency; put it in a folder of its own:

    uv pip install --target TRL_FOLDER --no-deps trl==1.16.0
    PYTHONPATH=TRL_FOLDER python benchmarks/grpo_step.py
"""

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import asdict
from functools import partial

from grpo_step_turns import Setting
from sides import COLUMNS, Side, refuse_different_work, refuse_without_trl, take_turns
from turns import Turns

WANTED = {16: 2.0, 256: 3.0}


def check(sides: Sequence[Side], setting: Setting) -> None:
    """Refuses figures of sides that did different work in their last step."""
    expected = {
        "completions": setting.prompts * setting.group,
        "completion_tokens": setting.prompts * setting.group * setting.completion_tokens,
        "prompts": setting.prompts,
        "image_tokens": setting.image_tokens,
        "optimizer_steps": len(sides[0].steps),
        "changed": {"visual": True, "language_model": True},
    }
    refuse_different_work(sides, expected)


def compare(setting: Setting, trl_batch: int, rounds: int) -> bool:
    """Lets both sides take turns, and prints a row; tells whether ours is as fast and small as is wanted."""
    told = {"setting": asdict(setting), "trl_batch": trl_batch}
    outcome = take_turns(__file__, told, setting.threads, rounds, partial(check, setting=setting))
    print(f"| {setting.image_tokens} | {setting.kl:g} | {' | '.join(outcome.columns)} |", flush=True)
    return outcome.is_good(WANTED.get(setting.image_tokens, 0.0))


def take_side(told: str) -> None:
    """Is one of the sides, in its own process."""
    given = json.loads(told)
    turns, setting = Turns(), Setting(**given["setting"])
    if given["name"] == "TRL":
        import grpo_step_trl

        grpo_step_trl.run(setting, turns, given["trl_batch"])
    else:
        import grpo_step_ours

        grpo_step_ours.run(setting, turns)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_tokens", type=int, nargs="+", default=[16, 256], help="squares of whole numbers")
    parser.add_argument("--trl_batch", type=int, nargs="+", default=[64, 32], help="for each of the image tokens")
    parser.add_argument("--kl", type=float, nargs="+", default=[0.0, 0.04], help="weights of the divergence")
    parser.add_argument("--completion_tokens", type=int, default=32)
    parser.add_argument("--prompts", type=int, default=8)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--side", help=argparse.SUPPRESS)
    options = vars(parser.parse_args())
    if (told := options.pop("side")) is not None:
        take_side(told)
        return
    refuse_without_trl(__file__)
    images, batches, weights, rounds = (options.pop(name) for name in ("image_tokens", "trl_batch", "kl", "rounds"))
    if len(images) != len(batches) or rounds < 2:
        parser.error("give a trl_batch for each of the image_tokens, and at least 2 rounds")
    print(
        f"| image tokens | KL | {' | '.join(COLUMNS)} |\n|" + " --- |" * (2 + len(COLUMNS)),
        flush=True,
    )
    good = [
        compare(Setting(image_tokens=image, kl=kl, **options), batch, rounds)
        for kl in weights
        for image, batch in zip(images, batches, strict=True)
    ]
    if not all(good):
        print("a ratio is below, or the memory above, what is wanted", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
