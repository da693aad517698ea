"""Attention to the last tokens alone, in all layers or in all but some global ones.

    sliding_window: 32                     every layer sees 32 positions, its own included
    sliding_window: 32, global every 4     layers 3, 7, 11, … see all before them (Gemma 3,
                                           arXiv:2503.19786, has one in six)
    sliding_window: 32, global 0 7         these do

One value says all, as in `sharing`, so that it is one choice to a sampler. Layers have windows, not
blocks: a block that is executed twice may have one in one of them. FLOPs of scores count the pairs
within the window, and the cache of such a layer holds no more tokens than that (Longformer,
arXiv:2004.05150; Mistral, arXiv:2310.06825).
"""

import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from space.parts import Field, Part

if TYPE_CHECKING:
    from space.arch import Architecture

KINDS = ("mistral", "ministral", "qwen2", "qwen3")
"""Models of `transformers` that have windows."""
LOCAL, GLOBAL = "sliding_attention", "full_attention"
"""Their types of layers."""
_WINDOW = re.compile(r"(\d+)(?:\s*,\s*global\s+(?:every\s+(\d+)|(\d+(?:\s+\d+)*)))?")


def parse(given: Any) -> str:
    """The text, in the one form that it is kept in; a number is a window in all layers."""
    text = str(given).strip()
    if text == "none":
        return text
    match = None if isinstance(given, bool) else _WINDOW.fullmatch(text)
    if match is None or int(match[1]) < 1 or (match[2] and int(match[2]) < 1):
        raise ValueError(
            "must be none, a number of positions, or one with layers that see all, such as "
            f"'32, global every 4' or '32, global 0 7', but got {given!r}"
        )
    if match[2]:
        return f"{int(match[1])}, global every {int(match[2])}"
    return describe(int(match[1]), sorted({int(layer) for layer in (match[3] or "").split()}))


def describe(window: int, global_layers: list[int]) -> str:
    """The text for a window, and the layers that see all."""
    listed = " ".join(map(str, global_layers))
    return f"{window}, global {listed}" if listed else str(window)


def layers_of(text: str, num_layers: int) -> tuple[int, list[int]]:
    """The window, and the layers of so many that see all."""
    match = _WINDOW.fullmatch(text)
    assert match is not None, "as parse left it"
    every = int(match[2] or num_layers + 1)
    listed = [int(layer) for layer in (match[3] or "").split()]
    return int(match[1]), [*listed, *range(every - 1, num_layers, every)]


class SlidingWindow(Part):
    """Spans of attention."""

    fields = (
        Field(
            name="sliding_window",
            default="none",
            parse=parse,
            meaning="positions that a token attends to, and which layers attend to all",
        ),
    )
    examples = (
        {"sliding_window": 3},
        {"sliding_window": "4, global every 2"},
        {"sliding_window": "2, global 0"},
    )

    def check(self, arch: "Architecture") -> None:
        """Global layers must be there."""
        _, global_layers = self._layers(arch)
        if max(global_layers, default=0) >= arch.num_layers:
            raise ValueError(
                f"sliding_window must name layers from 0 to {arch.num_layers - 1}, but got "
                f"{arch.value('sliding_window')!r}"
            )

    def canonical(self, arch: "Architecture") -> dict[str, Any]:
        """The layers that see all stand for the rule that made them."""
        window, global_layers = self._layers(arch)
        if len(global_layers) == arch.num_layers:
            return {}
        return {"sliding_window": describe(window, global_layers)}

    def span(self, arch: "Architecture", layer: int) -> int | None:
        """The window, but for global layers."""
        window, global_layers = self._layers(arch)
        return None if layer in global_layers else window

    def export(self, arch: "Architecture", config: dict[str, Any]) -> dict[str, Any]:
        """Llama's kind becomes Mistral's, or Ministral's where some layers see all."""
        window, global_layers = self._layers(arch)
        kind = config["model_type"]
        biased = kind == "llama" and config["attention_bias"]  # Mistral has no biases
        if biased or kind not in ("llama", "mistral", "qwen2", "qwen3"):
            return super().export(arch, config)
        types = [GLOBAL if i in global_layers else LOCAL for i in range(arch.num_layers)]
        config = {k: v for k, v in config.items() if k != "mlp_bias"}
        if kind.startswith("qwen"):
            added = {"use_sliding_window": True, "max_window_layers": 0, "layer_types": types}
        elif global_layers:
            added = {"model_type": "ministral", "layer_types": types}
            added["architectures"] = ["MinistralForCausalLM"]
        else:
            added = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
        return config | added | {"sliding_window": window}

    def read(self, config: Mapping[str, Any]) -> Mapping[str, Any]:
        """Of Mistral a window in all layers, of the others one in those of that type."""
        window = config.get("sliding_window")
        if config["model_type"] not in KINDS or window is None:
            return {}
        types = config.get("layer_types") or [LOCAL] * config["num_hidden_layers"]
        if other := sorted(set(types) - {LOCAL, GLOBAL}):
            raise ValueError(
                f"layer_types must be {LOCAL} or {GLOBAL} for the decoder, but got {other[0]}"
            )
        if LOCAL not in types:
            return {}
        global_layers = [i for i, kind in enumerate(types) if kind == GLOBAL]
        return {"sliding_window": describe(window, global_layers)}

    def _layers(self, arch: "Architecture") -> tuple[int, list[int]]:
        return layers_of(str(arch.value("sliding_window")), arch.num_layers)


PART = SlidingWindow()
