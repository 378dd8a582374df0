"""A user's own function as a reward."""

import functools
import importlib
import inspect
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Real
from typing import Any, Literal

from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.records import Completion, RewardOutput
from lit_vlm.interfaces.roles import Reward
from lit_vlm.interfaces.rollouts import RewardContext


@dataclass(frozen=True)
class FunctionReward(Reward):
    """Asks a function in a file, such as ``def brevity(completion: Completion) -> float | None``.

    None says that the reward does not apply to a completion. A function of groups gets the list of all completions of
    one prompt, and returns a list with an entry for each.
    """

    function: str
    """Where the function is, as ``my_rewards.brevity``; files beside the recipe are found where the command is run."""
    takes: Literal["completion", "group"] = "completion"
    """Whether it gets one completion or all completions of a prompt."""

    def __post_init__(self) -> None:
        if self.takes not in ("completion", "group"):
            raise UserError(f"takes is {self.takes!r}; give completion or group")
        _load(self.function)

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Imports the function where a process is handed this, before anything there is timed."""
        self.__dict__.update(state)
        _load(self.function)

    @property
    def needs_groups(self) -> bool:  # type: ignore[override]
        """Whether the function gets a whole group."""
        return self.takes == "group"

    def __call__(self, completions: Sequence[Completion], context: RewardContext = RewardContext()) -> RewardOutput:
        """Scores each completion, or each group; without groups each completion is one.

        Raises:
            UserError: The function returned anything but numbers and None, or the wrong number of them.
        """
        function = _load(self.function)
        if self.takes == "completion":
            return RewardOutput.of_scores([self._checked(function(item), item) for item in completions])
        groups: dict[int, list[int]] = {}
        for row, group in enumerate(context.group_of or range(len(completions))):
            groups.setdefault(group, []).append(row)
        scores: list[float | None] = [None] * len(completions)
        for rows in groups.values():
            members = [completions[row] for row in rows]
            given = function(members)
            if not isinstance(given, Sequence) or len(given) != len(rows):
                length = f"{len(given)} scores" if isinstance(given, Sequence) else f"a {type(given).__name__}"
                raise UserError(f"{self.function} returned {length} for a group of {len(rows)} completions")
            for row, score in zip(rows, given, strict=True):
                scores[row] = self._checked(score, completions[row])
        return RewardOutput.of_scores(scores)

    def _checked(self, score: Any, completion: Completion) -> float | None:
        if score is None:
            return None
        if not isinstance(score, Real):
            raise UserError(
                f"{self.function} returned a {type(score).__name__} for sample {completion.sample.id!r}; "
                "it must return a float, or None where it does not apply"
            )
        if not math.isfinite(score):
            raise UserError(f"{self.function} returned {score} for sample {completion.sample.id!r}")
        return float(score)


@functools.cache
def _load(path: str) -> Callable[[Any], Any]:
    """Imports a function of one argument."""
    module_name, _, name = path.rpartition(".")
    if not module_name:
        raise UserError(f"the function {path!r} has no module; write it as my_rewards.{path or 'brevity'}")
    try:
        module = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name is None or not f"{module_name}.".startswith(f"{error.name}."):
            raise UserError(f"the module {module_name!r} of the reward {path!r} cannot be imported: {error}") from error
        raise UserError(
            f"there is no module {error.name!r} for the reward {path!r}; run the command in the folder of "
            f"{module_name.partition('.')[0]}.py, or install it"
        ) from error
    function = getattr(module, name, None)
    if function is None:
        known = [other for other, value in vars(module).items() if inspect.isfunction(value) and other[0] != "_"]
        raise UserError(f"{module_name} has no function {name!r}; it has {', '.join(known) or 'none'}")
    if not callable(function):
        raise UserError(f"{path} is a {type(function).__name__}, not a function")
    try:
        inspect.signature(function).bind(None)
    except TypeError as error:
        raise UserError(
            f"{path}{inspect.signature(function)} cannot be called with one argument, the completion (or the list of "
            f"a group's completions): {error}"
        ) from error
    return function  # type: ignore[no-any-return]
