"""The verbs that run a Trainer: ``fit``, ``validate``, ``test`` and ``predict``."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from argparse import ArgumentError
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jsonargparse import namespace_to_dict, set_parsing_settings
from lightning import LightningModule, Trainer
from lightning.fabric.plugins import CheckpointIO
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import Callback, Checkpoint, ProgressBar
from lightning.pytorch.cli import LightningArgumentParser, LightningCLI, SaveConfigCallback
from lightning.pytorch.strategies import Strategy

from lit_vlm.callbacks.atomic_checkpoint_io import AtomicCheckpointIO
from lit_vlm.callbacks.bad_sample_report import BadSampleReport
from lit_vlm.callbacks.checkpointing import Checkpointing
from lit_vlm.callbacks.completion_ledger import CompletionLedger
from lit_vlm.callbacks.export_model import ExportModel
from lit_vlm.callbacks.non_finite_guard import NonFiniteGuard
from lit_vlm.callbacks.parameter_table import ParameterTable
from lit_vlm.callbacks.preemption import Preemption
from lit_vlm.callbacks.progress import Progress
from lit_vlm.callbacks.rank_watchdog import RankWatchdog
from lit_vlm.callbacks.resumption import Resumption
from lit_vlm.callbacks.run_plan import RunPlan
from lit_vlm.callbacks.throughput import Throughput
from lit_vlm.command_line.catalogue import read_yaml
from lit_vlm.command_line.chosen_checkpoint import chosen_checkpoint
from lit_vlm.command_line.empty_runs import refuse_empty_fit
from lit_vlm.command_line.found_configs import with_found_configs
from lit_vlm.command_line.null_values import deepen_nulls
from lit_vlm.command_line.parse_errors import explain, explain_trainer
from lit_vlm.command_line.short_names import import_named_classes
from lit_vlm.data.vlm_data_module import VLMDataModule
from lit_vlm.functional.parent_watch import end_with_parent
from lit_vlm.functional.sharded_metadata import check_sharded, is_sharded
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.run_module import RunModule

RUNS = "runs"
VERBS = ("fit", "validate", "test", "predict")


class SaveConfig(SaveConfigCallback):
    """Writes the resolved configuration into the run's folder, a new one for every run where a logger makes it."""

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """Writes ``config.yaml``, once over all ranks."""
        # Without a logger there is no run folder of its own, and the last run's file is replaced.
        self.overwrite = trainer.logger is None
        super().setup(trainer, pl_module, stage)


class CommandLine(LightningCLI):
    """Parses one verb, builds model, data and Trainer, and runs them."""

    def add_arguments_to_parser(self, parser: LightningArgumentParser) -> None:
        """Adds what recipes say of themselves, and hands the model's encoder to the data."""
        parser.add_argument("--about", type=dict, default={}, help="What a recipe says of itself.")
        parser.link_arguments("model.encoder", "data.init_args.encoder", apply_on="instantiate")

    @staticmethod
    def subcommands() -> dict[str, set[str]]:
        """Names the verbs, with the Trainer's arguments that are not options."""
        return {verb: LightningCLI.subcommands()[verb] for verb in VERBS}

    def parse_arguments(self, parser: LightningArgumentParser, args: Any) -> None:
        """Reads the command line, and finds the checkpoint that it means.

        Raises:
            UserError: ``ckpt_path`` is a remote address, nothing, an exported model, another file, or not whole; or the
                run that it names has no checkpoint.
        """
        super().parse_arguments(parser, args)
        self.continues = False
        options = self.config[self.config.subcommand]
        if options.get("ckpt_path"):
            options.ckpt_path, self.continues = chosen_checkpoint(str(options.ckpt_path), options.trainer)
            if is_sharded(Path(options.ckpt_path)):
                check_sharded(Path(options.ckpt_path))
        if options.get("weights_only") is False:
            raise UserError("--weights_only false would run code that a checkpoint may hold; leave it out")

    def _parse_ckpt_path(self) -> None:
        """Leaves the options as they are: the recipe says them, not the checkpoint."""

    def instantiate_classes(self) -> None:
        """Builds model, data and Trainer; ``predict`` is told what to hash, and holds no completions in memory."""
        super().instantiate_classes()
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, ExportModel):
                # As config.yaml has it: what it holds of numbers and defaults.
                told = self._parser(self.subcommand).dump(self.config[self.subcommand], skip_none=False)
                callback.configuration = yaml.safe_load(told)
        if self.subcommand != "predict":
            return
        configuration = {name: namespace_to_dict(self._get(self.config, name)) for name in ("model", "data")}
        for callback in self.trainer.callbacks:  # type: ignore[attr-defined]
            if isinstance(callback, CompletionLedger):
                callback.configuration = configuration
        if self._get(self.config_init, "return_predictions") is None:
            self.config_init[self.subcommand].return_predictions = False

    def instantiate_trainer(self, **options: Any) -> Trainer:
        """Builds the Trainer with the callbacks that every run has, unless the recipe brings its own.

        Raises:
            UserError: This machine or Lightning cannot do what the Trainer's options ask for.
        """
        wanted = self._get(self.config_init, "trainer.callbacks") or []
        given: list[Any] = wanted if isinstance(wanted, list) else [wanted]
        shows_progress = self._get(self.config_init, "trainer.enable_progress_bar") is not False
        # The kind that a recipe may bring itself, what it gets otherwise, and when.
        defaults: list[tuple[type[Callback], type[Callback], bool]] = [
            (Throughput, Throughput, True),
            (BadSampleReport, BadSampleReport, True),
            # For every verb, as Checkpointing, since checkpoints hold its state.
            (NonFiniteGuard, NonFiniteGuard, True),
            (ParameterTable, ParameterTable, self.subcommand == "fit"),
            (RunPlan, RunPlan, self.subcommand == "fit"),
            (ProgressBar, Progress, shows_progress),
            (CompletionLedger, CompletionLedger, self.subcommand == "predict"),
            (Resumption, Resumption, self.subcommand == "fit"),
            (Checkpoint, Checkpointing, self._saves),
            # After the others, since they end the run.
            (Preemption, Preemption, self._saves and self.subcommand == "fit"),
            (RankWatchdog, RankWatchdog, True),
        ]
        extra = [
            build()
            for kind, build, applies in defaults
            if applies and not any(isinstance(callback, kind) for callback in given)
        ]
        _miss_none(build for _, build, _ in defaults)
        for callback in (*given, *extra):
            if isinstance(callback, Checkpointing):
                callback.continues = self.continues
        self.trainer_defaults = {**self.trainer_defaults, "callbacks": extra}
        options = {**options, "plugins": with_atomic_files(self._get(self.config_init, "trainer"))}
        try:
            trainer = super().instantiate_trainer(**options)
        except (MisconfigurationException, ValueError) as fault:
            raise UserError(explain_trainer(fault, vars(self._get(self.config_init, "trainer")))) from fault
        if self.subcommand == "fit":
            refuse_empty_fit(trainer)
        return trainer

    @property
    def _saves(self) -> bool:
        """Whether runs that train save checkpoints."""
        option = self._get(self.config_init, "trainer.enable_checkpointing")
        return option is not False and not self._get(self.config_init, "trainer.barebones")


def with_atomic_files(trainer: Any) -> list[Any]:
    """Lists the Trainer's plugins, with that for whole checkpoints where the user brings none of their own."""
    given = trainer.plugins
    plugins = list(given) if isinstance(given, list) else [given] if given is not None else []
    has_own = any(isinstance(plugin, CheckpointIO) for plugin in plugins)
    brought = isinstance(trainer.strategy, Strategy) and trainer.strategy._checkpoint_io is not None
    return plugins if has_own or brought else [*plugins, AtomicCheckpointIO()]


def run(verb: str, arguments: list[str]) -> int:
    """Runs one verb.

    Raises:
        UserError: The command line, a recipe, or what they ask for is wrong.
    """
    end_with_parent()
    words, name = prepare(verb, arguments)
    parse(CommandLine, verb, words, name)
    return 0


def prepare(verb: str, arguments: list[str]) -> tuple[list[str], str]:
    """Finds the recipes that a command line names, and imports the classes that it and they use.

    Returns:
        The words for the parser, and the name of the run: the first recipe's, or the verb's without one.

    Raises:
        UserError: A recipe or a class does not exist.
    """
    _quieten()
    # A user's own callbacks and data modules lie beside the recipe.
    if os.getcwd() not in sys.path:
        sys.path.append(os.getcwd())
    words, configs = with_found_configs(verb, arguments)
    import_named_classes(words, [read_yaml(path) for path in configs])
    set_parsing_settings(docstring_parse_attribute_docstrings=True)
    name = configs[0].stem if configs else verb
    if configs and name == "config":
        name = configs[0].resolve().parent.parent.name  # runs/NAME/version_N/config.yaml
    return deepen_nulls(words), name


def parse(command_line: type[CommandLine], verb: str, words: list[str], name: str) -> CommandLine:
    """Parses the words that follow a verb, builds what they name, and runs it.

    Raises:
        UserError: An option is wrong, or a constructor refuses its values.
    """
    logger = {
        "class_path": "lightning.pytorch.loggers.TensorBoardLogger",
        "init_args": {"save_dir": RUNS, "name": name},
    }
    options = {"exit_on_error": False, "parser_mode": "omegaconf"}
    try:
        return command_line(
            RunModule,
            VLMDataModule,
            subclass_mode_model=True,
            subclass_mode_data=True,
            auto_configure_optimizers=False,
            save_config_callback=SaveConfig,
            seed_everything_default=0,
            # The table of parts says more than the summary of modules, which miscounts four-bit weights.
            trainer_defaults={"use_distributed_sampler": False, "logger": logger, "enable_model_summary": False},
            parser_kwargs={**options, **dict.fromkeys(VERBS, options)},
            args=[verb, *words],
        )
    except UserError:
        raise
    except (ArgumentError, MisconfigurationException) as mistake:
        raise UserError(explain(mistake)) from mistake
    except ValueError as mistake:
        # What a constructor refuses arrives wrapped by the parser; any other value error is a fault of the program.
        if "Does not validate against" in str(mistake):
            raise UserError(explain(mistake)) from mistake
        raise


def _quieten() -> None:
    """Leaves out startup lines that say nothing of the run."""
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(
        lambda record: not any(word in record.getMessage() for word in ("Tip:", "TPU available", "HPU available"))
    )
    # What is logged has been added up over ranks already.
    for message in (".*isinstance.treespec, LeafSpec.*", "LightningCLI's args parameter.*", ".*sync_dist=True.*"):
        warnings.filterwarnings("ignore", message=message)


def _miss_none(kinds: Iterable[type[Callback]]) -> None:
    """Keeps Lightning from asking for callbacks of these kinds where a checkpoint holds their state and a run none."""
    names = "|".join(kind.__qualname__ for kind in kinds)
    warnings.filterwarnings("ignore", message=rf"Be aware that when using `ckpt_path`.*: \[('({names})'(, )?)+\]\.$")
