"""Time and memory of sampling completions: the rollout engine against transformers' ``generate``.

Three forms sample as many tokens from the same prompts with the same model: ``engine`` reads each prompt once and
returns log-probabilities and entropies beside; ``returned`` is ``generate(num_return_sequences=G)``; ``repeated`` is
``generate`` on prompts that are repeated, as a trainer's batch of whole rows does. No token ends a completion, so that
all have the same length. Times are interleaved in one process, after a warm-up; peak memory is taken in a process for
each form.

    python benchmarks/rollout.py --models bundled larger --image_tokens 16 256 --completion_tokens 32 128
"""

import argparse
import json
import shutil
import statistics
import tempfile
import time
from pathlib import Path

from own_process import measured

FORMS = ("engine", "returned", "repeated")
LARGER = {
    "text_config": {"hidden_size": 256, "intermediate_size": 768, "num_hidden_layers": 6, "head_dim": 32},
    "vision_config": {"hidden_size": 128, "intermediate_size": 384, "out_hidden_size": 256, "depth": 4, "num_heads": 4},
}


def load(model: str, folder: Path):
    """Loads the bundled model, or builds a random one of the same kind with some millions of parameters."""
    from lit_vlm.models.backbone import Backbone

    bundled = Path(Backbone().source)
    if model == "bundled":
        backbone = Backbone(min_pixels=1, max_pixels=2**24)
    else:
        shutil.copytree(bundled, folder, dirs_exist_ok=True)
        settings = json.loads((folder / "config.json").read_text())
        for part, sizes in LARGER.items():
            settings[part].update(sizes)
        settings["text_config"]["layer_types"] = ["full_attention"] * LARGER["text_config"]["num_hidden_layers"]
        settings["text_config"]["num_attention_heads"] = 8
        settings["text_config"]["num_key_value_heads"] = 4
        settings["text_config"]["rope_parameters"]["mrope_section"] = [4, 6, 6]
        (folder / "config.json").write_text(json.dumps(settings))
        backbone = Backbone(str(folder), from_scratch=True, min_pixels=1, max_pixels=2**24)
    encoder = backbone.load_encoder()
    policy = backbone.load_model(encoder).eval()
    policy.model.generation_config.eos_token_id = None
    return encoder, policy


def prepare(model: str, image_tokens: int, prompts: int, group: int, folder: Path):
    """Builds prompts with an image each, once and repeated."""
    import torch
    from PIL import Image

    from lit_vlm.interfaces.records import MediaRef, Sample, user_message

    encoder, policy = load(model, folder)
    patcher = encoder.processor.image_processor
    side = round(image_tokens**0.5) * patcher.patch_size * patcher.merge_size
    image = Image.linear_gradient("L").resize((side, side)).convert("RGB")
    samples = [
        Sample(str(row), (user_message("Which digit is this?", images=1),), (MediaRef(pil=image.rotate(row)),))
        for row in range(prompts)
    ]
    batch = encoder.encode_prompts(samples)
    found = int(torch.isin(batch.input_ids[0], torch.tensor(encoder.media_token_ids)).sum())
    assert found == image_tokens, (found, image_tokens)
    repeated = encoder.encode_prompts([sample for sample in samples for _ in range(group)])
    return encoder, policy, batch, repeated


def sample(form: str, setting, completion_tokens: int, group: int) -> float:
    """Samples once; returns the time in seconds."""
    import torch

    from lit_vlm.rollouts.hf_rollout_engine import HFRolloutEngine
    from lit_vlm.rollouts.sampling_settings import SamplingSettings

    encoder, policy, batch, repeated = setting
    start = time.perf_counter()
    if form == "engine":
        engine = HFRolloutEngine(SamplingSettings(max_new_tokens=completion_tokens))
        rollouts = engine(policy, encoder, batch, group, range(len(batch)))
        assert rollouts.mask.shape == (len(repeated), completion_tokens)
        assert bool(rollouts.mask.all())
        return time.perf_counter() - start
    given = batch if form == "returned" else repeated
    with torch.no_grad():
        output = policy.model.generate(
            input_ids=given.input_ids,
            attention_mask=given.attention_mask,
            **given.visual,
            do_sample=True,
            temperature=1.0,
            top_k=0,
            top_p=1.0,
            max_new_tokens=completion_tokens,
            num_return_sequences=group if form == "returned" else 1,
            suppress_tokens=list(policy.unsampled_token_ids),
            pad_token_id=policy.padding_id,
            use_cache=True,
        )
    assert output.shape == (len(repeated), given.input_ids.shape[1] + completion_tokens)
    return time.perf_counter() - start


def mebibytes(name: str) -> float:
    """Reads a figure of this process's memory."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(f"{name}:")) / 1024


def measure(
    model: str, image_tokens: int, completion_tokens: int, prompts: int, group: int, rounds: int, form: str | None
):
    """Times all forms in turn, or finds the growth of peak memory of one in MiB."""
    import torch

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        setting = prepare(model, image_tokens, prompts, group, Path(folder))
    if form is not None:
        # Linux forgets the peak of the preparations on this request.
        Path("/proc/self/clear_refs").write_text("5")
        before = mebibytes("VmRSS")
        sample(form, setting, completion_tokens, group)
        return {"mebibytes": mebibytes("VmHWM") - before}
    seconds = {name: [] for name in FORMS}
    for round_index in range(rounds + 1):
        for name in FORMS:
            taken = sample(name, setting, completion_tokens, group)
            if round_index:
                seconds[name].append(taken)
    ratios = {
        name: [slow / fast for slow, fast in zip(times, seconds["engine"], strict=True)]
        for name, times in seconds.items()
    }
    return {
        "parameters": sum(value.numel() for value in setting[1].parameters()),
        "seconds": {name: statistics.median(times) for name, times in seconds.items()},
        "ratios": {name: (min(found), statistics.median(found), max(found)) for name, found in ratios.items()},
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", choices=("bundled", "larger"), nargs="+", default=["bundled", "larger"])
    parser.add_argument("--image_tokens", type=int, nargs="+", default=[16, 256])
    parser.add_argument("--completion_tokens", type=int, nargs="+", default=[32, 128])
    parser.add_argument("--prompts", type=int, default=4)
    parser.add_argument("--group", type=int, default=8)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--form", choices=FORMS)
    parser.add_argument("--json", action="store_true")
    options = vars(parser.parse_args())
    models, images, completions = (options.pop(name) for name in ("models", "image_tokens", "completion_tokens"))
    if options.pop("json"):
        print(json.dumps(measure(models[0], images[0], completions[0], **options)))
        return
    print(
        "model     image  completion  engine s  returned x (range)    repeated x (range)    MiB of the three",
        flush=True,
    )
    del options["form"]
    for model in models:
        for image in images:
            for completion in completions:
                sizes = {**options, "models": model, "image_tokens": image, "completion_tokens": completion}
                times = measured(__file__, **sizes)
                memory = " / ".join(f"{measured(__file__, **sizes, form=form)['mebibytes']:.0f}" for form in FORMS)
                ratios = "  ".join(
                    "{1:8.2f} ({0:.2f}-{2:.2f})".format(*times["ratios"][name]) for name in ("returned", "repeated")
                )
                engine = times["seconds"]["engine"]
                print(f"{model:8s}  {image:5d}  {completion:10d}  {engine:8.3f}  {ratios}  {memory}", flush=True)


if __name__ == "__main__":
    main()
