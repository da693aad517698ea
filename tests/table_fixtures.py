"""`python -m ablations` on a small table, in a folder of its own."""

import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

from study_fixtures import TINY, environment, write_text

from search.recipe import Recipe

RECIPE = Recipe(tokens=100_000, precision="fp32")
WITHOUT = ("space", "study")

TABLE = """
caption: Are two blocks better shared?
budget: 100k
seeds: 2
proxy:
  - name: two blocks
    baseline: none
    source: nowhere
    base: {num_blocks: 2}
    arms:
      none: {sharing: none, published: 44.6}
      immediate: {sharing: immediate x2, published: 45.0}
"""


def make(
    folder: Path, *more: str, program: Sequence[str] = ("-m", "ablations")
) -> "subprocess.CompletedProcess[str]":
    """The command, run to its end in `folder` on its small table."""
    path = folder / "text.jsonl"
    if not path.is_file():
        write_text(folder)
    if not (folder / "small.yaml").is_file():
        (folder / "small.yaml").write_text(TABLE)
    given = {text.split("=")[0] for text in more}
    own = [x for x in TINY if x.split(".")[0].split("=")[0] not in WITHOUT]
    defaults = ["table=small.yaml", "report=true", f"data.path={path}"]
    options = [x for x in own if not x.startswith(("report", "budget"))] + defaults
    options = [x for x in options if x.split("=")[0] not in given]
    return subprocess.run(
        [sys.executable, *program, *options, *more],
        cwd=folder,
        env=environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
