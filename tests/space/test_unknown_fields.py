"""A field of architectures that an engine or a format does not know is refused, not left out."""

from dataclasses import replace

import pytest
from model_fixtures import TINY

import space.arch
from search.recipe import Recipe
from search.record import Run
from search.train.placement import Placement, settle, unknown_to_kernels
from space.arch import DECISIVE, DEFAULTS, Architecture, unknown_fields
from space.formats import FORMATS
from space.hf import config_of

ARCH = Architecture(**TINY, num_blocks=2)
RUN = Run(architecture=ARCH, recipe=Recipe(tokens=1024, precision="fp32"), data_fingerprint="a")


@pytest.fixture
def with_a_new_field(monkeypatch: pytest.MonkeyPatch) -> Architecture:
    """As if one had been added, here at another value than its default."""
    monkeypatch.setattr(space.arch, "DECISIVE", (*DECISIVE, "residual_gain"))
    monkeypatch.setattr(space.arch, "DEFAULTS", DEFAULTS | {"residual_gain": 1.0})
    monkeypatch.setattr(Architecture, "residual_gain", 2.0, raising=False)
    return replace(ARCH)


def test_the_kernels_leave_it_to_autograd(with_a_new_field: Architecture) -> None:
    assert unknown_to_kernels([with_a_new_field]) == ["residual_gain"]
    run = replace(RUN, architecture=with_a_new_field)
    assert settle(Placement(device="cpu"), run).engine == "autograd"
    with pytest.raises(ValueError, match="kernels do not have residual_gain"):
        settle(Placement(device="cpu", engine="kernels"), run)


def test_transformers_are_refused_it(with_a_new_field: Architecture) -> None:
    with pytest.raises(ValueError, match="residual_gain"):
        config_of(with_a_new_field)


@pytest.mark.parametrize("name", sorted(FORMATS.names()))
def test_every_format_refuses_it(with_a_new_field: Architecture, name: str) -> None:
    with pytest.raises(ValueError, match="residual_gain"):
        FORMATS.load(name).require(with_a_new_field, FORMATS.load(name).precisions[0])


def test_what_stands_at_its_default_is_known_to_all(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(space.arch, "DECISIVE", (*DECISIVE, "residual_gain"))
    monkeypatch.setattr(space.arch, "DEFAULTS", DEFAULTS | {"residual_gain": 1.0})
    monkeypatch.setattr(Architecture, "residual_gain", 1.0, raising=False)
    plain = replace(ARCH)
    assert unknown_fields(plain, set(DECISIVE)) == []
    assert config_of(plain)["hidden_size"] == TINY["hidden_size"]
