"""Training one architecture from the command line, by one process and by two."""

import signal
import subprocess
import sys
from pathlib import Path

import pytest
from process_fixtures import wait_for
from run_fixtures import ROOT, TORCHRUN, curve, run, start


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
def test_signals_end_it_with_a_checkpoint_and_the_same_command_goes_on(tmp_path: Path) -> None:
    longer = ("recipe.tokens=96000", "placement.checkpoint_s=600")
    for name in ("whole", "ended"):
        (tmp_path / name).mkdir()
    assert run(tmp_path / "whole", *longer)[0] == 0

    def written() -> int:
        return sum(path.stat().st_size for path in tmp_path.glob("ended/runs/*/metrics*.jsonl"))

    for number in (signal.SIGTERM, signal.SIGUSR1, signal.SIGINT):
        before = written()
        ended = start(tmp_path / "ended", *longer)
        wait_for(lambda before=before: written() > before)
        ended.send_signal(number)
        out, err = ended.communicate(timeout=300)
        assert ended.returncode == 130, err
        assert "has a checkpoint, and the same command goes on" in out
        assert list(tmp_path.glob("ended/runs/*/checkpoint/state.pt"))
    assert run(tmp_path / "ended", *longer)[0] == 0
    assert curve(tmp_path / "ended") == curve(tmp_path / "whole")


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
    assert started("--help").stdout.startswith("usage: python -m search.run OPTION=VALUE")
