"""Parity with TRL's DPOTrainer and CPOTrainer: loss, figures and gradients of all weights of a VLM, from equal pairs.

Ours is a whole training step: ``DPOModule`` under a Lightning Trainer, with its loader, its encoder and its shared
pass. TRL's is ``DPOTrainer._compute_loss`` on a trainer that has the attributes it reads, and transformers' own model
with TRL's fused head; it gets the tokens and pixels that our encoder makes, repeated for both halves of a pair. What
DPOTrainer lacks (SimPO, cDPO, losses without a reference) is compared with ``CPOTrainer.cpo_loss`` of the
log-probabilities that the same model gives. The policy is the bundled model with noise on its weights, the reference
that model itself. TRL is no dependency; put it in a folder of its own:

    uv pip install --target TRL_FOLDER --no-deps trl==1.16.0
    TRL_EXPERIMENTAL_SILENCE=1 PYTHONPATH=TRL_FOLDER python benchmarks/parity_dpo.py --seeds 3
"""

import argparse
import contextlib
import copy
import logging
import sys
import tempfile
import warnings
from collections import defaultdict
from dataclasses import dataclass, field
from types import SimpleNamespace

import torch
import trl
from lightning import Trainer
from PIL import Image
from torch import Tensor
from transformers import AutoModelForImageTextToText
from transformers.utils.logging import disable_progress_bar
from trl.experimental.cpo import CPOTrainer
from trl.trainer.dpo_trainer import DPOTrainer
from trl.trainer.utils import add_fused_lm_head

from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.interfaces.batches import PreferenceBatch
from lit_vlm.interfaces.records import MediaRef, Message, Preference, Sample, SampleMeta, TextPart, user_message
from lit_vlm.models.backbone import Backbone
from lit_vlm.models.tiny_vlm import TINY_FOLDER
from lit_vlm.objectives.preference_loss import PreferenceLoss
from lit_vlm.paradigms.dpo import DPOModule

TOLERANCE = 1e-5
PAIRS = 8
WORDS = ("the", "digit", "is", "seven", "three", "4", "of", "left", "right", "and", "sum", "row", "page", "12", "maybe")
FIGURES = {
    "train/rewards/chosen": "rewards/chosen",
    "train/rewards/rejected": "rewards/rejected",
    "train/reward_margin": "rewards/margins",
    "train/reward_accuracy": "rewards/accuracies",
    "train/log_probs/chosen": "logps/chosen",
    "train/log_probs/rejected": "logps/rejected",
}


@dataclass(frozen=True)
class Case:
    """A setting in both libraries' words."""

    name: str
    objective: PreferenceLoss
    trl: dict[str, object] = field(default_factory=dict)
    trainer: str = "DPO"
    micro_batches: int = 1


def cases() -> list[Case]:
    """Every loss that both have."""
    found = []
    for kind in ("sigmoid", "hinge", "ipo", "sigmoid_norm"):
        found.append(Case(kind, PreferenceLoss(kind=kind), {"losses": [kind]}))
        imitating = {"losses": [kind, "sft"], "weights": [1.0, 0.5]}
        found.append(Case(f"{kind} + 0.5 sft", PreferenceLoss(kind=kind, nll_weight=0.5), imitating))
    robust = {"kind": "robust", "label_smoothing": 0.1}
    found.append(Case("robust", PreferenceLoss(**robust), {"losses": ["robust"], "smoothing": 0.1}))
    found.append(Case("sigmoid, beta 0.5", PreferenceLoss(beta=0.5), {"losses": ["sigmoid"], "beta": 0.5}))
    both = {"losses": ["sigmoid", "sft"], "weights": [1.0, 1.0]}
    found.append(Case("sigmoid + sft, 4 micro-batches", PreferenceLoss(nll_weight=1.0), both, micro_batches=4))
    cpo = {"trainer": "CPO"}
    simpo = {"kind": "simpo", "beta": 2.0, "gamma": 0.5}
    words = {"losses": ["simpo"], "beta": 2.0, "gamma": 0.5}
    found.append(Case("SimPO", PreferenceLoss(**simpo), words, **cpo))
    found.append(
        Case("SimPO, smoothed", PreferenceLoss(**simpo, label_smoothing=0.1), {**words, "smoothing": 0.1}, **cpo)
    )
    for kind in ("sigmoid", "hinge", "ipo"):
        found.append(
            Case(f"{kind}, no reference", PreferenceLoss(kind=kind, reference_free=True), {"losses": [kind]}, **cpo)
        )
    smoothed = {"losses": ["sigmoid"], "smoothing": 0.1}
    found.append(Case("cDPO, no reference", PreferenceLoss(label_smoothing=0.1, reference_free=True), smoothed, **cpo))
    found.append(Case("cDPO", PreferenceLoss(label_smoothing=0.1), {**smoothed, "ratios": True}, **cpo))
    return found


def draw(seed: int) -> list[Sample]:
    """Draws pairs of uneven lengths behind pages of several sizes; one has no image."""
    generator = torch.Generator().manual_seed(seed)

    def number(low: int, high: int) -> int:
        return int(torch.randint(low, high, (1,), generator=generator))

    def turn(first: str) -> tuple[Message, ...]:
        text = " ".join([first, *(WORDS[number(0, len(WORDS))] for _ in range(number(0, 12)))])
        return (Message("assistant", (TextPart(text),), train=True),)

    samples = []
    for row in range(PAIRS):
        question = " ".join(WORDS[number(0, len(WORDS))] for _ in range(number(2, 12)))
        shape = (28 * number(1, 5), 28 * number(1, 5), 3)
        pixels = torch.randint(0, 256, shape, generator=generator, dtype=torch.uint8)
        images = () if row == 2 else (MediaRef(pil=Image.fromarray(pixels.numpy())),)
        samples.append(
            Sample(
                str(row), (user_message(question, images=len(images)),), images, meta=SampleMeta(category="all"),
                preferences=(Preference(turn("yes"), turn("no")),),
            )
        )  # fmt: skip
    return samples


def disturb(model: torch.nn.Module, seed: int) -> None:
    """Adds noise to all weights, so that policy and reference differ by some nats."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for value in model.parameters():
            value.add_(torch.randn(value.shape, generator=generator) * 0.1 * value.std(unbiased=False))


class Pairs(VLMDataModule):
    """Serves pairs."""

    def __init__(self, samples: list[Sample], **options) -> None:
        super().__init__(**options)
        self._samples = samples

    @property
    def tasks(self) -> tuple[str, ...]:
        return ("all",)

    def samples(self, split):
        return self._samples


class Disturbed(DPOModule):
    """Moves the policy away from its reference before the first step, and keeps the gradients of that."""

    def __init__(self, seed: int, **options) -> None:
        super().__init__(**options)
        self.seed = seed
        self.gradients: dict[str, Tensor] = {}

    def on_fit_start(self) -> None:
        super().on_fit_start()
        disturb(self.policy.model, self.seed)

    def on_before_optimizer_step(self, optimizer) -> None:
        super().on_before_optimizer_step(optimizer)
        self.gradients = {
            name: value.grad.clone() for name, value in self.policy.model.named_parameters() if value.grad is not None
        }


@dataclass
class Outcome:
    """What a step gave."""

    loss: float
    gradients: dict[str, Tensor]
    figures: dict[str, float]


def of_ours(case: Case, samples: list[Sample], seed: int) -> Outcome:
    """Our step."""
    module = Disturbed(seed, objective=case.objective)
    data = Pairs(samples, encoder=module.encoder, batch_size=PAIRS // case.micro_batches, num_workers=0)
    with tempfile.TemporaryDirectory() as folder:
        trainer = Trainer(
            max_steps=1, accumulate_grad_batches=case.micro_batches, limit_val_batches=0, accelerator="cpu", devices=1,
            logger=False, enable_checkpointing=False, enable_progress_bar=False, enable_model_summary=False,
            default_root_dir=folder,
        )  # fmt: skip
        trainer.fit(module, datamodule=data)
    figures = {theirs: trainer.callback_metrics[ours].item() for ours, theirs in FIGURES.items()}
    return Outcome(trainer.callback_metrics["train/loss"].item(), module.gradients, figures)


class Modelful:
    """What both of TRL's losses read of a trainer."""

    def prepare(self, case: Case, model: torch.nn.Module, reference: torch.nn.Module) -> None:
        """Sets the attributes."""
        words = case.trl
        same = lambda value: value  # noqa: E731
        self.accelerator = SimpleNamespace(device=torch.device("cpu"), gather=same, gather_for_metrics=same)
        self.args = SimpleNamespace(gradient_checkpointing_kwargs=None)
        self.model, self.ref_model = model, reference
        self.beta, self.label_smoothing = words.get("beta", 0.1), words.get("smoothing", 0.0)
        self._metrics = {"train": defaultdict(list)}


class OurDPOTrainer(Modelful, DPOTrainer):
    """TRL's trainer without its surroundings."""

    def __init__(self, case: Case, model: torch.nn.Module, reference: torch.nn.Module) -> None:
        self.prepare(case, model, reference)
        self.loss_types = case.trl["losses"]
        self.loss_weights = case.trl.get("weights", [1.0])
        self.f_divergence_type, self.ld_alpha = "reverse_kl", None
        self.use_weighting = self.aux_loss_enabled = self.precompute_ref_logps = False
        self._total_train_tokens, self._tp_size = 0, 1


class OurCPOTrainer(Modelful, CPOTrainer):
    """TRL's trainer without its surroundings."""

    def __init__(self, case: Case, model: torch.nn.Module, reference: torch.nn.Module) -> None:
        self.prepare(case, model, reference)
        (self.loss_type,) = case.trl["losses"]
        self.simpo_gamma, self.alpha = case.trl.get("gamma", 0.0), 0.0

    def log_probs(self, model: torch.nn.Module, inputs: dict[str, Tensor]) -> Tensor:
        """Sums over completions, or means where the loss wants those."""
        rest = {name: value for name, value in inputs.items() if name != "completion_mask"}
        mask = inputs["completion_mask"]
        labels = inputs["input_ids"].masked_fill(mask == 0, -100)
        sums = model(**rest, labels=labels, fused_lm_head=True, use_cache=False).log_probs.sum(1)
        return sums / mask.sum(1) if self.loss_type in ("ipo", "simpo") else sums


def rows_of(batch: PreferenceBatch, media_ids: list[int], padding_id: int) -> dict[str, Tensor]:
    """Puts pairs into the rows that TRL's collator makes: all chosen ones, then all rejected ones, right-padded."""
    rows, lengths, masks = [], [], []
    for number in torch.cat([batch.chosen, batch.rejected]).tolist():
        prompt = int(batch.prompt_of[number])
        before = batch.prompts.input_ids[prompt][batch.prompts.attention_mask[prompt] == 1]
        after = batch.token_ids[number][batch.mask[number] == 1]
        rows.append(torch.cat([before, after]))
        lengths.append(len(rows[-1]))
        masks.append(torch.cat([torch.zeros_like(before), torch.ones_like(after)]))
    pad = torch.nn.utils.rnn.pad_sequence
    ids = pad(rows, batch_first=True, padding_value=padding_id)
    visual = batch.prompts.visual
    return {
        "input_ids": ids,
        "attention_mask": (torch.arange(ids.shape[1]) < torch.tensor(lengths)[:, None]).long(),
        "completion_mask": pad(masks, batch_first=True),
        "mm_token_type_ids": torch.isin(ids, torch.tensor(media_ids)).to(visual["mm_token_type_ids"].dtype),
        "pixel_values": visual["pixel_values"].repeat(2, 1),
        "image_grid_thw": visual["image_grid_thw"].repeat(2, 1),
    }


class Theirs:
    """TRL's side, with its models kept from case to case."""

    def __init__(self) -> None:
        self.encoder = Backbone().load_encoder()
        self.reference = AutoModelForImageTextToText.from_pretrained(TINY_FOLDER).eval()

    def step(self, case: Case, samples: list[Sample], seed: int) -> Outcome:
        """TRL's loss, gradients and metrics."""
        model = copy.deepcopy(self.reference).train()
        disturb(model, seed)
        reference = copy.deepcopy(self.reference)
        add_fused_lm_head(model, outputs=("log_probs", "entropy", "mean_logits", "is_top1"))
        add_fused_lm_head(reference)
        batch = self.encoder.encode_pairs(samples)
        inputs = rows_of(batch, self.encoder.media_token_ids, self.encoder.padding_id)
        figures = {}
        if case.trainer == "DPO":
            trainer = OurDPOTrainer(case, model, reference)
            loss = trainer._compute_loss(model, inputs, return_outputs=False)
            figures = {name: trainer._metrics["train"][name][0] for name in FIGURES.values()}
        else:
            other = OurCPOTrainer(case, model, reference)
            values = other.log_probs(model, inputs)
            if case.trl.get("ratios"):
                with torch.no_grad():
                    held = other.log_probs(reference, inputs)
                values = values - held
            losses, *rewards = other.cpo_loss(*values.chunk(2))
            loss = losses.mean()
            chosen, rejected = rewards
            if other.loss_type != "ipo":  # its rewards are per token there, sums here as in DPOTrainer
                figures = {
                    "rewards/chosen": chosen.mean().item(),
                    "rewards/rejected": rejected.mean().item(),
                    "rewards/margins": (chosen - rejected).mean().item(),
                    "rewards/accuracies": (chosen > rejected).float().mean().item(),
                }
        loss.backward()
        gradients = {name: value.grad for name, value in model.named_parameters() if value.grad is not None}
        return Outcome(loss.item(), gradients, figures)


def gaps(ours: Outcome, theirs: Outcome) -> Tensor:
    """Largest differences of loss, gradients and figures, each relative to the largest value, but for small ones."""
    if ours.gradients.keys() != theirs.gradients.keys():
        raise SystemExit(f"gradients of other weights: {sorted(ours.gradients.keys() ^ theirs.gradients.keys())}")
    largest = max(value.abs().max() for value in theirs.gradients.values())
    gradient = max((ours.gradients[name] - value).abs().max() for name, value in theirs.gradients.items()) / largest
    told = [abs(ours.figures[name] - value) / max(abs(value), 1) for name, value in theirs.figures.items()]
    loss = abs(ours.loss - theirs.loss) / max(abs(theirs.loss), 1)
    return torch.tensor([loss, gradient, max(told, default=0.0)])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seeds", type=int, default=3)
    seeds = range(parser.parse_args().seeds)
    logging.getLogger("lightning.pytorch").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore")
    disable_progress_bar()
    print(
        f"TRL {trl.__version__}, torch {torch.__version__}; largest difference over {len(seeds)} seeds, relative to "
        "the value or to 1, that of gradients to their largest entry"
    )
    print(f"{'case':32} {'trainer':>8} {'loss':>10} {'gradient':>10} {'figures':>10}")
    worst, theirs = 0.0, Theirs()
    for case in cases():
        found = torch.zeros(3)
        for seed in seeds:
            samples = draw(seed)
            found = torch.maximum(found, gaps(of_ours(case, samples, seed), theirs.step(case, samples, seed)))
        # A NaN must not pass.
        failed = not bool((found <= TOLERANCE).all())
        told = " ".join(f"{gap:10.1e}" for gap in found.tolist())
        print(f"{case.name:32} {case.trainer:>8} {told}{'  DIFFERS' if failed else ''}", flush=True)
        worst = float("inf") if bool(found.isnan().any()) else max(worst, found.max().item())
    print(f"largest of all: {worst:.1e}, at most {TOLERANCE:.0e} wanted")
    if worst > TOLERANCE:
        sys.exit(1)


if __name__ == "__main__":
    with contextlib.suppress(KeyboardInterrupt):
        main()
