"""Minimal pairs from held-out text: a sentence of it, and the same sentence with one mistake.

Small models near chance in every published task still tell these apart. Each contrast (`is` against
`are`, `he said` against `said he`) comes as often with the one form right as with the other, so
that a preference for a form is right half the time: what counts is the rest of the sentence.
"""

import hashlib
import re
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby, pairwise
from typing import Any

LARGEST = 1000
"""Pairs of a kind."""
LARGEST_CONTRAST = 10
"""Pairs of one contrast of word order, so that no common one crowds out the others."""

SOURCE = "held-out text, unwrapped"
"""As scores name it. Those of sentences that were cut at the ends of lines say `held-out text`: the
pairs are others, so that a run is asked again and the two are never compared."""

SENTENCE = re.compile(r"(?<![^\s\"'(“‘])[A-Z][A-Za-z0-9 ,;:'‘’()–—-]+[.!?](?=[\s\"')”’]|$)")
SHORTEST, LONGEST = 5, 40
"""Words of a sentence."""

WIDEST = 120
"""Characters of a line. Text with longer ones is not wrapped."""
WIDER = 20
"""One line of so many may be wider than the width at which the text is wrapped, as a table is."""
NARROWEST = 0.75
"""Lines shorter than this share of the width are verse, headings or addresses."""
FILLED = 0.9
"""A line that the next word would make longer than this share of its paragraph's longest was
wrapped: those who wrap by hand do it unevenly."""
ENDED = re.compile(r"[.!?][\"')”’]*$")
ITEM = re.compile(r"[-*•>|#]\s|\d+[.)]\s|[=~`_*-]{3}")
"""Begins a line that is none of a paragraph."""
DASH = r"(?:--|[–—])"

SINGULAR = "he|she|it|this|(?:a|an|each|every|this) [a-z]+"
PLURAL = "they|we|you|these|those|(?:all|both|many|several|these|those) [a-z]+"
FORMS = (("is", "are"), ("was", "were"), ("has", "have"), ("does", "do"))
"""Verbs after a singular subject, and after a plural one."""
PLACE = re.compile(
    rf"\b(?:(?:{SINGULAR}) (is|was|has|does)|(?:{PLURAL}) (are|were|have|do))\b", re.IGNORECASE
)
UNREAL = re.compile(r"\b(if|as|though|lest|unless|whether|wish|that|let|until|till)\b", re.I)
"""After these an old text has "he were" and "it have" without a mistake."""


@dataclass(frozen=True)
class Pair:
    """A sentence in two versions that differ in one place."""

    contrast: str
    """The two forms, in alphabetical order."""
    document: str
    """Hash of the text that the sentence is from."""
    context: str
    """What comes before the place."""
    right: str
    """The rest of the sentence, as the text has it."""
    wrong: str
    first: bool
    """Whether the right form is the first of the contrast."""


def agreement(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Documents of a task: the verb's number against its subject's.

    Only subjects whose number shows without a parser: pronouns, and nouns after words such as
    `each` and `these`. One pair a sentence; the same for the same texts, whatever their order.
    """
    other = {a: b for pair in FORMS for a, b in (pair, pair[::-1])}
    pairs = []
    for document, sentence in _sentences(texts):
        match = PLACE.search(sentence)
        if match is None or UNREAL.search(sentence[: match.start()]):
            continue
        number = 1 if match[1] else 2
        start, verb = match.start(number), match[number]
        if verb in other:  # in small letters
            pairs.append(
                Pair(
                    contrast="/".join(sorted((verb, other[verb]))),
                    document=document,
                    context=sentence[:start].rstrip(),
                    right=verb + sentence[match.end() :],
                    wrong=other[verb] + sentence[match.end() :],
                    first=verb < other[verb],
                )
            )
    return _documents(pairs, None)


def word_order(texts: Sequence[str]) -> list[dict[str, Any]]:
    """Documents of a task: two neighbouring words, as they stand and swapped.

    Only of words that the texts have in both orders. Right is what the text has: some swaps are
    grammatical as well. One pair a sentence; the same for the same texts, whatever their order.
    """
    found = []
    for document, sentence in _sentences(texts):
        words = list(re.finditer(r"(?<=[ ])[a-z]+(?= )", sentence))
        for one, next_one in pairwise(words):
            if one.end() + 1 == next_one.start() and one[0] != next_one[0]:
                found.append((document, sentence, one.start(), one[0], next_one[0]))
    both = {(a, b) for *_, a, b in found}
    pairs, used = [], set()
    for document, sentence, start, a, b in sorted(found, key=_hash):
        if (b, a) not in both or sentence in used:
            continue
        used.add(sentence)
        rest = sentence[start + len(a) + 1 + len(b) :]
        pairs.append(
            Pair(
                contrast="/".join(sorted((a, b))),
                document=document,
                context=sentence[:start].rstrip(),
                right=f"{a} {b}{rest}",
                wrong=f"{b} {a}{rest}",
                first=a < b,
            )
        )
    return _documents(pairs, LARGEST_CONTRAST)


KINDS = {"agreement": agreement, "word_order": word_order}


def _sentences(texts: Sequence[str]) -> Iterator[tuple[str, str]]:
    """(hash of the text, sentence), each sentence once. Prose alone: code and lists have none."""
    seen = set()
    for text in texts:
        document = _hash(text)
        for match in SENTENCE.finditer(unwrapped(text)):
            sentence = match[0]
            if SHORTEST <= len(sentence.split()) <= LONGEST and sentence not in seen:
                seen.add(sentence)
                yield document, sentence


def unwrapped(text: str) -> str:
    """The text with the lines of a paragraph joined where it was wrapped at a width: where the next
    word would not have fitted. Other ends of lines stay: of verse, lists, headings and sentences,
    and after a hyphen, which may be the word's own or not."""
    lines = [line.strip() for line in text.splitlines()]
    lengths = sorted(map(len, filter(None, lines)))
    width = lengths[-1 - len(lengths) // WIDER] if lengths else 0
    if width > WIDEST:
        return text
    paragraphs = (list(group) for _, group in groupby(lines, key=bool))
    return "\n".join(_joined(paragraph, width) for paragraph in paragraphs)


def _joined(lines: Sequence[str], width: int) -> str:
    """A paragraph of a text that is wrapped at `width`, this one perhaps at a narrower one."""
    own = min(max(map(len, lines)), width)
    room = max(FILLED * own, NARROWEST * width)
    ends = [_end(one, after, room) for one, after in pairwise(lines)]
    return "".join(line + end for line, end in zip(lines, [*ends, ""], strict=True))


def _end(line: str, after: str, room: float) -> str:
    """What stands between a line and the one after it in unwrapped text."""
    fits = len(line) + 1 + len(after.split(" ", 1)[0]) <= room
    if fits or ITEM.match(after) or ENDED.search(line):
        return "\n"
    if re.search(rf"\S{DASH}$", line) or re.match(rf"{DASH}\S", after):
        return ""
    return "\n" if re.search(r"\w-$", line) else " "


def _documents(pairs: Sequence[Pair], largest_contrast: int | None) -> list[dict[str, Any]]:
    """As many of each contrast with the one form right as with the other, in turns, so that any
    even number from the start is balanced; at most LARGEST. The right one's place takes turns."""
    directions: dict[str, tuple[list[Pair], list[Pair]]] = defaultdict(lambda: ([], []))
    for pair in sorted(pairs, key=_hash):
        directions[pair.contrast][not pair.first].append(pair)
    couples = [
        couple
        for first, second in directions.values()
        for couple in list(zip(first, second, strict=False))[: _half(largest_contrast)]
    ]
    rows = []
    for turn, couple in enumerate(sorted(couples, key=_hash)[: LARGEST // 2]):
        for pair in couple:
            gold = turn % 2
            choices = [pair.wrong, pair.right] if gold else [pair.right, pair.wrong]
            rows.append(
                {
                    "contrast": pair.contrast,
                    "document": pair.document,
                    "context": pair.context,
                    "choices": choices,
                    "gold": gold,
                }
            )
    return rows


def _half(number: int | None) -> int | None:
    return None if number is None else number // 2


def _hash(value: Any) -> str:
    return hashlib.sha256(repr(value).encode()).hexdigest()[:16]
