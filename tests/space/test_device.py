"""The device model against measurements that others published."""

from pathlib import Path

import pytest

from space.arch import Architecture
from space.cost import cost
from space.device import DEVICES, Device, Moved

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
