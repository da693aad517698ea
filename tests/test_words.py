"""Pages and code use the field's words, and the links of pages lead somewhere."""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PAGES = sorted(
    [
        *(ROOT / name for name in ("README.md", "CHANGELOG.md", "CONTRIBUTING.md", "DECISIONS.md")),
        *(ROOT / "reports" / name for name in ("log.md", "results/README.md")),
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "reports" / "log").glob("*.md"),
    ]
)
PACKAGES = ("ablations", "benchmarks", "reports", "search", "space")
CODE = sorted(
    {path for name in (*PACKAGES, "tests") for path in (ROOT / name).rglob("*.py")}
    - {Path(__file__)}  # it names the words
)
KERNELS = sorted((ROOT / "search").rglob("*.cpp"))
TEMPLATES = sorted([*(ROOT / "conf").rglob("*.yaml"), *(ROOT / "reports").rglob("*.j2")])
INSTEAD = {
    r"fore(told|tells?)": "predicted",
    r"(un)?told": "said, shown, reported; 'not told apart' is 'not resolved'",
    r"dearest": "most expensive, largest",
    r"as yet": "so far, yet",
    r"likewise": "also, the same way",
    r"loud(er|est|ly)?": "noisy, with a large standard deviation",
    r"flattered": "too optimistic",
    r"whoever": "who, or say it of the thing",
    r"hangs? on": "depends on",
    r"for granted": "assumes, assumed",
    r"(tokens|seeds|steps|runs|bytes|layers|rows?|columns?|proposals|files?) an? "
    r"(second|parameter|step|depth|seed|arm|shape|budget|run|token|machine|cell|task|trial|"
    r"proxy|reading|metric|strategy|parametrisation|design|axis|pattern|wanted)": "per",
}
"""Words that this project alone used in this sense, and what to write."""
MEANT_LITERALLY: set[str] = set()
"""Quotations of what a command printed."""


def found(text: str) -> Iterator[str]:
    """Each word of the list, with what to write."""
    for quotation in MEANT_LITERALLY:
        text = text.replace(quotation, "")
    text = re.sub(r"```.*?```|`[^`]*`", "", text, flags=re.DOTALL)  # names are no words
    text = re.sub(r"(?<!\n)\n(?!\n)\s*", " ", text)  # lines of a paragraph
    for pattern, instead in INSTEAD.items():
        for match in re.finditer(rf"\b(?:{pattern})\b", text, re.IGNORECASE):
            around = text[max(0, match.start() - 40) : match.end() + 40]
            yield f"'{match[0]}' in '…{around}…': write {instead}"


def prose(source: str) -> Iterator[str]:
    """Docstrings, string literals and comments of Python code, each block of comments as one.

    Literals of a single word are names: of a column, a key, an option.
    """
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and " " in node.value:
            yield node.value
    tokens = tokenize.generate_tokens(io.StringIO(source).readline)
    lines = {t.start[0]: t.string.lstrip("#") for t in tokens if t.type == tokenize.COMMENT}
    yield "".join(("\n" if n - 1 in lines else "\n\n") + text for n, text in lines.items())


def comments(source: str) -> list[str]:
    """Comments of C++ code, each block of lines as one."""
    return re.findall(r"(?:^[ \t]*//.*\n?)+|//.*|/\*[\s\S]*?\*/", source, flags=re.MULTILINE)


def broken_links(page: Path) -> list[str]:
    """Relative links of a page to what is not there."""
    links = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", page.read_text())
    return [x for x in links if not re.match(r"\w+:", x) and not (page.parent / x).exists()]


def missing_files(page: Path) -> list[str]:
    """Files of this project that a page names, but that are not there."""
    folders = "space|search|ablations|reports|conf|docs"
    named = re.findall(rf"`((?:{folders})/[a-z0-9_/.-]+\.\w+)`", page.read_text())
    return [name for name in named if not (ROOT / name).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_a_page_has_plain_words_and_names_what_there_is(page: Path) -> None:
    assert list(found(page.read_text())) == []
    assert broken_links(page) == []
    assert missing_files(page) == []


@pytest.mark.parametrize("path", CODE, ids=lambda path: str(path.relative_to(ROOT)))
def test_code_has_plain_words(path: Path) -> None:
    assert [word for text in prose(path.read_text()) for word in found(text)] == []


@pytest.mark.parametrize("path", KERNELS, ids=lambda path: path.name)
def test_kernels_have_plain_words(path: Path) -> None:
    said = comments(path.read_text())
    assert len(said) > 10
    assert [word for text in said for word in found(text.replace("//", ""))] == []


def test_words_of_the_list_are_found_in_comments_of_c(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(INSTEAD, r"made\s+up", "invented")
    source = "int made; int up;  // odd\n// made\n// up\n/* it is made up\n */ x = made / up;"
    words = [word for text in comments(source) for word in found(text.replace("//", ""))]
    assert len(words) == 2
    assert all(word.endswith("write invented") for word in words)


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda path: str(path.relative_to(ROOT)))
def test_templates_and_configuration_have_plain_words(path: Path) -> None:
    assert list(found(path.read_text())) == []


@pytest.mark.parametrize(
    "source",
    [
        '"""A row a seed."""',
        'def f() -> None:\n    """What is\n    told."""',
        'raise ValueError(f"{name} is the dearest")',
        "x = 1  # not yet told",
    ],
)
def test_words_of_the_list_are_found_in_code(source: str) -> None:
    assert len([word for text in prose(source) for word in found(text)]) == 1


@pytest.mark.parametrize("source", ["told = 1", 'row["told"]', '"""One per seed."""'])
def test_names_in_code_are_no_words(source: str) -> None:
    assert [word for text in prose(source) for word in found(text)] == []


@pytest.mark.parametrize(
    "text", ["Is told", "4 tokens a parameter", "the dearest", "likewise.", "(as yet)"]
)
def test_words_of_the_list_are_found(text: str) -> None:
    assert len(list(found(text))) == 1


@pytest.mark.parametrize(
    "text", ["a flatter curve", "`told`", "the retold", "four tokens per step"]
)
def test_other_words_are_not(text: str) -> None:
    assert list(found(text)) == []


@pytest.mark.parametrize("folder", ["docs/decisions", "reports/log"])
def test_an_index_lists_each_page_of_its_folder_once(folder: str) -> None:
    pages = sorted(p.name for p in (ROOT / folder).glob("*.md") if p.name != "README.md")
    listed = re.findall(r"\]\(([^)/]+\.md)\)", (ROOT / folder / "README.md").read_text())
    assert sorted(listed) == pages


def test_the_index_of_the_documentation_lists_each_page() -> None:
    text = (ROOT / "docs" / "README.md").read_text()
    names = {page.name for page in (ROOT / "docs").glob("*.md")} - {"README.md"}
    assert sorted(name for name in names if f"]({name})" not in text) == []


def test_each_decision_has_a_number_of_its_own() -> None:
    numbers = [page.name[:3] for page in (ROOT / "docs" / "decisions").glob("[0-9]*.md")]
    assert sorted(set(numbers)) == sorted(numbers)


def test_each_decision_says_what_would_reverse_it() -> None:
    for page in sorted((ROOT / "docs" / "decisions").glob("[0-9]*.md")):
        text = page.read_text()
        for part in ("Context.", "Decision", "vidence", "What would reverse it."):
            assert part in text, f"{page.name} must have **{part}**"
