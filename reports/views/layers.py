"""Architectures as built: their sizes in words, and the layer map that a study's page draws."""

import json
from typing import Any

from reports.read.study import Study
from reports.views.trials import arms_shown
from reports.weigh.answer import Evidence
from space.arch import Architecture
from space.words import count


def as_built(architecture: Architecture) -> str:
    """Layers, width, heads, FFN, sharing and parts of an architecture, in words."""
    size = f"{count(architecture.num_layers, 'layer')} × {architecture.hidden_size} wide"
    shared = _shared([list(pair) for pair in architecture.layers])
    values = [f"{name} {value}" for part in architecture.parts for name, value in part.values]
    return ", ".join([size, _sizes(architecture), shared, *values])


def pictures(study: Study, evidence: Evidence) -> dict[str, dict[str, Any]]:
    """By arm its `label`, its `layers` as pairs of an attention and an FFN block, and its sizes in
    words; of the architectures that the page lists."""
    arms = arms_shown(evidence)
    rows = study.finished.drop_duplicates("arm")
    rows = rows[rows.arm.isin(arms.arm)].set_index("arm")
    labels = dict(zip(arms.arm, arms.label, strict=True))
    return {str(arm): _picture(str(labels[arm]), row) for arm, row in rows.iterrows()}


def _picture(label: str, row: Any) -> dict[str, Any]:
    layers = json.loads(row.layer_map)
    sizes = f"{_sizes(row)}, {row.parameters:,.0f} parameters"
    return {"label": label, "layers": layers, "sizes": sizes, "shared": _shared(layers)}


def _sizes(row: Any) -> str:
    """Of an architecture, or of a row with its fields."""
    heads = (
        f"{row.num_attention_heads:.0f}/{row.num_key_value_heads:.0f} heads of {row.head_dim:.0f}"
    )
    ffn = f"FFN {row.intermediate_size:,.0f} ({row.ffn_ratio:.2f} × width)"
    tied = "tied" if row.tie_word_embeddings else "untied"
    return f"{heads}, {ffn}, {tied} embeddings"


def _shared(layers: list[list[int]]) -> str:
    attention, ffn = ({pair[half] for pair in layers} for half in (0, 1))
    if len(attention) == len(ffn) == len(layers):
        return "every layer has weights of its own"
    return f"{len(attention)} attention and {len(ffn)} FFN blocks for {len(layers)} layers"
