"""What a ``DataLoader`` raises where one of its worker processes dies, in words for the user."""

from __future__ import annotations

from lit_vlm.interfaces.errors import UserError


def dead_worker_error(error: BaseException) -> UserError | None:
    """Words the death of a worker process; None for any other error.

    Torch raises it where the data are read, or from a signal in the midst of whatever the main thread is doing.
    """
    if not isinstance(error, RuntimeError) or "DataLoader worker (pid" not in str(error):
        return None
    # The cause says which signal it was, or nothing where the process was found missing.
    reason = (str(error.__cause__ or "").strip() or str(error).strip()).splitlines()[0]
    return UserError(
        f"a process that reads data died ({reason.rstrip('.')}), most often for want of memory; lower "
        "data.num_workers, data.prefetch_bytes or the size of batches"
    )
