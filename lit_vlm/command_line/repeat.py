"""The verb ``repeat``: runs a training step again that ``NonFiniteGuard`` wrote down."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from lit_vlm.command_line.data import DataCommandLine
from lit_vlm.command_line.training import parse, prepare
from lit_vlm.functional.fault_folder import FAULT
from lit_vlm.interfaces.errors import UserError
from lit_vlm.paradigms.policy_module import PolicyModule
from lit_vlm.paradigms.repeated_fault import Repetition, repeat_fault

HELP = """\
usage: lit-vlm repeat FOLDER [--model… options]

Runs the training step again that FOLDER holds, such as runs/NAME/version_0/faults/step_12_rank_0, and tells whether its
loss or gradients are infinite or NaN once more. Nothing is written. Options of 'lit-vlm fit' change the step, to try a
mend: --model.backbone.dtype float32, say.

Ends with status 1 where something is not finite, 0 where all is."""


def run(verb: str, arguments: Sequence[str]) -> int:
    """Repeats a step.

    Returns:
        Exit status: 1 where the loss or a gradient is infinite or NaN again.

    Raises:
        UserError: The folder is none of a fault, or its configuration does not build.
    """
    if not arguments or {"-h", "--help"} & set(arguments):
        print(HELP)
        return 0
    folder, *others = arguments
    config = Path(folder) / "config.yaml"
    if not (Path(folder) / FAULT).is_file() or not config.is_file():
        raise UserError(f"{folder} is no folder of a fault: it must hold {FAULT} and config.yaml")
    words, name = prepare("fit", ["--config", str(config), *others])
    built = parse(DataCommandLine, "fit", words, name)
    module = built.model
    if not isinstance(module, PolicyModule):
        raise UserError(f"{folder} is a fault of {type(module).__name__}, which has no policy to repeat it with")
    repetition = repeat_fault(Path(folder), module)
    print("\n".join(report_lines(repetition)))
    return int(not repetition.is_finite)


def report_lines(repetition: Repetition) -> list[str]:
    """Words what a repeated step did, a line each."""
    fault = repetition.fault
    ids = [name for said in fault.micro_batches for name in said.sample_ids]
    weights = "the weights of the step" if repetition.used_weights else "the weights that the run began with"
    lines = [
        f"step {fault.step} of rank {fault.rank}: {fault.reason}",
        f"samples: {', '.join(ids[:10])}" + (f" and {len(ids) - 10} more" if len(ids) > 10 else ""),
        f"repeated with {weights}; losses: {', '.join(f'{loss:.6g}' for loss in repetition.losses)}",
    ]
    if fault.spoilt_weights:
        lines.append(f"weights were infinite or NaN before the step: {', '.join(fault.spoilt_weights[:10])}")
    if repetition.is_finite:
        return [*lines, "this time the loss and all gradients are finite"]
    names = ", ".join(repetition.parameters[:10])
    return [*lines, f"infinite or NaN gradients: {len(repetition.parameters)} parameters ({names})"]
