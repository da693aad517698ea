"""A study of two objectives, its numbers from a formula."""

from pathlib import Path

from report_fixtures import StudyFolder, ladder

from reports.read.study import Study, read_study
from search.objectives import Measure
from search.record import Record
from search.runs import usable_record
from space.device import Device

OBJECTIVES = ["val_bpb", "decode_ms@iphone_13"]
QUALITY = {6: 1.60, 2: 1.70, 12: 1.52, 4: 1.518, 3: 1.70, 8: 1.40}
"""Of each depth, in the order in which they decode: 4 is as good as 12 within noise, 2 and 3 are
far worse than what decodes as fast."""


def times() -> dict[int, float]:
    device = Device.from_yaml("iphone_13")
    return {a.num_layers: device.decode_ms(a, 2048) for a in ladder(QUALITY, heads_per_kv_target=3)}


def study_of(
    root: Path,
    seeds: int = 5,
    noise: float = 0.002,
    beyond: tuple[int, ...] = (),
    by_window: float | None = None,
    **facts: object,
) -> Study:
    """Six depths with so many seeds each; some of them `beyond` a constraint. What 64 windows came
    to is kept where it is said by how much depths differ `by_window`."""
    measures = [Measure(name) for name in OBJECTIVES]
    said = {"objectives": [measure.facts() for measure in measures], "columns": []}
    folder = StudyFolder(root, "two", **{**said, "constraints": [], **facts})
    for arch in ladder(QUALITY, heads_per_kv_target=3):
        for seed in range(seeds):
            draw = noise * ((seed * 7 + arch.num_layers * 3) % 5 - 2) + 0.01 * seed
            role = "explore" if seed == 0 else "replicate"
            bpb = QUALITY[arch.num_layers] + draw
            own = [bpb + (by_window or 0) * arch.num_layers * (-1) ** i for i in range(64)]
            windows = () if by_window is None else own
            key = folder.add(arch, seed=seed, role=role, bpb=bpb, points=2, windows=windows)
            record = usable_record(folder.runs / key)
            assert isinstance(record, Record)
            values = {measure.short: measure.of(record) for measure in measures}
            excesses = {"peak_mb@llama_cpp:fp16<=6": 1.0 if arch.num_layers in beyond else -1.0}
            folder.trials[-1] |= {"values": values, "excesses": excesses if beyond else {}}
    folder.write()
    return read_study("two", root / "outputs")
