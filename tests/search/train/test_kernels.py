"""Building the kernels: once, atomically, or with a reason."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from search.train import kernels
from search.train.kernels import Unavailable

ROOT = Path(__file__).parents[3]


@pytest.fixture
def fresh(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """An empty cache, and nothing loaded."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    kernels.library.cache_clear()
    yield tmp_path / "isoparam"
    kernels.library.cache_clear()


def test_without_a_compiler_the_reason_is_said(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "no-such-compiler")
    with pytest.raises(Unavailable, match="no no-such-compiler is installed"):
        kernels.library()


def test_a_compiler_that_fails_is_a_reason_and_leaves_nothing(
    fresh: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CXX", "false")
    with pytest.raises(Unavailable, match="failed"):
        kernels.library()
    assert list(fresh.iterdir()) == []


@pytest.mark.slow
def test_kernels_are_built_once(fresh: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(kernels.library(), ctypes.CDLL)
    (built,) = fresh.iterdir()
    before = built.stat().st_mtime_ns
    kernels.library.cache_clear()
    kernels.library()
    assert [path.stat().st_mtime_ns for path in fresh.iterdir()] == [before]


def test_a_machine_without_a_compiler_is_told_what_it_loses(tmp_path: Path) -> None:
    """`what_is_lost` is part of the estimate that every study prints."""
    code = (
        "from search.train.placement import Placement, what_is_lost\n"
        "print(what_is_lost(Placement(device='cpu', engine='autograd')))"
    )
    environment = {**os.environ, "CXX": "no-such-compiler", "XDG_CACHE_HOME": str(tmp_path)}
    said = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert "slower, because no no-such-compiler is installed" in said.stdout
