"""Differences at each horizon: what they are and when they are there."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
from study_fixtures import environment, write_text

from ablations.effects import compare
from reports.weigh.horizons import gather, weigh
from search.notebook import load_records

METRIC, LEVEL = "val_bpb", 0.95


def readings(draw: np.random.Generator, arms: int, seeds: int, horizons: int) -> pd.DataFrame:
    """Equal arms, whose runs deviate alike at all horizons but for a third of the variance."""
    rows = []
    for arm in range(arms):
        for seed in range(seeds):
            own = draw.standard_normal()
            for place in range(horizons):
                value = 2 / (place + 1) + seed + 0.8 * own + 0.5 * draw.standard_normal()
                cell = {"arm": f"a{arm}", "seed": seed, "key": f"{arm}{seed}"}
                rows.append(cell | {"tokens": 1000 * (place + 1), METRIC: value})
    return pd.DataFrame(rows)


def test_each_horizon_is_a_comparison_at_a_share_of_the_error() -> None:
    frame = readings(np.random.default_rng(0), 3, 4, 5)
    found = weigh(frame, "a1", METRIC, LEVEL)
    assert list(found.tokens.unique()) == [1000, 2000, 3000, 4000, 5000]
    for tokens, rows in found.groupby("tokens"):
        expected = compare(frame[frame.tokens == tokens], "a1", METRIC, level=0.99)
        pd.testing.assert_frame_equal(rows[list(expected)].reset_index(drop=True), expected)
    assert set(found.runs) == {"00 01 02 03", "10 11 12 13", "20 21 22 23"}


def test_what_arms_do_not_share_is_left_out() -> None:
    frame = readings(np.random.default_rng(0), 3, 3, 3)
    alone = frame[~((frame.tokens == 2000) & (frame.arm != "a0"))]  # the baseline's alone
    without = alone[~((alone.tokens == 3000) & (alone.arm == "a2"))]
    found = weigh(without, "a0", METRIC, LEVEL)
    assert found.groupby("tokens").arm.apply(list).to_dict() == {
        1000: ["a0", "a1", "a2"],
        3000: ["a0", "a1"],
    }
    assert weigh(frame[frame.tokens == 1000], "a0", METRIC, LEVEL).empty
    assert weigh(gather([], METRIC), "a0", METRIC, LEVEL).empty


TABLE = """
caption: One block or two.
budget: 60k
seeds: 2
overrides:
  - proxy=smoke
  - recipe.tokens=4096
  - recipe.seq_len=32
  - recipe.batch_size=4
  - recipe.eval_tokens=512
  - recipe.horizons=[0.5]
  - data=text
  - data.path=text.jsonl
  - data.vocab_size=300
  - placement.compile=no
proxy:
  - name: depth
    baseline: one
    arms:
      one: {num_blocks: 1}
      two: {num_blocks: 2}
"""


def test_a_table_of_runs_with_horizons_shows_each(tmp_path: Path) -> None:
    write_text(tmp_path)
    (tmp_path / "depth.yaml").write_text(TABLE)
    command = [sys.executable, "-m", "ablations", "table=depth.yaml", "tracker=none", "workers=1"]
    subprocess.run(command, cwd=tmp_path, env=environment(), check=True, capture_output=True)
    folder = tmp_path / "outputs" / "tables" / "depth"
    shown = pd.read_csv(folder / "horizons.csv", keep_default_na=False)
    runs = load_records(str(tmp_path / "runs"))
    by = runs.pivot_table(index=["tokens", "seed"], columns="num_hidden_layers", values=METRIC)
    apart = (by[2] - by[1]).groupby("tokens").mean()
    two = shown[shown.arm == "two"].set_index("tokens")
    assert len(two) == 2
    for tokens, expected in apart.items():
        assert float(two["diff"][tokens]) == pytest.approx(expected)
    assert float(shown.level.iloc[0]) == 0.975
    page = (folder / "table.html").read_text()
    assert "Differences over tokens, depth" in page
    assert "2.05k tokens" in page
    assert (folder / "horizons.png").read_bytes().startswith(b"\x89PNG")
