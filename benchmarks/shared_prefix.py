"""Time and memory of scoring completions, forward and backward: shared prompts against repeated ones.

Three forms: ``shared`` computes each prompt once; ``naive`` repeats it for each completion, but encodes its image once;
``repeated`` repeats the image too, as a batch of whole rows does. Times are interleaved in one process, after a
warm-up; peak memory is taken in a process for each form.

    python benchmarks/shared_prefix.py --image_tokens 16 144 256 --completion_tokens 32 64
"""

import argparse
import json
import resource
import statistics
import tempfile
import time
from pathlib import Path

from own_process import measured

FORMS = ("shared", "naive", "repeated")


def prepare(image_tokens: int, completion_tokens: int, prompts: int, group: int, folder: Path):
    """Builds a random model of the bundled kind, prompts with an image each, and random completions."""
    import torch
    from PIL import Image

    from lit_vlm.interfaces.records import MediaRef, Sample, user_message
    from lit_vlm.models.backbone import Backbone
    from lit_vlm.models.tiny_vlm import build_tiny_vlm

    build_tiny_vlm(folder, ["Which digit is this? Think, then answer. i see 7."] * 20, seed=0)
    backbone = Backbone(str(folder), min_pixels=1, max_pixels=2**24)
    encoder = backbone.load_encoder()
    patcher = encoder.processor.image_processor
    side = round(image_tokens**0.5) * patcher.patch_size * patcher.merge_size
    image = MediaRef(pil=Image.linear_gradient("L").resize((side, side)).convert("RGB"))
    samples = [Sample(str(row), (user_message("Which digit is this?", images=1),), (image,)) for row in range(prompts)]
    generator = torch.Generator().manual_seed(0)
    token_ids = torch.randint(20, 100, (prompts * group, completion_tokens), generator=generator)
    prompt_of = torch.arange(prompts).repeat_interleave(group)
    batch = encoder.encode_prompts(samples)
    found = int(torch.isin(batch.input_ids[0], torch.tensor(encoder.media_token_ids)).sum())
    assert found == image_tokens, (found, image_tokens)
    repeated = encoder.encode_prompts([samples[row] for row in prompt_of])
    policy = backbone.load_model(encoder)
    policy.train()
    return policy, batch, repeated, (token_ids, torch.ones_like(token_ids), prompt_of)


def step(form: str, policy, batch, repeated, given):
    """Runs one forward and backward pass; returns the log-probabilities and the time in seconds."""
    import torch

    token_ids, mask, prompt_of = given
    policy.zero_grad()
    start = time.perf_counter()
    if form == "repeated":
        scores = policy.score_rollouts(repeated, token_ids, mask, torch.arange(len(mask)), prefix="naive")
    else:
        scores = policy.score_rollouts(batch, token_ids, mask, prompt_of, prefix=form)
    scores.log_probs.mean().backward()
    return scores.log_probs.detach(), time.perf_counter() - start


def measure(image_tokens: int, completion_tokens: int, prompts: int, group: int, rounds: int, form: str | None):
    """Times all forms in turn, or finds the growth of peak memory of one in MiB."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(image_tokens, completion_tokens, prompts, group, Path(folder))
    if form is not None:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        step(form, *setting)
        return {"mebibytes": (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024}
    expected = {name: step(name, *setting)[0] for name in FORMS}
    seconds = {name: [] for name in FORMS}
    for _ in range(rounds):
        for name in FORMS:
            seconds[name].append(step(name, *setting)[1])
    return {
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "ratios": {
            name: statistics.median(slow / fast for slow, fast in zip(times, seconds["shared"], strict=True))
            for name, times in seconds.items()
        },
        "difference": max(float((expected["shared"] - expected[name]).abs().max()) for name in FORMS),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--image_tokens", type=int, nargs="+", default=[16, 144, 256])
    parser.add_argument("--completion_tokens", type=int, nargs="+", default=[32, 64])
    parser.add_argument("--prompts", type=int, default=2)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    images, completions = options.pop("image_tokens"), options.pop("completion_tokens")
    if options.pop("json"):
        print(json.dumps(measure(images[0], completions[0], **options)))
        return
    print("image  completion  shared s  naive x  repeated x  difference  MiB shared / naive / repeated", flush=True)
    del options["form"]
    for image in images:
        for completion in completions:
            sizes = {**options, "image_tokens": image, "completion_tokens": completion}
            times = measured(__file__, **sizes)
            memory = [measured(__file__, **sizes, form=form)["mebibytes"] for form in FORMS]
            ratios = times["ratios"]
            print(
                f"{image:5d}  {completion:10d}  {times['seconds']['shared']:8.3f}  {ratios['naive']:7.2f}  "
                f"{ratios['repeated']:10.2f}  {times['difference']:10.1e}  {' / '.join(f'{m:.0f}' for m in memory)}",
                flush=True,
            )


if __name__ == "__main__":
    main()
