"""The profile of this machine: measured in llama.cpp, no time held to a number."""

from pathlib import Path

import pytest

from benchmarks import device
from space.device import THIS, Device, measured_here


@pytest.mark.slow
def test_a_profile_is_left_that_predicts_by_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for package in ("gguf", "xllamacpp"):
        pytest.importorskip(package)
    monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path))
    small = [device.shape(width, blocks, 300) for width, blocks in ((128, 1), (128, 4), (192, 2))]
    small += [device.shape(128, 2, 300, **device.TWICE), device.shape(192, 6, 2048)]
    monkeypatch.setattr(device, "SHAPES", tuple(small))
    monkeypatch.setattr(device, "PRECISIONS", ("q8_0",))
    device.main(["--repeats", "1"])
    assert (measured_here() / f"{THIS}.yaml").parent == tmp_path / "isoparam" / "device"
    this = Device.from_yaml(THIS)
    arch = this.measured[0].architecture
    assert this.decode_ms(arch, context=128, precision="q8_0") > 0
    assert len(this.held_out("decode_ms")) == len(small)
    shown = capsys.readouterr().out
    assert all(f"## {quantity}" in shown for quantity in device.TERMS)
    assert "4 × 128, immediate ×2" in shown
