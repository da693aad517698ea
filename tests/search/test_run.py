"""Training one architecture from the command line, by one process and by two."""

import subprocess
import sys
from pathlib import Path

import pytest
from run_fixtures import ROOT, TORCHRUN, curve, run


@pytest.mark.slow
def test_two_processes_train_as_one(tmp_path: Path) -> None:
    """Under torchrun, over gloo: the losses of one process at the same global batch."""
    for name, before in (("one", None), ("two", TORCHRUN)):
        (tmp_path / name).mkdir()
        code, printed = run(tmp_path / name, before=before)
        assert code == 0, printed
        assert "finished" in printed
    assert curve(tmp_path / "one") == pytest.approx(curve(tmp_path / "two"), rel=1e-4)
    assert len(curve(tmp_path / "one")) > 5


@pytest.mark.slow
def test_a_vocabulary_that_is_not_the_datas_is_refused(tmp_path: Path) -> None:
    code, printed = run(tmp_path, "data.vocab_size=400")
    assert code == 2
    assert printed.strip().splitlines()[-1].startswith("error: the architecture's vocab_size must")


@pytest.mark.slow
def test_an_architecture_must_be_given_but_for_help() -> None:
    def started(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "search.run", *arguments]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)

    done = started("seed=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith(
        "error: architecture must be given, but is not; add architecture="
    )
    assert started("--help").stdout.startswith("python -m search.run architecture=")
