"""Out: a folder that `transformers` loads."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from space.arch import Architecture
from space.files import folder_atomically
from space.hf.card import model_card
from space.hf.config import config_of, read_config
from space.hf.read import find, load
from space.hf.tokenizer import write_json, write_tokenizer
from space.hf.weights import write_weights
from space.model import Decoder
from space.stored import ORIGIN, Stored


def export(
    model: Decoder,
    folder: str | Path,
    tokenizer: Any = None,
    record: Mapping[str, Any] | Any | None = None,
) -> Path:
    """The folder, written as a whole or not at all: configuration, safetensors, tokenizer,
    generation configuration, model card.

    Args:
        model: a decoder; the weights keep their type.
        folder: new, empty, or an earlier export, which is replaced.
        tokenizer: a tokenizer.json, a folder of tokenizer files, a `tokenizers.Tokenizer` or a
            tokenizer of `transformers`.
        record: of the run that made the model, for the card; a mapping or what has `to_dict`.

    Raises:
        ValueError: an architecture that `transformers` has no model for, a folder that holds
            something else, or a tokenizer that cannot be read or does not fit the vocabulary.
    """
    config = config_of(model.arch)
    folder = Path(folder)
    require_replaceable(folder)
    with half_made(folder) as part:
        ends = write_tokenizer(tokenizer, part, model.arch)
        write_json(part / "config.json", config | ends)
        write_json(part / "generation_config.json", ends | {"do_sample": False})
        write_weights(model, part)
        (part / "README.md").write_text(model_card(model.arch, record))
    return folder


def export_model(
    source: str | Path | Stored, folder: str | Path, tokenizer: str | None = None
) -> Path:
    """The export of any model that `load` reads, with its own tokenizer where none is given, and
    its record.

    Raises:
        ValueError: as `load` and `export` do, or there is no tokenizer.
    """
    require_replaceable(Path(folder))
    if isinstance(source, Stored):
        model = load(source)
        return export(model, folder, tokenizer or source.tokenizer(), source.record)
    found = find(source)
    return export(load(found), folder, tokenizer or found)


def write_origin(folder: Path, arch: Architecture, format: str, precision: str) -> None:
    """What a folder without a `config.json` was made of: its architecture, and how weights are
    kept."""
    values = {"format": format, "precision": precision, "architecture": arch.to_dict()}
    write_json(folder / ORIGIN, values)


def require_replaceable(folder: Path) -> None:
    """Raises: ValueError where an export would replace something that is none."""
    if not folder.exists():
        return
    if not folder.is_dir():
        raise ValueError(f"the export must go to a folder, but {folder} is a file; name another")
    earlier = "isoparam" in read_config(folder) or (folder / ORIGIN).is_file()
    if any(folder.iterdir()) and not earlier:
        raise ValueError(
            f"the export's folder must be new, empty or an earlier export, but {folder} holds "
            "something else; name another"
        )


@contextmanager
def half_made(folder: Path) -> Iterator[Path]:
    """A folder beside this one, which takes its place when all went well; all may read it."""
    with folder_atomically(folder) as part:
        yield part
        part.chmod(0o755)
        for path in part.iterdir():
            path.chmod(0o644)
