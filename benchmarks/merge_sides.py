"""What the benchmarks of merging share: mergers in processes of their own, whose memory is watched."""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
MISSING = """{0} has no mergekit, which is needed for this benchmark only. Give it an environment of its own:

    python -m venv MERGEKIT && MERGEKIT/bin/pip install mergekit
    python benchmarks/{1} --mergekit_python MERGEKIT/bin/python"""
MEMORY = ("VmRSS", "RssAnon")


def add_mergekit_option(parser: argparse.ArgumentParser) -> None:
    """Adds the option that tells where mergekit is."""
    parser.add_argument("--mergekit_python", default=sys.executable, help="interpreter that has mergekit")


def refuse_without_mergekit(python: str, script: str) -> str:
    """Ends the benchmark where an interpreter has no mergekit, and says how to get it; returns its version."""
    asked = "import importlib.metadata as found; print(found.version('mergekit'))"
    told = subprocess.run([python, "-c", asked], capture_output=True, text=True)
    if told.returncode:
        print(MISSING.format(python, Path(script).name), file=sys.stderr)
        sys.exit(2)
    return told.stdout.strip()


class Merger:
    """A process that merges as it is told, and waits between.

    Args:
        words: Its command line.
        threads: Of its processor.
    """

    def __init__(self, words: list[str], threads: int) -> None:
        self._words = words
        self._faults = tempfile.TemporaryFile("w+")  # noqa: SIM115
        self._process = subprocess.Popen(
            words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self._faults, text=True,
            env={**os.environ, "OMP_NUM_THREADS": str(threads), "TOKENIZERS_PARALLELISM": "false"},
        )  # fmt: skip
        self._hear()

    @property
    def pid(self) -> int:
        """Of the process."""
        return self._process.pid

    def ask(self, request: dict[str, Any]) -> dict[str, Any]:
        """Lets it work, and returns its figures with its peaks of memory in MiB.

        ``VmHWM`` is the peak of all pages in memory, those of mapped files too, as the system counts it; ``RssAnon``
        that of the process's own pages, looked at a hundred times a second.
        """
        Path(f"/proc/{self.pid}/clear_refs").write_text("5")
        with Watch(self.pid) as watch:
            self._tell(request)
            found = self._hear()
        return {**found, **watch.peaks, "VmHWM": status(self.pid)["VmHWM"]}

    def begin(self, request: dict[str, Any]) -> None:
        """Lets it work without waiting for it."""
        self._tell(request)

    def end(self) -> None:
        """Kills it."""
        self._process.kill()
        self._process.wait()
        self._faults.close()

    def _tell(self, request: dict[str, Any]) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()

    def _hear(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            self._faults.seek(0)
            raise SystemExit(f"{' '.join(self._words)} ended:\n{self._faults.read()}")
        return dict(json.loads(line))


def mergekit(python: str, threads: int) -> Merger:
    """Starts mergekit's side."""
    return Merger([python, str(HERE / "mergekit_side.py"), str(threads)], threads)


def lit_vlm(threads: int) -> Merger:
    """Starts our side."""
    return Merger([sys.executable, str(HERE / "lit_vlm_side.py"), str(threads)], threads)


class Watch:
    """Looks at a process's memory until it is left."""

    def __init__(self, pid: int) -> None:
        self.peaks = dict.fromkeys(MEMORY, 0.0)
        self._pid, self._left = pid, threading.Event()
        self._thread = threading.Thread(target=self._look, daemon=True)

    def __enter__(self) -> "Watch":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._left.set()
        self._thread.join()

    def _look(self) -> None:
        while not self._left.wait(0.01):
            now = status(self._pid)
            for name in MEMORY:
                self.peaks[name] = max(self.peaks[name], now.get(name, 0.0))


def status(pid: int) -> dict[str, float]:
    """Reads a process's figures of memory, in MiB; none where it has ended."""
    try:
        lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    except ProcessLookupError:
        return {}
    return {line.split(":")[0]: int(line.split()[1]) / 1024 for line in lines if line.endswith(" kB")}


def forget(folder: Path) -> None:
    """Writes a folder's files out and drops them from the cache of the system."""
    for path in sorted(folder.iterdir()):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
            os.posix_fadvise(handle, 0, 0, os.POSIX_FADV_DONTNEED)
        finally:
            os.close(handle)


def remember(folder: Path) -> None:
    """Reads a folder's files, so that the system has them in its cache."""
    for path in sorted(folder.iterdir()):
        with path.open("rb") as file:
            while file.read(2**24):
                pass


def flush(folder: Path) -> float:
    """Writes a folder's files out to the disk; returns the time in seconds."""
    start = time.perf_counter()
    for path in sorted(folder.iterdir()):
        handle = os.open(path, os.O_RDONLY)
        try:
            os.fsync(handle)
        finally:
            os.close(handle)
    return time.perf_counter() - start


def weight_bytes(folder: Path) -> int:
    """Sums the sizes of the files of weights."""
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))
