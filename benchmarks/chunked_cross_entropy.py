"""Peak memory and time of the loss: chunked log-probabilities against logits of every position.

Each form runs in a process of its own, so that one's peak is not hidden by the other's. The naive form is what a
Hugging Face model does with labels: logits for all positions, in fp32, then cross-entropy on the completion.

    python benchmarks/chunked_cross_entropy.py --tokens 4096 --labelled 1024 --hidden 1024 --vocabulary 151936
"""

import argparse
import json
import resource
import subprocess
import sys
import time


def measure(form: str, tokens: int, labelled: int, hidden: int, vocabulary: int) -> dict[str, float]:
    """Runs one forward and backward pass; returns seconds and the growth of peak memory in MiB."""
    import torch

    from lit_vlm.functional.chunked_log_probs import chunked_log_probs

    generator = torch.Generator().manual_seed(0)
    states = torch.randn(tokens, hidden, generator=generator, requires_grad=True)
    weight = (torch.randn(vocabulary, hidden, generator=generator) / hidden**0.5).requires_grad_()
    targets = torch.randint(vocabulary, (labelled,), generator=generator)
    rows = torch.arange(tokens - labelled, tokens)
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    if form == "chunked":
        loss = -chunked_log_probs(states[rows], weight, None, targets)[0].mean()
    else:
        labels = torch.full((tokens,), -100)
        labels[rows] = targets
        loss = torch.nn.functional.cross_entropy((states @ weight.T).float(), labels)
    loss.backward()
    seconds = time.perf_counter() - start
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {"loss": loss.item(), "seconds": seconds, "mebibytes": (peak - before) / 1024}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokens", type=int, default=4096)
    parser.add_argument("--labelled", type=int, default=1024)
    parser.add_argument("--hidden", type=int, default=1024)
    parser.add_argument("--vocabulary", type=int, default=151936)
    parser.add_argument("--form", choices=["chunked", "naive"])
    options = vars(parser.parse_args())
    if form := options.pop("form"):
        print(json.dumps(measure(form, **options)))
        return
    sizes = [word for name, value in options.items() for word in (f"--{name}", str(value))]
    figures = {}
    for form in ("naive", "chunked"):
        command = [sys.executable, __file__, "--form", form, *sizes]
        figures[form] = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
        print(form, figures[form])
    for name in ("mebibytes", "seconds"):
        print(f"{name}: naive / chunked = {figures['naive'][name] / figures['chunked'][name]:.2f}")


if __name__ == "__main__":
    main()
