"""`loop_input` and `loop_norm`: against SciPy's discretisation, torch's norm, and loops by hand."""

from copy import deepcopy
from typing import Any

import numpy as np
import pytest
import torch
from model_fixtures import ODD, drawn
from scipy.signal import cont2discrete

from search.recipe import Recipe
from search.train.parametrise import initialise
from space.arch import Architecture
from space.cost import cost
from space.formats import FORMATS
from space.model import Decoder
from space.parts.loops import passes
from space.sharing import PATTERNS

BOTH = {"loop_input": True, "loop_norm": True}


def looped(sharing: str, blocks: int, repeats: int, **fields: Any) -> Architecture:
    return Architecture(**ODD, num_blocks=blocks, repeats=repeats, sharing=sharing, **fields)


@pytest.mark.parametrize(
    ("sharing", "blocks", "repeats", "begins"),
    [
        ("none", 3, 1, []),
        ("immediate", 2, 2, [(0, 1), (2, 3)]),
        ("cycle", 2, 3, [(0, 2, 4)]),
        ("reverse", 3, 2, [(2, 3)]),
        ("cycle_reverse", 3, 3, [(0, 3), (2, 6)]),
        ("middle_cycle", 4, 2, [(1, 3)]),
        ("middle_sequence", 4, 2, [(1, 2), (3, 4)]),
        ("sandwich", 3, 3, [(1, 2, 3)]),
        ("all", 1, 3, [(0, 1, 2)]),
    ],
)
def test_passes_begin_where_an_order_begins_again(
    sharing: str, blocks: int, repeats: int, begins: list[tuple[int, ...]]
) -> None:
    assert sharing in PATTERNS
    assert sorted(passes(looped(sharing, blocks, repeats))) == begins


@torch.no_grad()
def test_a_loop_of_closed_branches_is_a_linear_system_discretised_as_scipy_does() -> None:
    """x' = -r x over a step s, held: its transition is SciPy's; the input is Euler's."""
    model = drawn(looped("cycle", 2, 3, loop_input=True))
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    given = model.model.layers[2].loop_input
    assert given is model.model.layers[4].loop_input
    ids = torch.randint(0, 61, (2, 9))
    e = model.model.embed_tokens(ids).numpy()
    rate, step, gain = (p.numpy() for p in (given.rate, given.step, given.gain))
    s = np.logaddexp(0, step)
    one, none = np.eye(1), np.zeros((1, 1))
    held = [
        cont2discrete((-np.exp(r) * one, one, one, none), each)
        for r, each in zip(rate, s, strict=True)
    ]
    kept = np.array([system[0].item() for system in held])
    x = e
    for _ in range(2):
        x = kept * x + s * (1 + gain) * e
    torch.testing.assert_close(model.hidden(ids), model.model.norm(torch.from_numpy(x)))


@torch.no_grad()
def test_each_pass_begins_with_torchs_norm_and_the_input_is_what_the_first_left() -> None:
    """The whole loop once more, by hand, from layers without the part."""
    arch = looped("middle_cycle", 4, 2, **BOTH)
    model, plain = drawn(arch), Decoder(looped("middle_cycle", 4, 2)).double().eval()
    plain.load_state_dict({n: p for n, p in model.state_dict().items() if ".loop_" not in n})
    ids = torch.randint(0, 61, (2, 9))
    x = e = plain.model.embed_tokens(ids)
    cos, sin = plain.rotary(0, 9, x)
    for i, layer in enumerate(plain.model.layers):
        if i in (1, 3):
            mine = model.model.layers[i]
            if i == 3:
                given = mine.loop_input
                step = torch.nn.functional.softplus(given.step)
                x = torch.exp(-step * given.rate.exp()) * x + step * (1 + given.gain) * e
            norm = torch.nn.RMSNorm(24, arch.rms_norm_eps, dtype=torch.float64)
            norm.weight.copy_(mine.loop_norm.weight)
            x = e = norm(x)
        x = layer(x, cos, sin, i)
    torch.testing.assert_close(model.hidden(ids), plain.model.norm(x), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("sharing", ["immediate", "cycle"])
def test_its_weights_are_three_vectors_a_loop_and_a_norm_a_pass(sharing: str) -> None:
    plain = cost(looped(sharing, 3, 2)).parameters
    loops = {"immediate": 3, "cycle": 1}[sharing]
    assert cost(looped(sharing, 3, 2, loop_input=True)).parameters - plain == 3 * 24 * loops
    assert cost(looped(sharing, 3, 2, loop_norm=True)).parameters - plain == 2 * 24 * loops
    built = sum(p.numel() for p in Decoder(looped(sharing, 3, 2, **BOTH)).parameters())
    assert built == cost(looped(sharing, 3, 2, **BOTH)).parameters == plain + 5 * 24 * loops


def test_without_a_loop_the_fields_change_nothing() -> None:
    plain, given = Architecture(**ODD, num_blocks=3), Architecture(**ODD, num_blocks=3, **BOTH)
    assert (given.identity, cost(given)) == (plain.identity, cost(plain))
    assert Decoder(given).state_dict().keys() == Decoder(plain).state_dict().keys()


def test_training_starts_with_half_of_what_is_left_and_norms_of_one() -> None:
    model = Decoder(looped("cycle", 2, 2, **BOTH))
    initialise(model, Recipe(tokens=1024), 0)
    layer = model.model.layers[2]
    x, e = torch.randn(1, 3, 24), torch.randn(1, 3, 24)
    torch.testing.assert_close(layer.loop_input(x, e), 0.5 * x + np.log(2) * e)
    assert (layer.loop_norm.weight == 1).all()


def test_a_model_is_copied_after_a_pass_with_gradients() -> None:
    """Nothing of the pass stays behind."""
    model = Decoder(looped("immediate", 2, 2, **BOTH))
    ids = torch.randint(0, 61, (2, 9))
    model(ids).sum().backward()
    torch.testing.assert_close(deepcopy(model)(ids), model(ids))


@pytest.mark.parametrize("name", ["gguf", "executorch"])
@pytest.mark.parametrize("field", ["loop_input", "loop_norm"])
def test_formats_refuse_it_by_name(name: str, field: str) -> None:
    arch = looped("cycle", 2, 2, **{field: True})
    with pytest.raises(ValueError, match=field):
        FORMATS.load(name).require(arch, "fp32" if name == "executorch" else "fp16")


@pytest.mark.parametrize("given", [1, "yes", None])
def test_what_is_no_switch_is_refused(given: Any) -> None:
    with pytest.raises(ValueError, match="loop_input must be true or false"):
        looped("cycle", 2, 2, loop_input=given)
