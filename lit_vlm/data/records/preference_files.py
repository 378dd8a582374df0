"""Opens the files of preference records, those that hold them in an object of their own kind among them."""

from __future__ import annotations

from pathlib import Path

from lit_vlm.data.records.description_pairs import DescriptionPairs, is_description
from lit_vlm.data.records.json_file import first_member
from lit_vlm.data.records.json_lines import LONGEST_RECORD
from lit_vlm.data.records.record import RecordFile
from lit_vlm.data.records.record_files import holds_lines, open_file
from lit_vlm.data.records.record_mixture import RecordMixture, is_entry


def open_preference_file(path: Path, longest_record: int = LONGEST_RECORD, *, folder: Path | None = None) -> RecordFile:
    """Opens a file of records, a mixture of such files (MMPR's ``meta.json``) or HA-DPO's descriptions.

    Args:
        path: The file.
        longest_record: Bytes of a record that is still read.
        folder: Folder from which the paths of a mixture count; None for that of the file or the one above it.

    Raises:
        UserError: It is no such file, or is broken.
    """
    if path.is_file() and path.suffix.lower() == ".json" and not holds_lines(path, longest_record):
        member = first_member(path, longest=longest_record)
        if is_entry(member):
            return RecordMixture(path, folder=folder, longest_record=longest_record)
        if is_description(member):
            return DescriptionPairs(path, longest_record=longest_record)
    return open_file(path, longest_record)
