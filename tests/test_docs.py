"""The documentation's site: it builds without a warning, and asks nothing of the network."""

import re
import shlex
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from browser_fixtures import CHROMIUM, faults
from hydra import compose, initialize_config_dir
from omegaconf import OmegaConf

from ablations.__main__ import AblationConfig
from reports.__main__ import ReportsConfig
from search.__main__ import SearchConfig
from search.data.config import DataConfig
from space.__main__ import Config
from space.app import CONF, configuration

ROOT = Path(__file__).parent.parent
FETCHED = re.compile(r"<(?:script|img|link)[^>]+(?:src|href)=\"(?:https?:)?//[^\"]+\"")


ACCESSIBLE = ("README", "docs/README", "docs/page", "docs/first-sweep", "search")


@pytest.mark.slow
def test_the_site_builds_fetches_nothing_and_is_accessible(
    tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    """Every link between pages leads somewhere, and every page is in a table of contents."""
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-c", "docs", "."]
    built = subprocess.run(
        [*command, str(tmp_path)], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert built.returncode == 0, built.stderr
    pages = {path: path.read_text() for path in tmp_path.rglob("*.html")}
    assert len(pages) > 100
    assert {
        path.name: found for path, text in pages.items() if (found := FETCHED.findall(text))
    } == {}
    assert "class space.arch.Architecture" in re.sub(
        r"<[^>]+>", "", pages[tmp_path / "docs/reference.html"]
    )
    if CHROMIUM:
        browser = request.getfixturevalue("browser")
        for name in ACCESSIBLE:
            assert faults(browser, (tmp_path / f"{name}.html").as_uri()) == [], name


def test_the_gallery_shows_each_of_its_pictures_and_none_is_large() -> None:
    page, folder = ROOT / "docs" / "gallery.md", ROOT / "docs" / "gallery"
    shown = {
        folder / name
        for name in re.findall(r"!\[[^\]]+\]\(gallery/(\w+\.webp)\)", page.read_text())
    }
    assert shown == set(folder.glob("*.webp"))
    assert {path.name for path in shown if path.stat().st_size > 150_000} == set()


def test_commands_for_gpus_open_the_data_that_their_page_prepares() -> None:
    """The options of all, by proxy=gpu_1b, are those of `prepare`, but for the vocabulary's size,
    which a tokenizer brings."""
    page = (ROOT / "docs" / "gpus.md").read_text()
    written = re.search(r"^    (DataConfig\(.*?^    \))", page, re.DOTALL | re.MULTILINE)
    options = re.search(r"^DATA=\((.*?)\)", page, re.DOTALL | re.MULTILINE)
    assert written
    assert options
    prepared: DataConfig = eval(written[1], {"DataConfig": DataConfig})
    with initialize_config_dir(CONF, version_base="1.3"):
        config = compose("search", ["proxy=gpu_1b", *shlex.split(options[1])])
    used = OmegaConf.to_object(config.data)
    assert isinstance(used, DataConfig)
    assert used == replace(prepared, vocab_size=32000)
    commands = re.findall(r"^python -m (?:search|ablations) (?:.*\\\n)*.*", page, re.MULTILINE)
    assert len(commands) == 3
    for command in commands:
        assert command.endswith('"${DATA[@]}"'), command
        assert "data." not in command, command


def test_answers_to_questions_are_commands_that_are_taken(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Every option of every command on the page, with the files that the page writes."""
    page = (ROOT / "docs" / "questions.md").read_text()
    for name, content in re.findall(r"```yaml\n# (\S+)\n(.*?)```", page, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    doors = ROOT / "docs" / "doors"
    (gate,) = re.findall(r'```python\n(""".*?)```', (doors / "part.md").read_text(), re.DOTALL)
    (tmp_path / "gate.py").write_text(gate)
    (space,) = re.findall(
        r"```yaml\n# my/space/gates.yaml\n(.*?)```", (doors / "part.md").read_text(), re.DOTALL
    )
    (tmp_path / "my/space/gates.yaml").write_text(space)
    (sampler,) = re.findall(r"```python\n(.*?)```", (doors / "sampler.md").read_text(), re.DOTALL)
    (tmp_path / "mine.py").write_text(sampler)
    monkeypatch.chdir(tmp_path)
    schemas = {
        "space": Config,
        "search": SearchConfig,
        "ablations": AblationConfig,
        "reports": ReportsConfig,
    }
    given = dict(re.findall(r"^([A-Z]+)=(.*)$", page, re.MULTILINE))
    taken = 0
    for verb, line in re.findall(r"^python -m (\w+) ([^#\n]+)", page, re.MULTILINE):
        for name, value in given.items():
            line = line.replace(f'"${{{name}[@]}}"', value.strip("()")).replace(
                f"${{{name}}}", value
            )
        words = shlex.split(line)
        if verb not in schemas or words == ["serve"]:
            continue
        folders = [Path(CONF)]
        if words[0] == "--config-dir":
            folders.append(Path(words[1]))
            words = words[2:]
        if words[0].startswith("budget=["):  # one start for each
            words[0] = words[0].split(",")[0].replace("[", "")
        configuration(verb, schemas[verb], words, folders)
        taken += 1
    assert taken >= 18
