"""The model card of an export."""

import json
from collections.abc import Mapping
from dataclasses import asdict
from typing import Any

from space.arch import Architecture
from space.cost import cost
from space.words import SMOKE_RUN, count, is_smoke

WRITTEN_OUT = (
    "Layers that share a block are written out, each with weights of its own; the layer map is in "
    "`config.json` under `isoparam`."
)

USAGE = {
    "transformers": """```python
from transformers import AutoModelForCausalLM, AutoTokenizer

model = AutoModelForCausalLM.from_pretrained(".")
tokenizer = AutoTokenizer.from_pretrained(".")
prompt = tokenizer("The", return_tensors="pt")
print(tokenizer.decode(model.generate(**prompt, max_new_tokens=40)[0]))
```""",
    "llama.cpp": """By llama.cpp's program:

```sh
llama-cli -m model.gguf -p 'The' -n 40
```

From Python, by `pip install xllamacpp`:

```python
import xllamacpp

settings = xllamacpp.CommonParams()
settings.model.path = "model.gguf"
server = xllamacpp.Server(settings)
print(server.handle_completions({"prompt": "The", "max_tokens": 40})["choices"][0]["text"])
```""",
}
"""By library, how it generates text in the folder."""


def model_card(
    arch: Architecture,
    record: Mapping[str, Any] | Any | None = None,
    library: str = "transformers",
    layers: str = WRITTEN_OUT,
) -> str:
    """What the folder's README says: the shape, its cost, how layers are kept, and the run's
    record."""
    to_dict = getattr(record, "to_dict", None)
    values = to_dict() if to_dict else record
    counts = asdict(cost(arch))
    sharing = "none" if arch.sharing == "none" else f"{arch.sharing}, {arch.num_blocks} blocks"
    shape = {
        "parameters, each distinct weight once": f"{counts['parameters']:,}",
        "layers executed": arch.num_layers,
        "sharing": sharing,
        "width": arch.hidden_size,
        "query / key-value heads": f"{arch.num_attention_heads} / {arch.kv_heads}",
        "head dimension": arch.head_size,
        "FFN": f"{arch.intermediate_size} ({arch.hidden_act})",
        "vocabulary": f"{arch.vocab_size:,}",
        "embeddings": "tied" if arch.tie_word_embeddings else "untied",
    }
    warning: list[str] = []
    for reading in (values or {}).get("readings", ())[-1:]:  # these weights', not a branch's
        if is_smoke(reading["tokens"], reading["tokens"] / counts["parameters"]):
            warning = ["", f"**{SMOKE_RUN}**"]
        bpb = reading.get("val_bpb")
        score = f"{reading['val_loss']:.4f} nats per token"
        score += "" if bpb is None else f", {bpb:.4f} bits per byte"
        shape[f"validation after {reading['tokens']:,} tokens"] = score
    lines = [
        "---",
        f"library_name: {library}",
        "pipeline_tag: text-generation",
        "tags: [isoparam]",
        "---",
        f"# {counts['parameters'] / 1e6:,.1f}M parameters, {count(arch.num_layers, 'layer')} × "
        f"{arch.hidden_size}",
        *warning,
        "",
        "| | |",
        "| --- | --- |",
        *(f"| {name} | {value} |" for name, value in shape.items()),
        "",
        layers,
        "",
        *([USAGE[library], ""] if library in USAGE else []),
    ]
    if values is not None:
        text = json.dumps(values, indent=1)
        lines += ["## Record of the run", "", "```json", text, "```", ""]
    return "\n".join(lines)
