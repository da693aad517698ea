"""The scales of the table, measured on built models, and the rule that makes folding exact."""

from dataclasses import replace

import pytest
import torch
from torch import nn

from search.recipe import Recipe
from search.train.parametrise import initialise, lr_factor, parameter_groups, scales
from space.arch import Architecture
from space.model import Decoder

BASE = Recipe(
    tokens=100_000,
    base_hidden_size=64,
    base_num_hidden_layers=4,
    init_std=0.05,
    residual_init=1.0,
)


def model_of(width: int, layers: int, **fields: object) -> Decoder:
    return Decoder(
        Architecture.from_dict(
            {
                "vocab_size": 512,
                "hidden_size": width,
                "num_blocks": layers,
                "num_attention_heads": width // 16,
                "head_dim": 16,
                "intermediate_size": width * 8 // 3,
                **fields,
            }
        )
    )


def test_the_base_shape_has_the_standard_parametrisation() -> None:
    model = model_of(64, 4, intermediate_size=171)
    ours, standard = scales(model, BASE), scales(model, replace(BASE, parametrisation="sp"))
    for name in ours:
        assert ours[name].std == pytest.approx(standard[name].std, rel=2e-3)
        assert ours[name].lr == pytest.approx(standard[name].lr, rel=2e-3)


def test_drawn_weights_have_the_deviations_of_the_table() -> None:
    model = model_of(256, 8)
    initialise(model, BASE, init_seed=0)
    expected = {
        "q_proj": 0.05 / 2,
        "up_proj": 0.05 / 2,
        "o_proj": 0.05 / 2 / 2,
        "down_proj": 0.05 / 2 / 2,
        "embed_tokens": 0.05,
    }
    for part, std in expected.items():
        drawn = [p for n, p in model.named_parameters() if part in n]
        assert torch.cat([p.flatten() for p in drawn]).std().item() == pytest.approx(std, rel=0.02)
    assert model.model.norm.weight[0].item() == pytest.approx(1 / 4)


def test_residual_branches_start_closed_by_default() -> None:
    model = model_of(64, 2, qk_norm=True)
    initialise(model, replace(BASE, residual_init=0.0), init_seed=0)
    ids = torch.arange(8).view(1, 8)
    with torch.no_grad():
        torch.testing.assert_close(
            model.hidden(ids), model.model.norm(model.model.embed_tokens(ids))
        )


def test_depth_counts_executed_layers() -> None:
    plain, looped = model_of(64, 8), model_of(64, 2, sharing="cycle", repeats=4)
    name = "model.layers.0.self_attn.o_proj.weight"
    one, four = scales(plain, BASE)[name], scales(looped, BASE)[name]
    assert four == replace(one, eps=4 * one.eps)  # its gradient sums four executions


def test_mup_follows_width_alone() -> None:
    deep, shallow = model_of(256, 8), model_of(256, 4)
    recipe = replace(BASE, parametrisation="mup")
    name = "model.layers.0.mlp.down_proj.weight"
    assert scales(deep, recipe)[name] == scales(shallow, recipe)[name]
    assert scales(deep, recipe)[name].lr == pytest.approx(recipe.lr / 4, rel=5e-3)


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("base", [(72, 4), (96, 5)])
@pytest.mark.parametrize("parametrisation", ["mup", "completep"])
def test_the_folded_model_trains_as_the_published_multipliers(
    parametrisation: str, base: tuple[int, int], tied: bool
) -> None:
    """The paper's table (arXiv:2505.01618, table 1), multipliers in the forward pass, torch's
    AdamW: the same logits as the folded model, step by step. Ratios are real numbers: a base shape
    need not divide. Norms compute in float32, in which powers of two are exact and 2/3 is not."""
    recipe = replace(BASE, parametrisation=parametrisation, eps=1e-4, embedding_lr_factor=1.0)
    recipe = replace(recipe, base_hidden_size=base[0], base_num_hidden_layers=base[1])
    w, d = 144 / base[0], 8 / base[1] if parametrisation == "completep" else 1.0
    # Of 144, 384 is 8/3: every fan-in is w times its base.
    folded = model_of(144, 8, intermediate_size=384, tie_word_embeddings=tied).double()
    initialise(folded, recipe, init_seed=0)
    plain = Decoder(folded.arch).double()
    plain.load_state_dict(folded.state_dict())
    with torch.no_grad():
        plain.model.norm.weight.mul_(w)
        for layer in plain.model.layers:
            layer.self_attn.o_proj.weight.mul_(d)
            layer.mlp.down_proj.weight.mul_(d)
    for layer in plain.model.layers:
        for branch in (layer.self_attn, layer.mlp):
            branch.register_forward_hook(lambda module, given, result: result / d)
    plain.model.norm.register_forward_hook(lambda module, given, result: result / w)
    matrices = [p for p in plain.model.layers.parameters() if p.ndim == 2]
    gains = [p for p in plain.model.layers.parameters() if p.ndim == 1]
    lr, eps, decay = recipe.lr, recipe.eps, recipe.weight_decay
    outside = {"lr": lr, "eps": eps / w, "weight_decay": 0.0}
    groups = [
        {"params": matrices, "lr": lr / w, "eps": eps / w / d, "weight_decay": w * decay},
        {"params": gains, "lr": lr, "eps": eps / w / d, "weight_decay": 0.0},
        {"params": [plain.model.embed_tokens.weight, plain.model.norm.weight], **outside},
    ]
    if not tied:
        groups.append({"params": [plain.lm_head.weight], **outside, "weight_decay": decay})
    models = (folded, plain)
    optimizers = (
        torch.optim.AdamW(parameter_groups(folded, recipe)),
        torch.optim.AdamW(groups),
    )
    rtol, atol = (1e-6, 1e-8) if w == 2 else (1e-4, 1e-6)
    generator = torch.Generator().manual_seed(0)
    for _ in range(5):
        ids = torch.randint(512, (2, 17), generator=generator)
        logits = [model(ids[:, :-1]) for model in models]
        torch.testing.assert_close(logits[0], logits[1], rtol=rtol, atol=atol)
        for out, optimizer in zip(logits, optimizers, strict=True):
            optimizer.zero_grad()
            nn.functional.cross_entropy(out.flatten(0, 1), ids[:, 1:].flatten()).backward()
            optimizer.step()


def test_every_parameter_is_in_exactly_one_group() -> None:
    model = model_of(64, 2, sharing="immediate", repeats=2, qk_norm=True, attention_bias=True)
    grouped = [p for group in parameter_groups(model, BASE) for p in group["params"]]
    assert {id(p) for p in grouped} == {id(p) for p in model.parameters()}
    assert len(grouped) == len(set(map(id, grouped)))


def test_a_folded_multiplier_trains_as_the_multiplier_itself() -> None:
    """m·w with (lr, eps, decay) is the plain tensor with (m·lr, eps/m, decay/m)."""
    m, lr, eps, decay = 0.25, 1e-2, 1e-3, 0.1
    torch.manual_seed(0)
    w = nn.Parameter(torch.randn(8, 8, dtype=torch.float64))
    folded = nn.Parameter(m * w.detach())
    x, y = torch.randn(2, 16, 8, dtype=torch.float64)
    for parameter, scale, options in (
        (w, m, {"lr": lr, "eps": eps, "weight_decay": decay}),
        (folded, 1.0, {"lr": m * lr, "eps": eps / m, "weight_decay": decay / m}),
    ):
        optimizer = torch.optim.AdamW([parameter], **options)
        for _ in range(20):
            optimizer.zero_grad()
            (x @ (scale * parameter) - y).square().mean().backward()
            optimizer.step()
    torch.testing.assert_close(folded, m * w)


@pytest.mark.parametrize("schedule", ["wsd", "cosine"])
def test_the_schedule_warms_up_and_decays_to_zero(schedule: str) -> None:
    recipe = replace(
        BASE, tokens=1_000_000, schedule=schedule, warmup_fraction=0.1, decay_fraction=0.25
    )
    factors = [lr_factor(recipe, step) for step in range(recipe.steps)]
    peak = factors.index(max(factors))
    assert max(factors) == pytest.approx(1.0)
    assert factors[:peak] == sorted(factors[:peak])
    assert factors[peak:] == sorted(factors[peak:], reverse=True)
    assert factors[-1] < 0.03
    if schedule == "wsd":
        assert factors.count(1.0) >= 0.6 * recipe.steps


def test_each_ffn_block_has_the_rate_of_its_own_width() -> None:
    model = model_of(64, 4, intermediate_size=160, ffn_scaling="0.5..1.5")
    found = scales(model, BASE)
    widths = model.arch.ffn_widths
    assert widths == (80, 136, 184, 240)
    rates = [found[f"model.layers.{i}.mlp.down_proj.weight"].lr * widths[i] for i in range(4)]
    assert rates == pytest.approx([rates[0]] * 4)
    ups = {found[f"model.layers.{i}.mlp.up_proj.weight"].lr for i in range(4)}
    assert len(ups) == 1, "the width of the residual stream is theirs"
