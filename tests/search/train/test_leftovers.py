"""A worker's memory does not grow with the shapes that it has trained."""

import subprocess
import sys
from pathlib import Path

import pytest
from study_fixtures import environment, write_text

SHAPES = 30
TRAIN = f"""
import sys
from pathlib import Path
from random import Random
from search.data.cache import prepare
from search.data.config import DataConfig
from search.recipe import Recipe
from search.record import Run
from search.train.leftovers import give_back
from search.train.loop import train
from search.train.placement import Placement
from space.axes import Space
from space.budget import Budget

here = Path(sys.argv[1])
text = DataConfig(source="text", path=str(here / "text.jsonl"), vocab_size=300, cache=str(here))
data = prepare(text, progress=lambda _: None)
space = Space.from_yaml("full", budget=Budget("parameters", 500_000), vocab_size=300)
shapes = Random(0).sample(list(space.candidates()), {SHAPES})
recipe = Recipe(tokens=512, seq_len=64, batch_size=4, eval_tokens=512, precision="bf16")
for number, shape in enumerate(shapes):
    run = Run(architecture=shape.architecture, recipe=recipe, data_fingerprint=data.fingerprint)
    place = Placement(device="cpu", threads=1)
    assert train(run, data, here / run.key, placement=place).status == "finished"
    give_back()
    resident = next(x for x in open("/proc/self/status") if x.startswith("VmRSS"))
    print(int(resident.split()[1]) / 1e3, flush=True)
"""


@pytest.mark.slow
@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="needs Linux")
def test_memory_is_flat_over_new_shapes(tmp_path: Path) -> None:
    """In megabytes, from a third of the shapes on: it was three for each shape."""
    write_text(tmp_path)
    done = subprocess.run(
        [sys.executable, "-c", TRAIN, str(tmp_path)],
        env=environment(),
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    resident = [float(line) for line in done.stdout.splitlines() if line[:1].isdigit()]
    assert len(resident) == SHAPES
    third = SHAPES // 3
    assert max(resident[-third:]) < max(resident[:third]) + 15, resident
