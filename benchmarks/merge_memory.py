"""Peak memory of ``lit-vlm merge`` on a large sharded checkpoint, and what is left of a merge that is killed.

A Qwen2.5-VL of random weights in bfloat16, in files of 1 GB, gets half the difference that another checkpoint of its
sizes has to it, written in files of 1 GB. The merge is a process of its own, from the command line. ``ru_maxrss`` is
what the system counts as the peak of the process's memory, libraries and mapped files included, the system's cache of
files not; ``own pages`` leaves out mapped files (looked at a hundred times a second). Then the same merge is killed
when some of its files are complete: nothing may lie at its output. It is started again, and must go on from there and
end with the same bytes.

    python benchmarks/merge_memory.py --gigabytes 8
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

from merge_sides import Watch, forget, weight_bytes
from synthetic_checkpoint import numbers, of_size, weights, write

LIMIT = 2e9
"""Bytes of peak memory that are wanted at most."""


@dataclass(frozen=True)
class Run:
    """Figures of one merge."""

    seconds: float
    peak: float
    """``ru_maxrss`` in bytes."""
    own: float
    """Peak of own pages in bytes."""


def start(recipe: Path, output: Path, threads: int) -> subprocess.Popen:
    """Starts a merge from the command line."""
    words = [sys.executable, "-m", "lit_vlm", "merge", "--config", str(recipe), "--output", str(output)]
    with (output.parent / "messages").open("w") as messages:
        return subprocess.Popen(
            words, stdout=messages, stderr=messages, env={**os.environ, "OMP_NUM_THREADS": str(threads)}
        )


def run(recipe: Path, output: Path, threads: int) -> Run:
    """Merges to the end."""
    begun = time.perf_counter()
    process = start(recipe, output, threads)
    with Watch(process.pid) as watch:
        _, code, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(code)
    if process.returncode:
        raise SystemExit(f"the merge failed:\n{(output.parent / 'messages').read_text()}")
    return Run(time.perf_counter() - begun, usage.ru_maxrss * 1024, watch.peaks["RssAnon"] * 2**20)


def kill_midway(recipe: Path, output: Path, threads: int, files: int) -> dict[str, int]:
    """Kills a merge when it has completed some files; returns those with the times they were last changed."""
    process = start(recipe, output, threads)
    while len(found := complete(output)) < files:
        if process.poll() is not None:
            raise SystemExit(f"the merge ended before it was killed:\n{(output.parent / 'messages').read_text()}")
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    if output.exists():
        raise SystemExit(f"{output} is there after the merge was killed")
    return found


def complete(output: Path) -> dict[str, int]:
    """Lists the complete files of a merge under way."""
    found = {}
    for path in output.parent.glob(f".{output.name}.partial/*.safetensors"):
        found[path.name] = path.stat().st_mtime_ns
    return found


def digests(folder: Path) -> dict[str, str]:
    """Hashes the files of weights, and the index."""
    found = {}
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.index.json")]):
        with path.open("rb") as file:
            found[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=8.0)
    parser.add_argument("--operation", default="TaskArithmetic")
    parser.add_argument("--density", type=float, help="of the donor, where the operation prunes")
    parser.add_argument("--everywhere", action="store_true", help="merges the embedding, the largest weight, too")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--folder", type=Path, help="where there is room for 3 such checkpoints")
    parser.add_argument("--no_kill", action="store_true", help="measures memory alone")
    options = parser.parse_args()
    sizes = of_size("qwen2_5_vl", options.gigabytes)
    with tempfile.TemporaryDirectory(dir=options.folder) as given:
        folder = Path(given)
        free = shutil.disk_usage(folder).free
        if free < 3.1e9 * options.gigabytes:
            raise SystemExit(f"{folder} has {free / 1e9:.1f} GB left; {3.1 * options.gigabytes:.1f} are needed")
        target, donor, output, recipe = (folder / name for name in ("target", "donor", "output", "merge.yaml"))
        for path, change in ((target, None), (donor, 1)):
            write(path, sizes, change_seed=change, largest_shard=1e9)
            forget(path)
        listed = {"model": str(donor), "weight": [{"filter": "*", "value": 0.5}] if options.everywhere else 0.5}
        if options.density is not None:
            listed["density"] = options.density
        settings = {
            "operation": {"class_path": options.operation},
            "base": str(target),
            "donors": [listed],
            "largest_shard": "1GB",
        }
        recipe.write_text(json.dumps({"merge": settings}))
        largest = max(weights(sizes), key=lambda weight: weight[1][0] * (weight[1] + (1,))[1])
        print(
            f"{weight_bytes(target) / 1e9:.2f} GB in {len(list(target.glob('*.safetensors')))} files, "
            f"{numbers(sizes) / 1e9:.2f} thousand million parameters; largest weight {largest[0]} {largest[1]}, "
            f"{largest[1][0] * largest[1][1] * 4 / 1e9:.2f} GB in float32, "
            f"{'merged' if options.everywhere else 'kept'}; {options.operation}, {options.threads} threads",
            flush=True,
        )
        whole = run(recipe, output, options.threads)
        print("| run | s | peak, ru_maxrss, GB | peak of own pages, GB |\n| --- | --- | --- | --- |")
        print(f"| whole | {whole.seconds:.0f} | {whole.peak / 1e9:.2f} | {whole.own / 1e9:.2f} |", flush=True)
        if not options.no_kill:
            expected = digests(output)
            shutil.rmtree(output)
            found = kill_midway(recipe, output, options.threads, len(expected) // 2)
            print(f"| killed, {len(found)} of {len(expected) - 1} files complete, nothing at the output | | | |")
            resumed = run(recipe, output, options.threads)
            told = f"{resumed.seconds:.0f} | {resumed.peak / 1e9:.2f} | {resumed.own / 1e9:.2f}"
            taken = [name for name, changed in found.items() if (output / name).stat().st_mtime_ns == changed]
            same = digests(output) == expected
            print(f"| resumed, {len(taken)} files taken over, bytes {'equal' if same else 'DIFFER'} | {told} |")
            if not same or len(taken) < len(found):
                raise SystemExit("the resumed merge is not the whole one")
    if whole.peak > LIMIT:
        print(f"the peak is above the {LIMIT / 1e9:.0f} GB that are wanted at most", file=sys.stderr)
        sys.exit(1)


if __name__ == "__main__":
    main()
