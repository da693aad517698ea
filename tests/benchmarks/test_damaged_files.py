"""Damage is drawn from its number alone, and none goes unnoticed."""

from pathlib import Path
from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from benchmarks.damage import DAMAGES, Damage, damage_all, same


@pytest.mark.parametrize("damage", DAMAGES, ids=lambda damage: str(damage.__name__))
@given(content=st.binary(min_size=8, max_size=2000), seed=st.integers(0, 1000))
def test_a_damage_follows_from_its_seed(damage: Damage, content: bytes, seed: int) -> None:
    first, second = (damage(content, Random(seed), b"other") for _ in range(2))
    assert first == second


def test_what_is_compared_is_the_content() -> None:
    import torch

    one = {"a": [torch.ones(3), (1, 2)]}
    assert same(one, {"a": [torch.ones(3), (1, 2)]})
    assert not same(one, {"a": [torch.ones(3), (1, 3)]})
    assert not same(one, {"a": [torch.zeros(3), (1, 2)]})
    assert not same(one, {"b": [torch.ones(3), (1, 2)]})


@pytest.mark.slow
def test_no_damage_is_read_as_something_else(tmp_path: Path) -> None:
    found, bad = damage_all(tmp_path, count=200, seed=1)
    assert bad == []
    assert sum(found.values()) == 200
    assert sum(n for (_, what), n in found.items() if what == "noticed") > 150
