"""docs/reliability.md: what was tried, what was promised, what happened."""

from __future__ import annotations

import json
import os
import platform
import time
from dataclasses import asdict
from importlib import metadata
from pathlib import Path

from tally import Tally

SOAK = "soak.json"  # beside the page: the last full soak

_HEAD = """# Reliability

What happens to a run that dies, on a machine that lacks something, and with files that come from
strangers. This page is written by `make torture` (`python tests/torture/run.py`), which tries
all of it on a small generated city and exits with 1 when anything is lost.

## How it works

- Features, matches, global descriptors, teachers' caches and keypoint labels: finished batches go
  as segments into `<output>.parts/`, each written under another name, flushed to the disk and
  renamed; the end merges them into `<output>` in one step. A kill costs what is not in a segment
  yet, or is being written: at most twice 10 seconds of work or 16 MB (the tests here make every
  batch a segment).
- Localizing keeps finished queries, and mapping verified pairs (in batches of 256), as such
  segments too (`poses.txt.queries.parts/`, `map.verified.parts/`) until the output is there. The
  triangulation of a map is one call of COLMAP: a kill in it means that it is done again, from the
  verified pairs. The outputs themselves are made beside their names and renamed whole. All this is
  of the native engine; `--engine hloc` does a killed mapping or localization again.
- Training writes everything that the next step depends on into `state.pt` every
  `train.save_every` steps, and goes on from there with the very numbers of an uninterrupted run.
- `<output>.lock` is held while an output is made; a second run is refused with the owner's process
  id, and the system frees the lock of a process that dies.
- An output lies beside its place as `.<output>.unfinished` while it is made; what a killed run has
  left there is removed by the next run that makes the output or finds it.
- Threads and processes that work side by side (decoding, matching, localization, the search for
  places, teaching on several devices) are watched: where nothing is finished for `SAMFEAT_PATIENCE`
  seconds (600), the run ends with the name of what hangs; what fails unforeseen is named too. A
  library that crashes takes its process with it; then Python says which signal it was and where.
  Neither is said of the threads that read training data.
- Feature extraction knows an image by the SHA-256 of its whole file, taken as it is decoded: a
  change that leaves the size is noticed, a copied folder's dates are no change. So a run that finds
  images done reads their files once. Teaching and labelling still go by the size in bytes.
- Every output records how it was created (configuration, weights, inputs, versions). One created
  with other settings is refused, never silently reused.
- Checkpoints are safetensors; a file of the public release is read as tensors only. Recipes are
  read as plain YAML, maps as plain arrays. Image names that leave their folder are refused
  wherever they come from. Arrays in HDF5 files are read only after their claimed size, counts in
  COLMAP's files only where the file can hold them, photos only up to 200 megapixels.
"""

_KINDS = Path(__file__).with_name("nothing-silent.md")  # written by hand

_TAIL = """
## The nightly soak

    python tests/torture/run.py --soak --work /folder/with/10/GB

10,000 generated images (640 x 480, cities of 80) go through extract, match, map and localize, with
SIGKILL every 60 seconds whatever it meets; every output has to equal that of a run that nobody
killed. `--soak-images` and `--soak-every` change the numbers. It is not part of any test run; the
table above has a short one. The last full one, which this page takes from `docs/soak.json`, where
`--soak` leaves it:

{soak}

## Not covered

- A power cut: files are flushed before they are renamed, but only kills were tried.
- The limit on memory is one on the address space; the kernel's out-of-memory killer is a SIGKILL,
  and tried as such.
- Processes are forked after the imports, so kills fall into the work and not into starting up.
- Windows and macOS.
"""


def write(path: Path, tally: Tally, minutes: float, processor: float, seed: int) -> None:
    """Write the page."""
    versions = ", ".join(f"{name} {metadata.version(name)}" for name in
                         ("torch", "numpy", "h5py", "pycolmap"))  # fmt: skip
    lines = [
        _HEAD, "## What was tried", "", "```", tally.table(), "```", "",
        f"Seed {seed}; {minutes:.0f} minutes by the clock, {processor:.0f} of processor time, on"
        f" {os.cpu_count()} processors whose load was {os.getloadavg()[2]:.1f}; Python"
        f" {platform.python_version()}, {versions}.",
    ]  # fmt: skip
    titles = {"kill -9": "Killed", "silent": "Nothing silent", "hang": "Hangs",
              "fault": "Faults", "bad input": "Bad input", "soak": "Soak"}  # fmt: skip
    for kind, title in titles.items():
        rows = [row for row in tally.rows if row.kind == kind]
        if not rows:
            continue
        promises = list(dict.fromkeys(row.promised for row in rows))
        lines += ["", f"### {title}"]
        for promise in promises:
            lines += ["", f"Promised: {promise}.", "",
                      "| what | tried | lost | what happened |", "|---|---|---|---|"]  # fmt: skip
            for row in (row for row in rows if row.promised == promise):
                happened = "<br>".join(_cell(text) for text in row.happened[:6])
                lines.append(f"| {row.subject} | {row.tried} | {row.lost} | {happened} |")
    path.parent.mkdir(parents=True, exist_ok=True)
    text = (
        "\n".join(lines)
        + "\n"
        + "\n"
        + _KINDS.read_text()
        + _TAIL.format(soak=_last_soak(path.with_name(SOAK)))
    )
    path.write_text(text.replace("\n\n\n", "\n\n"))


def keep_soak(path: Path, tally: Tally) -> None:
    """Leave a full soak's row where the page finds it."""
    (row,) = tally.rows
    found = {"ended": time.strftime("%Y-%m-%d"), **asdict(row)}
    path.write_text(json.dumps(found, indent=1) + "\n")


def _last_soak(path: Path) -> str:
    if not path.is_file():
        return "none so far."
    row = json.loads(path.read_text())
    return (
        f"{row['ended']}: {row['subject']}; {row['tried']} kills tried, {row['lost']} lost."
        f" {_cell('; '.join(row['happened'][:6]))}."
    )


def _cell(text: str) -> str:
    plain = text.replace("|", "\\|").replace("<", "&lt;")
    return plain if len(plain) <= 240 else plain[:240] + " ..."
