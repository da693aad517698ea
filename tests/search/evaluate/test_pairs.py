"""Minimal pairs from text written here, and what they must be balanced against."""

import random
import textwrap
from collections import Counter, defaultdict
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from search.config import Evaluation
from search.data.cache import prepare
from search.data.config import DataConfig
from search.data.packed import held_out_documents
from search.evaluate.pairs import KINDS, LARGEST, SOURCE, agreement, unwrapped, word_order
from search.evaluate.scores import lacking
from search.evaluate.tasks import TaskSpec, build
from search.recipe import Recipe
from search.record import Reading, Record, Run, Score
from search.states import Status
from space.budget import fit

NAMES = ("river", "tower", "garden", "market", "village", "harbour", "forest", "castle")
VERBS = ("is", "was", "has", "does"), ("are", "were", "have", "do")


def texts() -> list[str]:
    """Prose in which each contrast is there, more often one way than the other."""
    made = []
    for i, name in enumerate(NAMES):
        lines = [f"In the {name} it {verb} what we found there." for verb in VERBS[0]]
        lines += [f"In the {name} they {verb} what he found there." for verb in VERBS[1][: i % 5]]
        lines += [f"Near the {name} he said that all went well.", "x = they(is)"]
        lines += [f"Near the {name} said he that nothing was lost."] * (i % 3)
        made.append("\n".join(lines))
    return made


def parts(row: dict[str, Any]) -> tuple[str, str]:
    """The right and the wrong ending."""
    return row["choices"][row["gold"]], row["choices"][1 - row["gold"]]


@pytest.mark.parametrize("kind", KINDS)
def test_right_is_what_the_text_has_and_wrong_is_not(kind: str) -> None:
    rows = KINDS[kind](texts())
    whole = "\n".join(texts())
    assert rows
    for row in rows:
        right, wrong = parts(row)
        assert f"{row['context']} {right}" in whole
        assert f"{row['context']} {wrong}" not in whole
        assert Counter("".join(right.split())) == Counter("".join(wrong.split())) or (
            kind == "agreement" and right.split()[1:] == wrong.split()[1:]
        )


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("limit", [2, 4, None])
def test_whoever_looks_at_the_forms_alone_is_right_half_the_time(
    kind: str, limit: int | None
) -> None:
    rows = KINDS[kind](texts())[:limit]
    taste: dict[str, float] = defaultdict(random.Random(0).random)

    def forms(ending: str) -> str:
        return " ".join(ending.split()[: 1 if kind == "agreement" else 2])

    right = [taste[forms(r)] > taste[forms(w)] for r, w in map(parts, rows)]
    assert sum(right) * 2 == len(rows)
    assert {row["gold"] for row in rows} == ({0} if limit == 2 else {0, 1})


@pytest.mark.parametrize("kind", KINDS)
def test_the_same_texts_give_the_same_pairs_in_any_order(kind: str) -> None:
    assert KINDS[kind](texts()) == KINDS[kind](texts()[::-1])
    assert len(KINDS[kind](texts() * 2)) == len(KINDS[kind](texts())) <= LARGEST


WORDS = st.sampled_from("the he said river found there that all went well nothing lost".split())
PROSE = st.lists(st.lists(WORDS, min_size=6, max_size=30).map(" ".join), min_size=2, max_size=9)


@given(st.lists(PROSE, min_size=1, max_size=4), st.integers(40, 100))
def test_text_that_was_wrapped_at_any_width_is_as_before_it(
    paragraphs: list[list[str]], width: int
) -> None:
    """The standard library wraps it; ends of sentences may stay ends of lines."""
    whole = [" ".join(f"{text.capitalize()}." for text in each) for each in paragraphs]
    wrapped = "\n\n".join(textwrap.fill(each, width) for each in whole)
    assert unwrapped(wrapped).split("\n\n") != [""]
    assert [" ".join(p.split("\n")) for p in unwrapped(wrapped).split("\n\n")] == whole
    for line in unwrapped(wrapped).splitlines():
        assert not line or line.endswith(".")


@pytest.mark.parametrize("kind", KINDS)
def test_wrapped_text_has_the_pairs_of_the_same_text_unwrapped(kind: str) -> None:
    def pairs(texts: list[str]) -> list[tuple[str, str, str]]:
        rows = KINDS[kind](texts)
        return sorted((row["context"], *parts(row)) for row in rows)

    name = "long and narrow road over the old stone bridge to the other side near a"
    whole = [text.replace(" the ", f" the {name} ").replace("x = they(is)", "") for text in texts()]
    whole = [" ".join(text.split()) for text in whole]
    wrapped = [textwrap.fill(text, 70) for text in whole]
    assert len(pairs(whole)) >= 8
    # which of a contrast stay is a matter of the documents' hashes, and these are other documents
    assert {p[0] for p in pairs(wrapped)} <= {s for text in whole for s in cut(text)}
    assert len(pairs(wrapped)) == len(pairs(whole))


def cut(text: str) -> list[str]:
    """Every beginning of a sentence of a text."""
    sentences = [sentence.strip() + "." for sentence in text.split(".")]
    return [s[:end].rstrip() for s in sentences for end in range(len(s))]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "One line that says all there is to say",
        "Chapter One\nIt was a dark night, and nobody in the whole town was able to sleep",
        "Of Man's first disobedience, and the fruit\nOf that forbidden tree whose mortal taste\n"
        "\nBrought death into the World, and all our woe, with loss of Eden, till one greater Man",
        "There are things that one needs on a journey:\n- a coat that keeps the rain out of it\n"
        "- a pair of shoes that are not new",
        "The first paragraph, whose only line is longer than what anybody would wrap at, since "
        "it has more than a hundred and twenty characters\nand the second",
        "Everybody who had been there before her said well-\nknown things about the place",
    ],
)
def test_ends_of_lines_that_no_width_explains_stay(text: str) -> None:
    assert unwrapped(text) == text


@pytest.mark.parametrize(
    ("text", "joined"),
    [
        ("All of it was well--\nand then it was not", "All of it was well--and then it was not"),
        ("All of it was well\n—and then was not so", "All of it was well—and then was not so"),
        ("All of it was well –\nand then it was not", "All of it was well – and then it was not"),
        ("  All of it was well and\r\n  then it was not", "All of it was well and then it was not"),
    ],
)
def test_dashes_and_indents_at_ends_of_lines(text: str, joined: str) -> None:
    assert unwrapped(text) == joined


def test_typeset_quotes_and_dashes_are_as_good_as_typed_ones() -> None:
    typed = "'In truth it is -- as he's said -- a long way.' \"They are what we've found there.\""
    typeset = "‘In truth it is – as he’s said — a long way.’ “They are what we’ve found there.”"
    [is_, are] = sorted(agreement([typeset]), key=lambda row: str(row["context"]))
    assert (is_["context"], parts(is_)[0]) == ("In truth it", "is – as he’s said — a long way.")
    assert (are["context"], parts(are)[0]) == ("They", "are what we’ve found there.")
    assert len(agreement([typed])) == 2


def test_scores_of_text_as_it_was_wrapped_are_asked_again_and_of_unwrapped_text_are_not() -> None:
    def record(source: str) -> Record:
        score = Score(
            **{"task": "agreement", "split": "validation", "source": source, "limit": None},
            **{"n": 2, "values": {"acc": 0.5}, "errors": {}, "seconds": 1.0},
        )
        reading = Reading(tokens=1000, val_loss=1.0, val_bpb=1.0, scores=(score,))
        architecture = fit({"vocab_size": 300, "num_blocks": 2}, "100k")
        recipe = Recipe(tokens=1000, precision="fp32")
        run = Run(architecture=architecture, recipe=recipe, data_fingerprint="text")
        return Record(run=run, status=Status.FINISHED, readings=(reading,))

    asked = Evaluation(tasks={"agreement": {"pairs": "agreement", "group": "document"}})
    assert [spec.name for spec in lacking(record("held-out text"), asked)] == ["agreement"]
    assert lacking(record(SOURCE), asked) == []


@pytest.mark.parametrize(
    ("sentence", "counted"),
    [
        ("In the evening they are at home.", True),
        ("Each of the two said these doors are shut.", True),
        ("As if they were in a dream, nobody spoke.", False),  # "he were" is no mistake there
        ("The ends of it are not in sight.", False),  # its subject is `ends`
        ("they are not a sentence", False),
    ],
)
def test_only_clear_subjects_count(sentence: str, counted: bool) -> None:
    singular = ["In the morning it is at home.", "In the morning it was at home."]
    assert bool(agreement([sentence, *singular])) == counted


def test_words_that_come_in_one_order_alone_are_no_contrast() -> None:
    assert word_order(["Near the river he said that all went well."]) == []


def test_pairs_are_a_task_over_the_held_out_text_of_a_run(tmp_path: Path) -> None:
    for i, text in enumerate(texts() * 3):
        (tmp_path / f"{i}.txt").write_text(f"{text}\nNumber {i} is the last line here.")
    data = prepare(
        DataConfig(
            source="text",
            path=str(tmp_path / "*.txt"),
            vocab_size=300,
            validation_fraction=0.5,
            cache=str(tmp_path / "cache"),
        ),
        progress=lambda _: None,
    )
    held_out = held_out_documents(data)
    written = {path.read_text() for path in tmp_path.glob("*.txt")}
    assert 0 < len(held_out) < len(written)
    assert set(held_out) <= written
    spec = TaskSpec(name="agreement", pairs="agreement", group="document")
    [task] = build([spec], "package", tmp_path, lambda: held_out)
    docs = list(task.validation_docs())
    assert docs == agreement(held_out)
    assert [task.doc_to_target(doc) for doc in docs] == [doc["gold"] for doc in docs]
    with pytest.raises(ValueError, match="English prose"):
        build([spec], "package", tmp_path)


def test_a_task_is_either_upstreams_or_pairs() -> None:
    with pytest.raises(ValueError, match="either include or pairs"):
        TaskSpec(name="x")
    with pytest.raises(ValueError, match="agreement, word_order"):
        TaskSpec(name="x", pairs="spelling")
