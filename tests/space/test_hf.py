"""Exports against `transformers`, and checkpoints that `transformers` made, loaded here."""

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from hypothesis import HealthCheck, assume, given, settings
from model_fixtures import TINY, randomise, reference
from safetensors.torch import load_file, save_file
from strategies import LLAMA_3, architectures
from study_fixtures import environment, run, study_json

from search.models import stored_run
from space.arch import Architecture
from space.budget import Budget, fit
from space.cost import cost
from space.hf import architecture_of, export, export_model, load, load_tokenizer
from space.hf.card import model_card
from space.model import Decoder

PATTERNS: list[dict[str, Any]] = [
    {"sharing": "none", "num_blocks": 3},
    {"sharing": "immediate", "num_blocks": 2, "repeats": 2},
    {"sharing": "cycle", "num_blocks": 2, "repeats": 2},
    {"sharing": "reverse", "num_blocks": 2, "repeats": 2},
    {"sharing": "cycle_reverse", "num_blocks": 2, "repeats": 3},
    {"sharing": "sandwich", "num_blocks": 3, "repeats": 2},
    {"sharing": "middle_cycle", "num_blocks": 4, "repeats": 2},
    {"sharing": "middle_sequence", "num_blocks": 4, "repeats": 2},
    {"sharing": "all", "num_blocks": 1, "repeats": 3},
    {"layer_map": [(0, 0), (1, 0), (0, 1)]},
]


def ids_of(arch: Architecture) -> torch.Tensor:
    generator = torch.Generator().manual_seed(1)
    return torch.randint(0, arch.vocab_size, (2, 19), generator=generator)


def built(**fields: Any) -> Decoder:
    model = Decoder(Architecture(**{**TINY, **fields})).eval()
    randomise(model)
    return model


@torch.no_grad()
def assert_same(ours: Decoder, theirs: Any) -> None:
    ids = ids_of(ours.arch)
    other = theirs(ids)
    logits = other if isinstance(other, torch.Tensor) else other.logits
    torch.testing.assert_close(ours(ids), logits, rtol=1e-5, atol=1e-5)


def distinct(model: Decoder) -> int:
    return sum(p.numel() for p in model.parameters())


@pytest.mark.parametrize("scope", ["block", "ffn", "attention"])
@pytest.mark.parametrize("pattern", PATTERNS, ids=lambda p: str(p.get("sharing", "custom")))
def test_every_pattern_leaves_as_llama_and_comes_back_shared(
    pattern: dict[str, Any], scope: str, tmp_path: Path
) -> None:
    if "layer_map" in pattern and scope != "block":
        pytest.skip("a layer map says both halves")
    model = built(**pattern, sharing_scope=scope, tie_word_embeddings=scope == "block")
    folder = export(model, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert isinstance(theirs, transformers.LlamaForCausalLM)
    assert_same(model, theirs)
    back = load(folder)
    assert back.arch == model.arch
    assert distinct(back) == distinct(model)
    assert_same(model, back)


@pytest.mark.parametrize(
    ("fields", "kind"),
    [
        ({"attention_bias": True}, "Qwen2"),
        ({"qk_norm": True, "head_dim": 16}, "Qwen3"),
        ({"qk_norm": True, "attention_bias": True}, "Qwen3"),
        ({"num_attention_heads": 3, "num_key_value_heads": 1, "head_dim": 8}, "Mistral"),
        ({"hidden_act": "relu"}, "Arcee"),
        ({"hidden_act": "gelu", "attention_bias": True}, "Arcee"),
        ({"rope_scaling": LLAMA_3}, "Llama"),
        ({"rope_scaling": LLAMA_3, "qk_norm": True}, "Qwen3"),
    ],
)
def test_other_forms_leave_as_models_that_transformers_has(
    fields: dict[str, Any], kind: str, tmp_path: Path
) -> None:
    model = built(**fields, sharing="immediate", num_blocks=2, repeats=2)
    folder = export(model, tmp_path / "out")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
    assert type(theirs).__name__ == f"{kind}ForCausalLM"
    assert_same(model, theirs)
    assert_same(model, load(folder))


@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(arch=architectures(parts=[]))
def test_any_architecture_survives_the_way_out_and_in(
    arch: Architecture, tmp_path_factory: pytest.TempPathFactory
) -> None:
    divides = arch.hidden_size % arch.num_attention_heads == 0
    assume(arch.gated or (divides and not arch.qk_norm))
    model = Decoder(arch)
    randomise(model)
    back = load(export(model, tmp_path_factory.mktemp("export") / "out"))
    assert back.arch == arch
    for (name, p), (_, q) in zip(model.named_parameters(), back.named_parameters(), strict=True):
        assert torch.equal(p, q), name


def test_what_transformers_has_no_model_for_is_refused(tmp_path: Path) -> None:
    model = built(num_blocks=2, hidden_act="relu", qk_norm=True)
    with pytest.raises(ValueError, match="none has an FFN of two matrices"):
        export(model, tmp_path / "out")
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("name", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("sharded", [False, True])
def test_checkpoints_of_transformers_load(
    name: str, tied: bool, sharded: bool, tmp_path: Path
) -> None:
    extra = {"attention_bias": name == "qwen2", "qk_norm": name == "qwen3"}
    arch = Architecture(**{**TINY, "num_blocks": 3, "tie_word_embeddings": tied, **extra})
    theirs: Any = reference(name, arch)
    theirs.save_pretrained(tmp_path, **({"max_shard_size": "20KB"} if sharded else {}))
    assert (tmp_path / "model.safetensors.index.json").exists() == sharded
    assert_same(load(tmp_path), theirs)


@pytest.mark.parametrize("layout", ["rope_parameters", "rope_scaling"])
def test_the_rope_scaling_of_llama_3_loads(layout: str, tmp_path: Path) -> None:
    """As transformers writes it since version 5, and as Llama 3.2's own config.json has it."""
    arch = Architecture(**{**TINY, "num_blocks": 2, "rope_scaling": LLAMA_3})
    config = transformers.LlamaConfig(
        vocab_size=arch.vocab_size,
        hidden_size=arch.hidden_size,
        num_hidden_layers=2,
        num_attention_heads=arch.num_attention_heads,
        num_key_value_heads=arch.num_key_value_heads,
        intermediate_size=arch.intermediate_size,
        tie_word_embeddings=True,
        rms_norm_eps=arch.rms_norm_eps,
        max_position_embeddings=2048,
        rope_parameters={**LLAMA_3, "rope_theta": 10000.0},
    )
    theirs: Any = transformers.LlamaForCausalLM(config).eval()
    randomise(theirs)
    theirs.save_pretrained(tmp_path)
    values = json.loads((tmp_path / "config.json").read_text())
    if layout == "rope_scaling":
        del values["rope_parameters"]
        values |= {"rope_theta": 10000.0, "rope_scaling": LLAMA_3}
        (tmp_path / "config.json").write_text(json.dumps(values))
    ours = load(tmp_path)
    assert ours.arch == arch
    ids = torch.randint(0, arch.vocab_size, (1, 300), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        torch.testing.assert_close(ours(ids), theirs(ids).logits, rtol=1e-5, atol=1e-5)
        plain = Decoder(Architecture(**{**TINY, "num_blocks": 2}))
        plain.load_state_dict(ours.state_dict())
        assert (plain(ids) - ours(ids)).abs().max() > 0.01


@pytest.mark.parametrize("layer_sharing", [False, True])
def test_mobilellms_own_layout_loads(layer_sharing: bool, tmp_path: Path) -> None:
    """Embedding sharing under its own name, half precision, blocks stored once."""
    arch = Architecture(**{**TINY, "num_blocks": 3, "tie_word_embeddings": True})
    theirs: Any = reference("llama", arch)
    for p in theirs.parameters():  # not the buffers: rotary frequencies are never stored
        p.data = p.data.half().float()
    theirs.save_pretrained(tmp_path)
    halves = {n: t.half() for n, t in load_file(tmp_path / "model.safetensors").items()}
    save_file(halves, tmp_path / "model.safetensors", metadata={"format": "pt"})
    config = json.loads((tmp_path / "config.json").read_text())
    config |= {"model_type": "mobilellm", "architectures": ["MobileLLMForCausalLM"]}
    config |= {"auto_map": {"AutoConfig": "configuration_mobilellm.MobileLLMConfig"}}
    config |= {"share_embedding": True, "tie_word_embeddings": False, "rope_theta": 10000.0}
    config |= {"layer_sharing": layer_sharing, "rope_scaling": None}
    del config["rope_parameters"]
    (tmp_path / "config.json").write_text(json.dumps(config))
    ours = load(tmp_path)
    if layer_sharing:
        assert ours.arch.layers == tuple((i // 2, i // 2) for i in range(6))
        layers = theirs.model.layers
        theirs.model.layers = torch.nn.ModuleList([x for layer in layers for x in (layer, layer)])
        theirs.config.num_hidden_layers = 6
        theirs.config.use_cache = False  # the copies would share theirs
    assert_same(ours, theirs)


def sentencepiece_tokenizer(folder: Path) -> Any:
    """A tokenizer.model as MobileLLM and Llama 2 have, trained on this file; the library's own
    reading of it."""
    import sentencepiece

    folder.mkdir(exist_ok=True)
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(Path(__file__).read_text().splitlines()),
        model_prefix=str(folder / "tokenizer"),
        vocab_size=400,
        model_type="bpe",
        byte_fallback=True,
        normalization_rule_name="identity",
        remove_extra_whitespaces=False,
        minloglevel=2,
    )
    (folder / "tokenizer.vocab").unlink()
    settings = {"tokenizer_class": "LlamaTokenizer", "legacy": False, "model_max_length": 2048}
    settings |= {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}
    settings |= {"add_bos_token": True, "add_eos_token": False}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))
    return sentencepiece.SentencePieceProcessor(model_file=str(folder / "tokenizer.model"))


def test_a_sentencepiece_tokenizer_comes_in_and_leaves_with_the_model(tmp_path: Path) -> None:
    theirs = sentencepiece_tokenizer(tmp_path / "in")
    arch = Architecture(**{**TINY, "num_blocks": 2, "vocab_size": 400})
    reference("llama", arch).save_pretrained(tmp_path / "in")  # type: ignore[operator]
    config = json.loads((tmp_path / "in" / "config.json").read_text())
    config |= {"model_type": "mobilellm", "share_embedding": True, "tie_word_embeddings": False}
    (tmp_path / "in" / "config.json").write_text(json.dumps(config))
    folder = export_model(tmp_path / "in", tmp_path / "out")
    written = json.loads((folder / "config.json").read_text())
    assert (written["model_type"], written["bos_token_id"], written["eos_token_id"]) == (
        "llama",
        1,
        2,
    )
    for where in (tmp_path / "in", folder):
        tokenizer = load_tokenizer(where)
        # transformers puts no space before a text that begins with one, which sentencepiece does
        for text in ("def load(source):", "two  spaces", "é and 日本", "x\ny"):
            assert tokenizer.encode(text) == [1, *theirs.encode(text)], text
    assert_same(
        load(tmp_path / "in"), transformers.AutoModelForCausalLM.from_pretrained(folder).float()
    )


@pytest.fixture
def exported(tmp_path: Path) -> Path:
    return export(built(sharing="immediate", num_blocks=2, repeats=2), tmp_path / "model")


def change(folder: Path, **changes: torch.Tensor | None) -> None:
    """Replace tensors of a checkpoint, or leave them out."""
    tensors = load_file(folder / "model.safetensors")
    for name, tensor in changes.items():
        name = name.replace("__", ".")
        if tensor is None:
            del tensors[name]
        else:
            tensors[name] = tensor
    save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})


def test_tensors_that_are_not_as_they_must_be_are_named(exported: Path) -> None:
    whole = shutil.copytree(exported, exported.with_name("whole"))
    name = "model__layers__1__mlp__up_proj__weight"
    for changes, message in (
        ({name: None}, "must hold the tensor model.layers.1.mlp.up_proj.weight"),
        (
            {name: torch.zeros(3, 4)},
            r"up_proj.weight must have the shape \(48, 32\).* has \(3, 4\)",
        ),
        ({name: torch.zeros(48, 32)}, "up_proj.weight must equal model.layers.0.mlp.up_proj.weig"),
        ({"model__other": torch.zeros(1)}, "tensors alone, but has model.other"),
        ({"lm_head__weight": torch.zeros(97, 32)}, "must equal model.embed_tokens.weight"),
    ):
        shutil.copytree(whole, exported, dirs_exist_ok=True)
        change(exported, **changes)  # type: ignore[arg-type]
        with pytest.raises(ValueError, match=message):
            load(exported)


def test_a_truncated_file_is_named(exported: Path) -> None:
    path = exported / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(ValueError, match=r"model\.safetensors must be a whole safetensors file"):
        load(exported)


def test_a_missing_shard_is_named(tmp_path: Path) -> None:
    reference("llama", Architecture(**{**TINY, "num_blocks": 2})).save_pretrained(  # type: ignore[operator]
        tmp_path, max_shard_size="20KB"
    )
    (tmp_path / "model-00002-of-00004.safetensors").unlink(missing_ok=True)
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    if len(shards) > 1:
        shards[0].unlink()
    with pytest.raises(ValueError, match=r"every shard, but model-0000\d"):
        load(tmp_path)


def test_pickles_are_refused_with_the_way_to_convert_them(exported: Path) -> None:
    (exported / "model.safetensors").unlink()
    torch.save({}, exported / "pytorch_model.bin")
    with pytest.raises(ValueError, match=r"pytorch_model.bin, a pickle.*save_pretrained"):
        load(exported)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model_type": "gpt_neox", "architectures": ["GPTNeoXForCausalLM"]}, "GPTNeoXForCausalLM"),
        ({"mlp_bias": True}, "mlp_bias of a llama model must be False"),
        ({"hidden_act": "relu"}, "hidden_act of a llama model must be silu"),
        (
            {
                "rope_parameters": {
                    "rope_type": "linear",
                    "rope_theta": 1e4,
                    "factor": 2.0,
                }
            },
            "rope_type of a llama model must be default or llama3 for the decoder, but is linear",
        ),
        ({"vocab_size": None}, "must say vocab_size"),
        ({"isoparam": {"layer_map": [[0, 0]]}}, "must have num_hidden_layers = 4 layers"),
    ],
)
def test_what_the_decoder_does_not_have_is_named(
    exported: Path, changes: dict[str, Any], message: str
) -> None:
    config = json.loads((exported / "config.json").read_text())
    (exported / "config.json").write_text(json.dumps(config | changes))
    with pytest.raises(ValueError, match=message):
        load(exported)


def test_an_export_replaces_an_earlier_one_and_nothing_else(exported: Path, tmp_path: Path) -> None:
    again = export(built(num_blocks=1), exported)
    assert load(again).arch.num_layers == 1
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "letter.txt").write_text("dear")
    with pytest.raises(ValueError, match="holds something else"):
        export(built(num_blocks=1), tmp_path / "mine")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine", "model"]


@pytest.mark.slow
def test_a_sweeps_winner_leaves_by_one_command_and_generates_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    done = run(tmp_path, "n_trials=1", "replicates.seeds=1")
    assert done.returncode == 0, done.stderr
    key = study_json(tmp_path)["trials"][0]["key"]
    command = [sys.executable, "-m", "space", f"export={key}", "to=out"]
    left = subprocess.run(command, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert left.returncode == 0, left.stderr
    pipe = transformers.pipeline("text-generation", model=str(tmp_path / "out"))
    [answer] = pipe("abc", max_new_tokens=8, do_sample=False)
    assert answer["generated_text"].startswith("abc")
    assert len(answer["generated_text"]) > 3
    card = (tmp_path / "out" / "README.md").read_text()
    assert key in card
    with monkeypatch.context() as here:
        here.chdir(tmp_path / "out")
        exec(card.split("```python\n")[1].split("```")[0], {})
    assert capsys.readouterr().out.startswith("The")
    assert_same(load(stored_run(tmp_path / "runs" / key, tmp_path / ".cache")), pipe.model.float())
    shown = subprocess.run(
        [sys.executable, "-m", "space", "architecture_from=out", "format=json"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert (
        json.loads(shown.stdout)["parameters"] == cost(architecture_of(tmp_path / "out")).parameters
    )
    pytest.importorskip("gguf")
    gguf = [*command[:-1], "to=phone", "format=gguf"]
    left = subprocess.run(gguf, cwd=tmp_path, env=environment(), capture_output=True, text=True)
    assert left.returncode == 0, left.stderr
    assert sorted(p.name for p in (tmp_path / "phone").iterdir())[-1] == "model.gguf"
    pytest.importorskip("xllamacpp")
    card = (tmp_path / "phone" / "README.md").read_text()
    python = card.split("```python\n")[1].split("```")[0]
    shown = subprocess.run(
        [sys.executable, "-c", python], cwd=tmp_path / "phone", capture_output=True, text=True
    )
    assert (shown.returncode, bool(shown.stdout.strip())) == (0, True), shown.stderr
    wrong = subprocess.run(
        [sys.executable, "-m", "space", "export=nothing", "to=other"],
        cwd=tmp_path,
        env=environment(),
        capture_output=True,
        text=True,
    )
    assert wrong.returncode == 2
    assert len(wrong.stderr.splitlines()) == 1
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(("tokens", "smoke"), [(20_480, True), (10_000_000, False)])
def test_the_card_of_a_smoke_run_says_so(tokens: int, smoke: bool) -> None:
    arch = fit({"vocab_size": 300, "num_blocks": 2}, Budget("parameters", 100_000))
    reading = {"tokens": tokens, "val_loss": 3.0, "val_bpb": None}
    card = model_card(arch, {"readings": [reading]})
    assert ("Smoke run: ignore the numbers." in card) == smoke
