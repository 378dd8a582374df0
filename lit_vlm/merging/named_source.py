"""A model that takes part in a merge, its weights found by the names that all models share."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from lit_vlm.functional.weight_names import canonical_name, decoder_layers, weight_key
from lit_vlm.interfaces.errors import UserError
from lit_vlm.interfaces.weights import TensorSource
from lit_vlm.merging.merge_settings import NamePair
from lit_vlm.merging.saved_vector import SavedVector
from lit_vlm.merging.tied_weights import EMBEDDING, HEAD, is_tied


@dataclass(frozen=True, eq=False)
class NamedSource:
    """A source, and under which name on disk it has each weight.

    Raises:
        UserError: Two of its weights have the same name in all models.
    """

    role: str
    """What it is in the merge, such as ``donor 1``."""
    source: TensorSource
    pairs: Sequence[NamePair] = ()
    """Bring its names to the target's."""

    def __str__(self) -> str:
        return f"{self.role} ({self.source.label})"

    @property
    def is_vector(self) -> bool:
        """Whether its weights are differences."""
        return isinstance(self.source, SavedVector)

    @cached_property
    def names(self) -> Mapping[str, str]:
        """Key -> name on disk, in the order of the files; without the head where it is tied to the embedding."""
        found = self._all_names
        return {key: name for key, name in found.items() if key != HEAD or not self.is_tied}

    @cached_property
    def is_tied(self) -> bool:
        """Whether its head is its embedding; a vector without a head does not say."""
        return not self.is_vector and is_tied(self.source.configuration, self._all_names)

    @cached_property
    def layers(self) -> int:
        """Layers of its decoder; of a vector, those of the models that it was made from."""
        source = self.source
        return source.description.layers if isinstance(source, SavedVector) else decoder_layers(self.names)

    @cached_property
    def has_outside(self) -> bool:
        """Whether it has weights outside the decoder; a text model has none."""
        return any(canonical_name(key) is None for key in self.names)

    @cached_property
    def tokens(self) -> Mapping[str, int] | None:
        """The tokenizer's tokens; None where there is no tokenizer."""
        try:
            return self.source.vocabulary()
        except UserError:
            return None

    def find(self, key: str) -> str | None:
        """Finds the weight on disk that counts as a certain one: of a tied head, the embedding's."""
        return self.names.get(EMBEDDING if key == HEAD and self.is_tied else key)

    @cached_property
    def _all_names(self) -> dict[str, str]:
        found: dict[str, str] = {}
        for name in self.source.names:
            key = weight_key(renamed(name, self.pairs))
            if key in found:
                raise UserError(f"{self} has two weights for {key}: {found[key]} and {name}; check the names option")
            found[key] = name
        return found


def renamed(name: str, pairs: Sequence[NamePair]) -> str:
    """Applies the first pair that matches a name; without one it stays."""
    return next((new for pair in pairs if (new := pair.renamed(name)) is not None), name)
