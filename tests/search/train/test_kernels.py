"""Building the kernels: once, atomically, or with a reason."""

import ctypes
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from search.recipe import Recipe
from search.record import Run
from search.train import kernels
from search.train.kernels import Unavailable
from search.train.kernels.selftest import wrong_kernels
from search.train.placement import Placement, settle, what_is_lost
from space.arch import Architecture

ROOT = Path(__file__).parents[3]
TINY = Architecture(
    vocab_size=64, hidden_size=32, num_blocks=1, num_attention_heads=2, intermediate_size=64
)


def _why_not() -> str:
    """Empty where there are kernels."""
    try:
        kernels.library()
    except Unavailable as reason:
        return str(reason)
    return ""


needs_kernels = pytest.mark.skipif(bool(_why_not()), reason=_why_not() or "there are kernels")


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


def test_arguments_have_the_types_of_the_source() -> None:
    pointer, whole = ctypes.c_void_p, ctypes.c_long
    assert kernels.declarations()["accumulate"] == [pointer, pointer, whole]
    wanted = [*[pointer] * 6, whole, ctypes.c_int, ctypes.c_float]
    assert kernels.declarations()["norm_forward"] == wanted


@needs_kernels
def test_a_call_with_an_argument_too_few_is_refused() -> None:
    with pytest.raises(ValueError, match="shorter"):
        kernels.kernel("accumulate", torch.float32, torch.zeros(1), torch.zeros(1))


class Broken:
    """The library with one function that does nothing."""

    def __init__(self, name: str) -> None:
        self.name, self.whole = name, kernels.library()

    def __getattr__(self, name: str) -> object:
        return (lambda *_: None) if name == self.name else getattr(self.whole, name)


@needs_kernels
@pytest.mark.parametrize("name", kernels.declarations())
def test_a_wrong_kernel_is_found_and_no_other(name: str) -> None:
    typed = name if name == "embedding_backward" else f"{name}_fp32"
    (said, *more) = wrong_kernels(Broken(typed))  # type: ignore[arg-type]
    assert said.split()[0] in name
    assert said.endswith("float32")
    assert [other.endswith("bfloat16") for other in more] == [True] * (typed == name)


@needs_kernels
def test_wrong_kernels_are_not_used_and_it_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    broken = Broken("norm_backward_bf16")
    monkeypatch.setattr(kernels, "_load", lambda: broken)
    kernels.library.cache_clear()  # of the library, not of what it was built to
    try:
        run = Run(architecture=TINY, recipe=Recipe(tokens=1, precision="fp32"), data_fingerprint="")
        settled = settle(Placement(device="cpu", threads=1), run)
        assert settled.engine == "autograd"
        assert "norm in bfloat16 did not" in str(what_is_lost(settled))
        with pytest.raises(ValueError, match="must compute what torch does, but norm in bfloat16"):
            settle(Placement(device="cpu", engine="kernels"), run)
    finally:
        kernels.library.cache_clear()


@needs_kernels
def test_the_self_test_leaves_no_trace_in_random_numbers() -> None:
    before = torch.random.get_rng_state()
    assert wrong_kernels(kernels.library()) == []
    assert torch.equal(torch.random.get_rng_state(), before)


@needs_kernels
@pytest.mark.parametrize("context", [torch.no_grad, torch.inference_mode])
def test_the_self_test_does_not_depend_on_where_it_is_asked_for(context: Any) -> None:
    with context(), torch.autocast("cpu", dtype=torch.bfloat16):
        assert wrong_kernels(kernels.library()) == []


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
