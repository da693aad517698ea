"""The device model against measurements that others published."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import yaml
from scipy.optimize import curve_fit
from scipy.stats import t as student

from space.arch import Architecture
from space.cost import cost
from space.device import DEVICES, Device, Moved, measured_here

FILES = sorted(path.stem for path in DEVICES.glob("*.yaml"))
WITHIN = 0.05
"""Relative error of a prediction from the other measurements that the model is held to."""
BEYOND = {
    ("iphone_13", "load_ms"): 0.13,
    ("iphone_13", "init_ms"): 0.24,
    ("oneplus_12", "peak_mb"): 0.10,
}
"""What the model misses, and by how much: three loads scatter more than two terms explain,
initialisation grows faster than its weights, and a phone's memory has more than one constant."""


@pytest.mark.parametrize("name", FILES)
def test_each_measurement_follows_from_the_others(name: str) -> None:
    device = Device.from_yaml(name)
    for quantity in device.terms:
        predictions = device.held_out(quantity)
        assert predictions, f"{quantity} has too few measurements to hold one out"
        for held_out in predictions:
            allowed = BEYOND.get((name, quantity), WITHIN)
            assert abs(held_out.error) < allowed, (quantity, held_out)


def test_what_the_model_misses_is_not_claimed() -> None:
    """An entry of BEYOND that the model has come to predict is out of date."""
    for (name, quantity), allowed in BEYOND.items():
        errors = [abs(h.error) for h in Device.from_yaml(name).held_out(quantity)]
        assert WITHIN < max(errors) < allowed


def test_one_bandwidth_explains_the_iphone_if_a_repeat_is_moved_once() -> None:
    """MobileLLM (arXiv:2402.14905), table 7: 15.6, 16.0 and 29.0 ms."""
    device = Device.from_yaml("iphone_13")
    base, shared, deep = (row for row in device.measured)
    bandwidths = [row.counts.moved_mb / row.decode_ms for row in (base, shared, deep)]
    assert min(bandwidths) > 15.5
    assert max(bandwidths) < 16.0
    for row in (base, shared, deep):
        assert device.decode_ms(row.architecture) == pytest.approx(row.decode_ms, rel=0.02)
    twice = Architecture.from_dict(
        shared.architecture.to_dict()
        | {"layer_map": None, "sharing": "cycle", "num_hidden_layers": None, "num_blocks": 30}
    )
    assert device.decode_ms(twice) == pytest.approx(29.0, rel=0.02), (
        "moved twice: not what was seen"
    )


@pytest.mark.parametrize("precision", ["bf16", "8da4w"])
def test_one_bandwidth_for_each_precision_explains_the_oneplus_within_3_percent(
    precision: str,
) -> None:
    """ExecuTorch's examples/models/llama: models of one and three billion parameters."""
    device = Device.from_yaml("oneplus_12")
    errors = [h.error for h in device.held_out("decode_ms") if h.measurement.precision == precision]
    assert len(errors) == 2
    assert max(map(abs, errors)) < 0.03


def test_intervals_are_those_of_a_weighted_least_squares_fit() -> None:
    """scipy's `curve_fit`, with errors that are relative."""
    device = Device.from_yaml("h100")
    rows = [(r.counts.moved_mb, r.counts.layers, r.decode_ms) for r in device.measured]
    moved, layers, measured = np.array(rows, dtype=float).T
    found, covariance = curve_fit(
        lambda x, a, b: a * x[0] + b * x[1], (moved, layers), measured, sigma=measured
    )
    half = student.ppf(0.975, df=2) * np.sqrt(np.diag(covariance))
    intervals = device.intervals("decode_ms", "bf16").values()
    assert list(intervals) == [
        pytest.approx((value - by, value + by), rel=1e-3)
        for value, by in zip(found, half, strict=True)
    ]


def test_as_many_measurements_as_terms_give_no_interval() -> None:
    """Two of the iPhone's three loads, which two terms explain whatever they are."""
    iphone = Device.from_yaml("iphone_13")
    fewer = replace(iphone, measured=iphone.measured[:2])
    assert fewer.intervals("load_ms", "fp16") == {"stored_mb": None, "layers": None}
    (low, high) = iphone.intervals("load_ms", "fp16")["layers"] or (1, 0)
    assert low == 0.0 < high, "no coefficient is below zero"


def test_the_h100_needs_an_overhead_for_each_layer() -> None:
    """Nemotron-Flash (arXiv:2511.18890): parameters alone would predict a sixfold range."""
    device = Device.from_yaml("h100")
    fitted = device.coefficients("decode_ms", "bf16")
    share = [fitted["layers"] * row.counts.layers / row.decode_ms for row in device.measured]
    assert min(share) > 0.5


def test_bytes_follow_from_the_cost() -> None:
    arch = Architecture.from_yaml("llama_3_2_1b")
    half, quarter = (Moved.of(arch, p, 1, 1) for p in ("bf16", "8da4w"))
    assert half.stored_mb == cost(arch).weight_bytes / 1e6
    assert half.moved_mb == cost(arch, 1, 2).decode_bytes_per_token / 1e6
    # 1083 MiB is the .pte file of the same model (pytorch/executorch, examples/models/llama).
    assert quarter.stored_mb == pytest.approx(1083 * 1.048576, rel=0.01)


SHARED = {"immediate": 2, "cycle": 2, "none": 1}


@pytest.mark.parametrize("sharing", SHARED)
@pytest.mark.parametrize("precision", ["fp16", "q8_0"])
def test_what_is_repeated_and_what_is_copied_make_it_a_model_without_sharing(
    sharing: str, precision: str
) -> None:
    fields = {"vocab_size": 1000, "hidden_size": 64, "num_attention_heads": 4}
    fields |= {"intermediate_size": 96, "norms": "layer"}
    shared = Architecture(**fields, num_blocks=3, sharing=sharing, repeats=SHARED[sharing])
    plain = Architecture(**fields, num_blocks=shared.num_layers)
    ours, theirs = (Moved.of(arch, precision, 7, 1) for arch in (shared, plain))
    assert ours.moved_mb + ours.repeated_mb == pytest.approx(theirs.moved_mb)
    assert ours.stored_mb + ours.copies_mb == pytest.approx(theirs.stored_mb)
    assert (ours.repeated_mb > 0) == (sharing == "immediate")
    assert (ours.copies_mb > 0) == (sharing != "none")
    assert theirs.repeated_mb == theirs.copies_mb == pytest.approx(0)


def test_repeats_from_the_cache_get_a_rate_of_their_own(tmp_path: Path) -> None:
    """Times made of 20 GB/s from memory, 60 from the cache and 0.1 ms a layer."""
    rows = []
    for blocks, repeats in ((4, 1), (8, 1), (4, 2), (4, 4), (8, 3)):
        arch = Architecture(
            vocab_size=1000,
            hidden_size=512,
            num_attention_heads=8,
            intermediate_size=1024,
            num_blocks=blocks,
            sharing="immediate" if repeats > 1 else "none",
            repeats=repeats,
        )
        counts = Moved.of(arch, "q8_0", 128, 1)
        time = counts.moved_mb / 20 + counts.repeated_mb / 60 + 0.1 * counts.layers
        rows.append({"architecture": arch.to_dict(), "context": 128, "decode_ms": time})
    content = {
        "name": "made",
        "source": "here",
        "terms": {"decode_ms": ["moved_mb", "repeated_mb", "layers"]},
        "measured": [row | {"precision": "q8_0"} for row in rows],
    }
    (tmp_path / "made.yaml").write_text(yaml.safe_dump(content))
    fitted = Device.from_yaml(tmp_path / "made.yaml").coefficients("decode_ms", "q8_0")
    assert fitted == pytest.approx({"moved_mb": 1 / 20, "repeated_mb": 1 / 60, "layers": 0.1})


def test_this_machine_is_a_device_once_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    with pytest.raises(ValueError, match=r"but was not; run `python -m benchmarks\.device` once"):
        Device.from_yaml("this")
    measured_here().mkdir(parents=True)
    (measured_here() / "this.yaml").write_text((DEVICES / "iphone_13.yaml").read_text())
    assert Device.from_yaml("this").name == "iPhone 13"


def test_a_longer_context_and_a_longer_prompt_cost_more() -> None:
    arch, phone = Architecture.from_yaml("mobilellm_125m"), Device.from_yaml("oneplus_12")
    assert phone.decode_ms(arch, 2048, "bf16") > phone.decode_ms(arch, 1, "bf16")
    assert phone.prefill_ms(arch, 256, "bf16") > 3.9 * phone.prefill_ms(arch, 64, "bf16")
    assert phone.peak_bytes(arch, 4096, "bf16") > phone.peak_bytes(arch, 2048, "bf16")


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda d, a: Device.from_yaml("iphone_99"), "device must be one of h100, iphone_13"),
        (lambda d, a: d.decode_ms(a, precision="int3"), "at precision int3, but was not"),
        (lambda d, a: d.prefill_ms(a, 64), "prefill_ms of iPhone 13 must have been measured"),
        (lambda d, a: d.decode_ms(a, context=0), "seq_len and dtype_bytes must be at least 1"),
    ],
)
def test_what_cannot_be_predicted_is_refused(call: object, said: str) -> None:
    device, arch = Device.from_yaml("iphone_13"), Architecture.from_yaml("mobilellm_125m")
    with pytest.raises(ValueError, match=said):
        call(device, arch)  # type: ignore[operator]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("name: x\n", "must hold name, source, terms and measured"),
        ("name: x\nsource: y\nterms: {decode_ms: [weight]}\nmeasured: []\n", "by counts among"),
        (
            "name: x\nsource: y\nterms: {decode_ms: [moved_mb]}\nmeasured: [{speed: 3}]\n",
            "a measurement must have architecture and precision",
        ),
    ],
)
def test_a_file_that_describes_no_device_is_refused(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "phone.yaml").write_text(text)
    with pytest.raises(ValueError, match=said):
        Device.from_yaml(tmp_path / "phone.yaml")
