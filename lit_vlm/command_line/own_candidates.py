"""Samples a model's own completions on an embedded task: ``python -m lit_vlm.command_line.own_candidates``.

So the files in ``lit_vlm/data/bundled`` were made, from the bundled model. A completion depends on the weights, the
question and the seed, but for the rounding of sums: another batch size or machine may change a few of them.
"""

from __future__ import annotations

import sys
from argparse import ArgumentDefaultsHelpFormatter, ArgumentParser, Namespace
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

from lit_vlm import __version__
from lit_vlm.data.digits_reasoning import DigitsReasoningGenerator
from lit_vlm.data.embedded import GeneratedSamples
from lit_vlm.data.own_completions import (
    Origin,
    OwnCompletions,
    describe_generator,
    questions_fingerprint,
    write_completions,
)
from lit_vlm.data.shape_scenes import ShapeSceneGenerator
from lit_vlm.data.transformed_samples import PreparedSamples
from lit_vlm.functional.random_streams import stream_seed
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Split
from lit_vlm.interfaces.roles import SampleEncoder, TaskGenerator
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.vision_language_model import VisionLanguageModel
from lit_vlm.models.weight_fingerprint import weight_fingerprint
from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
from lit_vlm.rollouts.sampling_settings import SamplingSettings

GENERATORS: dict[str, type[DigitsReasoningGenerator] | type[ShapeSceneGenerator]] = {
    "digits": DigitsReasoningGenerator,
    "scenes": ShapeSceneGenerator,
}


def main(arguments: Sequence[str] | None = None) -> int:
    """Samples, and writes a file that ``EmbeddedCandidates`` reads.

    Returns:
        Exit status: 0 for success, 2 for a mistake in what the user gave, which is told in one line on stderr.
    """
    return make_file("own_candidates", _parser().parse_args(arguments), sample_completions)


def make_file(name: str, options: Namespace, sample: Callable[[Namespace], OwnCompletions]) -> int:
    """Writes what a maker samples to ``options.file``, or tells the user's mistake in one line.

    Args:
        name: Of the maker, for the message.
        options: Its arguments.
        sample: Makes the completions.

    Returns:
        Exit status: 0 for success, 2 for a mistake.
    """
    try:
        write_completions(options.file, sample(options))
    except UserError as mistake:
        print(f"{name}: error: {' '.join(str(mistake).split())}", file=sys.stderr)
        return 2
    print(f"wrote {options.file}")
    return 0


def sample_completions(options: Namespace) -> OwnCompletions:
    """Samples the completions of the first questions of the training and the validation split, never of the test split.

    Raises:
        UserError: An option is out of range, or there is no such checkpoint.
    """
    for name in ("train", "validation", "completions", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name} is {getattr(options, name)}; give at least 1")
    sampling = SamplingSettings(max_new_tokens=options.max_new_tokens, temperature=options.temperature)
    generator: TaskGenerator = GENERATORS[options.tasks]()
    backbone = Backbone(options.checkpoint)
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder)
    sizes: dict[Split, int] = {"train": options.train, "validation": options.validation}
    origin = Origin(
        generator=describe_generator(generator),
        model=_model_name(options.checkpoint),
        weights=weight_fingerprint(policy.model, with_adapter=True),
        version=__version__,
        system_prompt=options.system_prompt,
        sampling={
            "temperature": options.temperature,
            "max_new_tokens": options.max_new_tokens,
            "completions": options.completions,
            "seed": options.seed,
        },
        questions={split: questions_fingerprint(generator, split, size) for split, size in sizes.items()},
    )
    engine = HFRolloutEngine(sampling)
    texts: dict[Split, list[tuple[str, ...]]] = {}
    for split, size in sizes.items():
        samples = PreparedSamples(GeneratedSamples(generator, split, size), options.system_prompt or None)
        texts[split] = list(_texts(engine, policy, encoder, samples, options))
    return OwnCompletions(origin, texts)


def _texts(
    engine: HFRolloutEngine,
    policy: VisionLanguageModel,
    encoder: SampleEncoder,
    samples: PreparedSamples,
    options: Namespace,
) -> Iterator[tuple[str, ...]]:
    count = options.completions
    for start in range(0, len(samples), options.batch):
        batch = [samples[index] for index in range(start, min(start + options.batch, len(samples)))]
        seeds = [stream_seed(options.seed, sample.id) for sample in batch]
        rollouts = engine(policy, encoder, encoder.encode_prompts(batch), count, seeds)
        texts = [completion.text for completion in rollouts.completions]
        yield from (tuple(texts[row : row + count]) for row in range(0, len(texts), count))
        print(f"{batch[-1].id}: done", file=sys.stderr)


def _model_name(checkpoint: str) -> str:
    """Names a checkpoint without the folder that it lies in."""
    return Path(checkpoint).resolve().name if Path(checkpoint).is_dir() else checkpoint


def _parser() -> ArgumentParser:
    parser = ArgumentParser(
        "python -m lit_vlm.command_line.own_candidates",
        description="Samples a model's own completions on an embedded task.",
        formatter_class=ArgumentDefaultsHelpFormatter,
    )
    parser.add_argument("tasks", choices=sorted(GENERATORS), help="the embedded task")
    parser.add_argument("file", type=Path, help="where to write, such as candidates.jsonl.xz")
    parser.add_argument("--checkpoint", default="tiny", help="hub id, local folder, or tiny for the bundled model")
    parser.add_argument("--train", type=int, default=4096, help="questions of the training split")
    parser.add_argument("--validation", type=int, default=768, help="questions of the validation split")
    parser.add_argument("--system-prompt", default="", help="what stands before each question")
    parser.add_argument("--completions", type=int, default=6, help="completions of a question")
    parser.add_argument("--max-new-tokens", type=int, default=64, help="longest completion, in tokens")
    parser.add_argument("--temperature", type=float, default=1.0, help="sampling temperature")
    parser.add_argument("--batch", type=int, default=64, help="questions read at one time")
    parser.add_argument("--seed", type=int, default=0, help="seed of the completions")
    return parser


if __name__ == "__main__":
    sys.exit(main())
