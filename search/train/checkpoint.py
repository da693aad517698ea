"""The state that a run goes on from: read, and replaced at once or not at all.

runs/<key>/checkpoint/state.pt     of the trunk
runs/<key>/checkpoint/branch.pt    of a decay branch in progress, which left the trunk at `state.pt`
"""

import os
import shutil
from pathlib import Path
from typing import Any

import torch

TRUNK, BRANCH = "state.pt", "branch.pt"
Saved = dict[str, Any]


def load(folder: Path) -> Saved | None:
    """The checkpoint of a run folder: of the branch that the trunk's one waits for, or the trunk's
    own."""
    trunk, branch = (_read(folder / "checkpoint" / name) for name in (TRUNK, BRANCH))
    if trunk is None or branch is None:
        return trunk
    left, here = trunk["state"], branch["state"]
    waits = (left["step"], left["readings"]) == (here["trunk_step"], here["readings"])
    return branch if waits else trunk


def load_trunk(folder: Path) -> Saved | None:
    """The checkpoint of a run folder that a branch left; None where it is damaged."""
    return _read(folder / "checkpoint" / TRUNK)


def write(folder: Path, saved: Saved, *, branch: bool) -> None:
    """Replace the checkpoint of a run folder. A branch has its own beside the trunk's, and on the
    trunk none is left."""
    place = folder / "checkpoint"
    place.mkdir(exist_ok=True)
    path = place / (BRANCH if branch else TRUNK)
    part = path.with_suffix(".pt.part")
    with open(part, "wb") as file:
        torch.save(saved, file)
        sync(file)
    part.replace(path)
    if not branch:
        (place / BRANCH).unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Of a run that is done."""
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)


def _read(path: Path) -> Saved | None:
    """A checkpoint; a damaged one is set aside, named, and what it held is done again."""
    if not path.is_file():
        return None
    try:
        return torch.load(path, map_location="cpu", weights_only=True)  # type: ignore[no-any-return]
    except Exception as error:  # torch raises many kinds for a damaged file
        path.replace(path.with_suffix(".corrupt"))
        print(f"warning: {path} cannot be read ({error}); it was set aside and is done again")
        return None


def sync(file: Any) -> None:
    """Bring a file to the disk."""
    file.flush()
    if file.name != os.devnull:
        os.fsync(file.fileno())
