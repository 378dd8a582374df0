"""Lets a model look at places of scenes and answer: ``python -m lit_vlm.command_line.focus_attempts``.

This is the self-evolution of VisRL: the model that ``preference/visrl_warmup`` has trained makes the attempts that
``preference/visrl_box`` and ``preference/visrl_box_and_answer`` then learn from (``--data.candidates_file``). What is
sampled depends on the weights, the question and the seed, but for the rounding of sums.
"""

from __future__ import annotations

import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from lit_vlm import __version__
from lit_vlm.command_line.own_candidates import make_file
from lit_vlm.data.focus_scenes import TASKS, FocusSceneGenerator, judge_by_truth
from lit_vlm.data.own_completions import (
    Origin,
    OwnCompletions,
    describe_generator,
    questions_fingerprint,
)
from lit_vlm.data.scripted_attempts import write_box
from lit_vlm.functional.boxes import Box
from lit_vlm.functional.focus_boxes import Size
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Sample, Split
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.weight_fingerprint import weight_fingerprint
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings
from lit_vlm.synthesis.focus_attempts import Completer, FocusAttempts

BOX_TOKENS, ANSWER_TOKENS = 32, 16


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs the attempts, and writes a file that ``FocusCandidates`` reads.

    Returns:
        Exit status: 0 for success, 2 for a mistake in what the user gave, which is told in one line on stderr.
    """
    return make_file("focus_attempts", _parser().parse_args(arguments), sample_attempts)


def sample_attempts(options: Namespace) -> OwnCompletions:
    """Makes attempts at the first questions of the training and the validation split, never of the test split.

    Returns:
        Of each question the boxes and answers by turns: of each attempt the good trace, then the bad one.

    Raises:
        UserError: An option is out of range, or there is no such checkpoint.
    """
    for name in ("train", "validation", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; give at least 1")
    generator = FocusSceneGenerator(tasks=tuple(options.tasks))
    backbone = Backbone(options.checkpoint)
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder)

    def completer(step: str, max_new_tokens: int) -> Completer:
        engine = HFRolloutEngine(SamplingSettings(max_new_tokens=max_new_tokens, temperature=options.temperature))

        def complete(samples: Sequence[Sample], call: int) -> list[str]:
            seeds = [stream_seed(options.seed, step, call, sample.id) for sample in samples]
            rollouts = engine(policy, encoder, encoder.encode_prompts(samples), 1, seeds)
            return [completion.text for completion in rollouts.completions]

        return complete

    def write(box: Box, size: Size) -> str:
        return write_box(box)

    propose, answer = completer("box", BOX_TOKENS), completer("answer", ANSWER_TOKENS)
    attempts = FocusAttempts(
        attempts=options.attempts, coords="pixel", crop_size=generator.crop_size, seed=options.seed
    )
    sizes: dict[Split, int] = {"train": options.train, "validation": options.validation}
    texts: dict[Split, list[tuple[str, ...]]] = {}
    for split, size in sizes.items():
        of_split = texts.setdefault(split, [])
        for start in range(0, size, options.batch):
            batch = [generator.sample(split, index) for index in range(start, min(start + options.batch, size))]
            of_split.extend(_texts(sample) for sample in attempts(batch, propose, answer, judge_by_truth, write))
            print(f"{batch[-1].id}: done", file=sys.stderr)
    origin = Origin(
        generator=describe_generator(generator),
        model=options.name,
        weights=weight_fingerprint(policy.model, with_adapter=True),
        version=__version__,
        system_prompt="",
        sampling={"temperature": options.temperature, "attempts": options.attempts, "seed": options.seed},
        questions={split: questions_fingerprint(generator, split, size) for split, size in sizes.items()},
    )
    return OwnCompletions(origin, texts)


def _texts(sample: Sample) -> tuple[str, ...]:
    """Lists boxes and answers of a sample's traces by turns."""
    return tuple(
        message.text for trace in sample.candidates for message in trace.messages if message.role == "assistant"
    )


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "python -m lit_vlm.command_line.focus_attempts",
        description="Lets a model look at places of scenes and answer from their crops.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument(
        "checkpoint", help="local folder of a model that preference/visrl_warmup has trained, or hub id"
    )
    parser.add_argument("file", type=Path, help="where to write, such as attempts.jsonl.xz")
    parser.add_argument("--name", default="tiny after visrl_warmup", help="what the file calls the model")
    parser.add_argument("--tasks", nargs="+", default=["looks"], choices=TASKS, help="how questions name what is meant")
    parser.add_argument("--train", type=int, default=2048, help="questions of the training split")
    parser.add_argument("--validation", type=int, default=256, help="questions of the validation split")
    parser.add_argument("--attempts", type=int, default=3, help="attempts at a question")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature; the paper has 2")
    parser.add_argument("--batch", type=int, default=128, help="questions read at one time")
    parser.add_argument("--seed", type=int, default=0, help="seed of what is sampled")
    return parser


if __name__ == "__main__":
    sys.exit(main())
