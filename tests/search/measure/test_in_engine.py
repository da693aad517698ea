"""What engines measure, as objectives."""

from pathlib import Path

import pytest

from search.measure.config import Measuring
from search.measure.in_engine import InEngine
from search.objectives import Measure, Targets
from search.recipe import Recipe
from search.record import Measured, Record, Run
from search.states import Status
from space.arch import Architecture

MINE = """
from search.engines.llama_cpp import ENGINE
"""


def record(*measured: Measured) -> Record:
    arch = Architecture.from_yaml("mobilellm_125m")
    run = Run(
        architecture=arch,
        recipe=Recipe(tokens=1024, precision="fp32"),
        data_fingerprint="0",
        seed=0,
    )
    return Record(run=run, status=Status.FINISHED, measured=measured)


def measured(precision: str, ms: float, context: int = 128, shared: bool = False) -> Measured:
    values = {"decode_ms": {"p50": 2 * ms}, "decode_cpu_ms": {"p50": ms}, "peak_mb": {"p50": 7.0}}
    return Measured(
        engine="llama_cpp",
        version="1",
        precision=precision,
        context=context,
        steps=32,
        threads=1,
        shared=shared,
        machine="a",
        repeats=5,
        values=values,
    )


@pytest.mark.parametrize(
    ("name", "precision", "context", "shared", "short"),
    [
        ("llama_cpp", "fp16", None, False, "llama_cpp:fp16"),
        ("llama_cpp:q4_0:512", "q4_0", 512, False, "llama_cpp:512:q4_0"),
        ("llama_cpp:shared:q8_0", "q8_0", None, True, "llama_cpp:q8_0:shared"),
        ("executorch:8da4w", "8da4w", None, False, "executorch:8da4w"),
    ],
)
def test_a_name_says_how_it_is_measured(
    name: str, precision: str, context: int | None, shared: bool, short: str
) -> None:
    found = InEngine.parse(name)
    assert (found.precision, found.context, found.shared) == (precision, context, shared)
    assert found.short == str(found) == short
    assert InEngine.parse(short) == found


@pytest.mark.parametrize(
    "where", ["llama_cpp:q5_0", "llama_cpp:0", "llama_cpp:8:9", "llama_cpp:q8_0:q4_0"]
)
def test_what_an_engine_does_not_know_is_refused(where: str) -> None:
    with pytest.raises(ValueError, match=r"behind llama_cpp must stand .* but got"):
        Measure(f"decode_ms@{where}")


def test_it_is_read_from_what_was_measured_so() -> None:
    both = record(measured("fp16", 3.0), measured("q4_0", 2.0), measured("q4_0", 1.0, shared=True))
    assert Measure("decode_ms@llama_cpp").of(both) is None, "it needs a reading, as losses do"
    values = {
        where: Measure(f"decode_ms@{where}").objective.value(both)
        for where in ("llama_cpp", "llama_cpp:q4_0", "llama_cpp:q4_0:shared", "llama_cpp:64")
    }
    assert list(values.values()) == [3.0, 2.0, 1.0, None], "processor time, of one thread"
    assert Measure("peak_mb@llama_cpp").objective.value(both) == 7.0
    assert Measure("peak_mb@llama_cpp").facts()["unit"] == "MB"


@pytest.mark.parametrize(
    ("how", "said"),
    [
        (Measuring(), "nothing; add measure=llama_cpp measure.precision=q4_0 measure.context=512"),
        (Measuring(engine="executorch"), r"otherwise \(executorch, fp32, prompt of 128\); add"),
        (Measuring(engine="llama_cpp", precision="q4_0"), "otherwise .* measure.context=512"),
        (Measuring(engine="llama_cpp", precision="q4_0", context=512, shared=True), "otherwise"),
    ],
)
def test_a_study_must_measure_it(how: Measuring, said: str) -> None:
    with pytest.raises(ValueError, match=rf"^it must be measured, but this study measures {said}"):
        InEngine.parse("llama_cpp:512:q4_0").require(how, "it")
    InEngine.parse("llama_cpp:512:q4_0").require(
        Measuring(engine="llama_cpp", precision="q4_0", context=512), "it"
    )


def test_a_search_is_not_led_by_it() -> None:
    with pytest.raises(ValueError, match="measured whatever the weights are"):
        Targets.of(["decode_ms@llama_cpp"])
    assert Targets.of(["val_bpb"], ["load_ms@llama_cpp"]).measured


def test_an_engine_of_ones_own_is_pinned_to_its_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("mine.py").write_text(MINE)
    found = Measure("decode_ms@mine.py:q8_0")
    assert found.short == "decode_ms@mine:q8_0"
    assert found.engine is not None
    assert found.engine.engine.startswith("mine.py@")
    assert Measure(found.name) == found
    found.engine.require(Measuring(engine="mine.py", precision="q8_0"), "it")
