"""Teachers: models whose predictions a run learns, besides or instead of the text's next token.

A recipe names one by its run's key (of a run under `runs/`), by the folder of a run that kept its
weights, or by the folder of an export. It is kept as `FOLDER@digest`, and run keys hold the digest.
"""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

from search.models import is_run, stored_run, without_weights
from search.runs import read_asked
from space.arch import Architecture
from space.cost import cost
from space.doors import Changed
from space.stored import Stored

if TYPE_CHECKING:
    from search.data.packed import Data
    from search.recipe import Recipe
    from search.train.placement import Placement

RUNS = Path("runs")
"""Where a teacher is sought that is given by its key alone."""
CONFIG, WEIGHTS = "config.json", "*.safetensors"
"""Of an export."""


def pinned(name: str) -> str:
    """`FOLDER@digest` of a teacher that is there; what is pinned already stays.

    Raises:
        ValueError: there is no such model.
    """
    if not name or "@" in name:
        return name
    folders = (Path(name), RUNS / name)
    folder = next((f for f in folders if _is_model(f)), None)
    if folder is None and (run := next(filter(is_run, folders), None)) is not None:
        raise without_weights(run)
    if folder is None:
        raise ValueError(
            "teacher must be the key of a run under runs/, or the folder of a run or of an export, "
            f"with weights, but got {name!r}; check the spelling"
        )
    return f"{folder}@{_digest(folder)}"


def _is_model(folder: Path) -> bool:
    config = is_run(folder) or (folder / CONFIG).is_file()
    return config and any(folder.glob(WEIGHTS))


def _digest(folder: Path) -> str:
    files = sorted(folder.glob(WEIGHTS))
    return _digest_of(folder, tuple((f, f.stat().st_size, f.stat().st_mtime_ns) for f in files))


@lru_cache(maxsize=64)
def _digest_of(folder: Path, files: tuple[tuple[Path, int, int], ...]) -> str:
    found = hashlib.sha256(json.dumps(architecture(folder).canonical()).encode())
    for path, _, _ in files:
        with path.open("rb") as file:
            found.update(hashlib.file_digest(file, "sha256").digest())
    return found.hexdigest()[:16]


def architecture(folder: Path) -> Architecture:
    """A teacher's."""
    if is_run(folder):
        return Architecture.from_dict(read_asked(folder)["architecture"])
    from space.hf.config import architecture_from_config

    return architecture_from_config(json.loads((folder / CONFIG).read_text()))


def architecture_of(name: str) -> Architecture:
    """A pinned teacher's."""
    return architecture(_folder(name))


def forward_flops(name: str, seq_len: int) -> int:
    """Of a pinned teacher, per token."""
    return cost(architecture_of(name), seq_len).forward_flops_per_token


def source(name: str) -> Path | Stored:
    """A pinned teacher as `space.hf.load` takes it.

    Raises:
        Changed: it is not what it was.
        ValueError: it is not there.
    """
    folder = _folder(name)
    if _digest(folder) != name.rpartition("@")[2]:
        raise Changed(
            f"teacher {folder} must be as it was, but has changed; restore it, or start anew"
        )
    return stored_run(folder, "") if is_run(folder) else folder


def _folder(name: str) -> Path:
    folder = Path(name.rpartition("@")[0])
    if not _is_model(folder):
        raise ValueError(f"teacher {folder} must be there with its weights, but is not; restore it")
    return folder


def require(recipe: "Recipe", data: "Data", placement: "Placement") -> None:
    """Raises: ValueError where a recipe's teacher cannot teach a run on these data, so placed."""
    if not recipe.teacher:
        return
    folder = _folder(recipe.teacher)
    if placement.engine == "kernels":
        raise ValueError(
            "placement.engine=kernels must be possible, but the kernels know no teacher; use auto"
        )
    if (size := architecture(folder).vocab_size) != data.vocab_size:
        raise ValueError(
            f"a teacher must have the data's vocabulary of {data.vocab_size}, but {folder} has one "
            f"of {size}; choose a teacher that was trained on these data"
        )
    if _tokens(folder, data) is False:
        raise ValueError(
            f"a teacher must read the tokens of these data, but {folder} was trained on others "
            f"of as large a vocabulary; choose one that was trained on data {data.fingerprint}"
        )


def _tokens(folder: Path, data: "Data") -> bool | None:
    """Whether a teacher reads these data's tokens; None where neither says what they stand for."""
    if is_run(folder):
        return bool(read_asked(folder)["data_fingerprint"] == data.fingerprint)
    path = folder / "tokenizer.json"
    if data.tokenizer is None or not path.is_file():
        return None
    return bool(_vocabulary(path) == _vocabulary(data.tokenizer))


def _vocabulary(path: Path) -> Any:
    return json.loads(path.read_text())["model"]["vocab"]
