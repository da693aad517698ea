"""Text to prepare."""

import json
import random
from pathlib import Path


def prose(n_documents: int = 60, seed: int = 0) -> list[str]:
    """Documents of made-up words, all different."""
    rng = random.Random(seed)
    words = ["".join(rng.choices("abcdefghij é", k=rng.randint(2, 8))) for _ in range(200)]
    return [f"{i}: " + " ".join(rng.choices(words, k=120)).strip() for i in range(n_documents)]


def write_jsonl(path: Path, texts: list[str], key: str = "text") -> Path:
    path.write_text("".join(json.dumps({key: text}) + "\n" for text in texts))
    return path
