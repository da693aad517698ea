"""`python -m space`: what it prints, and how it refuses."""

import csv
import io
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from space.arch import FIELDS, Architecture
from space.axes import Space
from space.cost import Cost, cost
from space.device import Device

ROOT = Path(__file__).parents[2]
MOBILE = "architecture=mobilellm_125m"


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "space", *arguments]
    return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)


def printed(*arguments: str) -> str:
    done = run(*arguments)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_a_shell_completes_the_installed_command() -> None:
    program = Path(sys.executable).parent / "isoparam-space"
    environment = {**os.environ, "COMP_LINE": "isoparam-space space=g"}
    done = subprocess.run(
        [program, "-sc", "query=bash"], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.split() == ["space=gqa"]


def test_the_ladder_is_a_table_with_a_row_for_each_architecture() -> None:
    lines = printed("budget=125m").splitlines()
    ladder = Space.from_yaml("depth_width", "125m", 32000).enumerate()
    assert "125,000,000 parameters" in lines[0]
    heads = lines[3].split()
    for head in ("blocks", "layers", "width", "heads", "FFN", "drift", "tied", "parameters"):
        assert head in heads
    rows = [line.split() for line in lines[5:]]
    assert [int(row[0]) for row in rows] == [arch.num_blocks for arch in ladder]
    assert ["30", "30", "576", "9", "3", "64"] in [row[:6] for row in rows]


def test_json_has_every_field_of_architecture_and_cost_under_its_own_name() -> None:
    rows = json.loads(printed("budget=1m", "vocab_size=1024", "seq_len=512", "format=json"))
    ladder = Space.from_yaml("depth_width", "1m", 1024).enumerate()
    assert len(rows) == len(ladder)
    for row, arch in zip(rows, ladder, strict=True):
        assert Architecture.from_dict({name: row[name] for name in arch.to_dict()}) == arch
        for name in Cost.__dataclass_fields__:
            assert row[name] == getattr(cost(arch, 512), name)
        assert abs(row["deviation"]) <= 0.0015


def test_csv_has_the_same_numbers_as_json() -> None:
    arguments = ("budget=1m", "vocab_size=1024", "space=sharing")
    table = list(csv.DictReader(io.StringIO(printed(*arguments, "format=csv"))))
    rows = json.loads(printed(*arguments, "format=json"))
    assert [int(r["parameters"]) for r in table] == [r["parameters"] for r in rows]
    assert [r["sharing_pattern"] for r in table] == [r["sharing_pattern"] for r in rows]


def test_markdown_is_a_table() -> None:
    lines = printed("budget=125m", "space=tying", "format=markdown").splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({line.count("|") for line in table}) == 1
    assert set(table[1]) <= set("|-: ")


def test_an_architecture_is_taken_apart() -> None:
    text = printed("architecture=mobilellm_ls_125m")
    assert "124,635,456" in text
    assert "Layer map, 60 layers (immediate x2):\nblocks: 0 0 1 1 2 2" in text
    for part in ("embedding", "attention", "FFN", "norms", "output"):
        assert part in text
    assert json.loads(printed("architecture=mobilellm_125m", "format=json"))["parameters"] == (
        124_635_456
    )


def test_halves_that_differ_are_drawn_apart(tmp_path: Path) -> None:
    path = tmp_path / "mine.yaml"
    path.write_text(
        "vocab_size: 64\nhidden_size: 8\nnum_attention_heads: 2\nintermediate_size: 16\n"
        "num_blocks: 2\nsharing: immediate\nrepeats: 2\nsharing_scope: ffn\n"
    )
    text = printed(f"architecture_file={path}")
    assert "attention: 0 1 2 3\nFFN:       0 0 1 1" in text


def test_axes_are_overridden_on_the_command_line() -> None:
    text = printed("budget=125m", "space.axes.num_blocks=[12,30]")
    assert [line.split()[0] for line in text.splitlines()[5:]] == ["12", "30"]


def test_predictions_of_devices_stand_beside_the_ladder() -> None:
    given = ("budget=decode_ms:16@iphone_13", "device=[iphone_13,oneplus_12:8da4w:512]")
    rows = json.loads(printed(*given, "format=json"))
    phone, other = Device.from_yaml("iphone_13"), Device.from_yaml("oneplus_12")
    for row in rows:
        arch = Architecture.from_dict({name: row[name] for name in FIELDS if name in row})
        assert row["decode_ms@iphone_13"] == phone.decode_ms(arch, 2048)
        assert row["decode_ms@iphone_13"] == pytest.approx(16, rel=0.0015)
        assert row["load_ms@iphone_13"] == phone.load_ms(arch)
        peak = other.peak_bytes(arch, 512, "8da4w") / 1e6
        assert row["peak_mb@oneplus_12:8da4w:512"] == peak
        assert "prefill_ms@iphone_13" not in row, "it was not measured there"
    table = printed(*given)
    assert "16 ms of decode on iPhone 13 (fp16, 2048 tokens)" in table.splitlines()[0]
    assert "decode ms iphone_13" in table
    assert "measured with models of 125M to 231M parameters" in table


def test_one_architecture_has_a_devices_predictions() -> None:
    """MobileLLM (arXiv:2402.14905), table 7: 15.6 ms."""
    rows = printed("architecture=mobilellm_125m", "device=iphone_13:1").splitlines()
    [said] = [row.split()[1] for row in rows if row.startswith("decode_ms@iphone_13:1")]
    assert float(said) == pytest.approx(15.6, rel=0.02)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["device=iphone_99"], "device must be one of h100, iphone_13"),
        (["device=phone.yaml"], "or a path, but got 'phone.yaml'"),
        (["device=iphone_13:int4"], "iPhone 13 must have been measured at precision int4"),
        (["budget=decode_ms:16"], "decode_ms must name a device"),
        (["bugdet=1m"], "bugdet"),
        (["+budgett=1m"], "budgett must be an option of this command, but is none; did you mean"),
        (["budget=1m,2m"], "budget must be one value, but got 1m,2m; a list is 'budget=[1m,2m]'"),
        (["budget=plenty"], "budget must be a number of parameters such as 125m"),
        (["budget=1m"], "embeddings alone"),
        (["budget=1m"], "vocab_size=32000 is the default, give that of your data"),
        (["space=depth"], "depth_width"),
        (["space.axes.num_blocks=[]"], "axis num_blocks must be a list of at least one value"),
        (["+space.axes.num_bloks=[2]"], "num_bloks"),
        (["architecture=mobilelm_125m"], "mobilellm_125m"),
        (["architecture=mobilellm_125m", "architecture.num_key_value_heads=2"], "choose a divisor"),
        (["architecture=mobilellm_125m", "+architecture.hiden_size=2"], "hiden_size"),
        (["architecture_file=nowhere.yaml"], "nowhere.yaml"),
        (["architecture_file=nowhere.yaml"], "architecture_file must be a file that is there"),
        (["architecture_file=README.md"], "must be a name or a .yaml file, but README.md is"),
        (["architecture_file=conf/ablation/heads.yaml"], "must be a file of one architecture"),
        (["architecture=README.md"], "architecture must be the name of a file"),
        ([MOBILE, "architecture.num_block=5"], "did you mean num_blocks?"),
        ([MOBILE, "architecture.foo=5"], "hidden_size"),
        ([MOBILE, "architecture_file=x.yaml"], "but got architecture_file and architecture; leave"),
        ([MOBILE, "export=best", "study=a", "to=x"], "but got export and architecture; leave"),
        ([MOBILE, "budget=1m"], "budget must go with the ladder of a space, but got it with"),
        ([MOBILE, "space=gqa"], "space must go with the ladder of a space, but got it with"),
        ([MOBILE, "space.ffn_tolerance=2"], "space must go with the ladder of a space"),
        (["to=x"], "to must go with export=…, but got it without; leave to out, or add"),
        (["study=phone"], "study must go with export=… or architecture_from=…, but"),
        (["precision=fp16"], "precision must go with export=…"),
        (["export=x", "to=y", "seq_len=9"], "seq_len must go with"),
        (["export=x", "to=/proc/x"], "to must be a folder that can be written, but in /proc"),
        (["--bogus"], "flags must be Hydra's"),
        (["--budget", "300k"], "--hydra-help lists these; options have no dashes: budget=300k"),
        (["export=nokey", "to=x"], "no such folder; python -m search.whose lists runs"),
        (["--config-dir", "nope"], "--config-dir must be a folder, but nope is not there"),
        (["--cfg", "nonsense"], "invalid choice: 'nonsense'"),
        (["--cfg"], "expected one argument; --hydra-help lists them"),
        (["-p"], "flags must be Hydra's, but argument --package/-p: expected one argument"),
        (["+space.fixed.sharing=5"], "sharing must be written like none"),
        (["+space.fixed.norms=[5]"], "norms must be one of block, layer, but got [5]"),
        (["space.fixed.tie_word_embeddings=5"], "tie_word_embeddings must be true or false"),
        (["+space.fixed.qk_norm=maybe"], "qk_norm must be true or false, but got 'maybe'"),
        (["architecture_from=x", "models=nonesuch"], "models must be a module that defines stored"),
        (["architecture_from=nowhere"], "a model must be a run, a folder or a hub id such as"),
        (["format=xml"], "format must be one of table, markdown, csv, json"),
        (["format=gguf"], "but got 'gguf', which goes with export=RUN to=FOLDER"),
        (["seq_len=0"], "seq_len"),
        (["seq_len=long"], "seq_len"),
    ],
)
def test_bad_input_ends_with_one_line_and_exit_code_2(arguments: list[str], message: str) -> None:
    done = run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert message in done.stderr


def test_help_says_what_the_verb_is_for() -> None:
    first, _, example, *_ = printed("--help").splitlines()
    assert first == "usage: python -m space OPTION=VALUE …"
    assert (
        example.strip() == "python -m space budget=125m: the ladder of architectures on a budget."
    )


FAILING = """
from space.cli import reader_may_leave
with reader_may_leave():
    print("result")
    raise SystemExit(3)
"""


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["-m", "space", "--help"], 0), (["-m", "space", "format=csv"], 0), (["-c", FAILING], 3)],
    ids=["help", "table", "failure"],
)
def test_a_reader_that_has_seen_enough_is_no_error(arguments: list[str], code: int) -> None:
    pipe = subprocess.PIPE
    with subprocess.Popen(
        [sys.executable, *arguments],
        cwd=ROOT,
        env={**os.environ, "PYTHONUNBUFFERED": ""},  # else the first print would end the program
        stdout=pipe,
        stderr=pipe,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.close()
        assert process.stderr.read() == ""
    assert process.returncode == code


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hidden_size: [1\nnum_blocks: }", "must be YAML, but is not: "),
        ("- 1", "must hold the fields of one architecture, a line each, but holds [1]"),
    ],
)
def test_a_file_that_is_no_mapping_is_named(tmp_path: Path, text: str, message: str) -> None:
    path = tmp_path / "torn.yaml"
    path.write_text(text)
    done = run(f"architecture_file={path}")
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert f"{path} {message}" in line
