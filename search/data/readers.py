"""Documents out of files: txt, jsonl and parquet, plain or compressed, and pre-tokenised ones.

Every error names the file and, where there is one, the line.
"""

import glob
import gzip
import io
import json
import lzma
import mmap
import struct
import zlib
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path
from typing import Any, BinaryIO, cast

import numpy as np
import zstandard

Tokens = np.ndarray[Any, np.dtype[np.int64]]

COMPRESSED = (".gz", ".xz", ".zst")
TEXT_KINDS = (".txt", ".jsonl", ".parquet", ".arrow")
TOKEN_KINDS = (".jsonl", ".bin")
TEXT_KEY_HINT = "set data.text_key to the one that holds the text"

SHORTEST_CUT, LONGEST_CUT = 4096, 65536
"""Characters. A txt file is cut into documents at the first blank line after the one, or at the
first line end after the other."""
LLM_C = {20240520: ("<u2", 1), 20240801: ("<u4", 7)}
"""By the first number of llm.c's headers, of 256 int32: the type of what follows, and the second
number, a version. The third says how many tokens."""
LLM_C_HEADER_BYTES = 1024
MEGATRON, MEGATRON_DTYPES = b"MMIDIDX\0\0", {4: "<i4", 5: "<i8", 8: "<u2"}
"""What a Megatron .idx begins with, and what its code of a type says of the .bin beside it."""
UNPACKED = 4
"""Bytes of text that a byte of a compressed file makes, about."""
BLOCK_TOKENS = 8192
"""Length of a document in a .bin file whose end token is not known."""


def find_files(path: str | None, kinds: tuple[str, ...]) -> list[Path]:
    """The files that a file's name, a folder or a glob stands for, in sorted order. In a folder,
    those of the given kinds, at any depth.

    Raises:
        ValueError: no path, or a folder without such files.
        OSError: nothing there.
    """
    if path is None:
        raise ValueError("data.path must say what to read, but is not given; add data.path=…")
    if Path(path).is_dir() and ".arrow" in kinds and (saved := _saved(Path(path))):
        return saved
    if Path(path).is_dir():
        inside = [p for p in Path(path).rglob("*") if p.is_file() and kind(p) in kinds]
        found = [p for p in inside if p.suffix != ".json"]  # such as a tokenizer's
        if not found:
            raise ValueError(
                f"data.path must hold files that end in {', '.join(kinds)} (or these and "
                f"{', '.join(COMPRESSED)}), but {path} has none; name the files themselves"
            )
    else:
        matches = [path] if Path(path).is_file() else glob.glob(path, recursive=True)
        found = [p for p in map(Path, matches) if p.is_file()]
        if not found:
            raise FileNotFoundError(
                f"data.path must be a file, a folder or a glob, but nothing is at {path}; "
                "check the spelling (it is relative to the current folder)"
            )
    return sorted(found)


def _saved(folder: Path) -> list[Path]:
    """The files of a folder that `datasets.Dataset.save_to_disk` left; none where it is no such
    folder.

    Raises:
        ValueError: it holds several data sets, or rows in an order of their own.
    """
    if (folder / "dataset_dict.json").is_file():
        inside = sorted(path.parent.name for path in folder.glob("*/state.json"))
        raise ValueError(
            f"data.path must be one split of a saved data set, but {folder} holds "
            f"{', '.join(inside)}; name the folder of one"
        )
    if not (folder / "state.json").is_file():
        return []
    state = json.loads((folder / "state.json").read_text())
    if state.get("_indices_data_files"):
        raise ValueError(
            f"{folder} must hold its rows in order, but has indices into them; save it again after "
            "flatten_indices()"
        )
    return [folder / each["filename"] for each in state.get("_data_files", [])]


def kind(path: Path) -> str:
    """The suffix that says what is inside, compression aside: `a.jsonl.gz` is .jsonl, and so is
    `a.json.gz`, of lines."""
    suffix = Path(path.stem).suffix if path.suffix in COMPRESSED else path.suffix
    return ".jsonl" if suffix in (".json", ".ndjson") else suffix


Range = tuple[int, int] | None
"""Of a file's bytes or row groups, from the one up to the other; None: all of them."""


def read_text(path: Path, key: str, within: Range = None) -> Iterator[str]:
    """The documents of one file; in jsonl and parquet, the values of `key`. Of a file that
    `ranges` divides, those of a range.

    Raises:
        ValueError: not UTF-8 text, or not of the form that its name says.
    """
    with _naming(path):
        if kind(path) == ".parquet":
            yield from _read_parquet(path, key, within)
        elif kind(path) == ".arrow":
            yield from _read_arrow(path, key)
        elif kind(path) == ".jsonl":
            yield from _values(path, key, within)
        else:
            yield from cut(_lines(path, LONGEST_CUT))


def ranges(path: Path, key: str, size: int) -> list[tuple[Range, int]]:
    """A file in ranges of `size` bytes of text or a little more, each with how many it has, about.
    A file whose documents can only be found from its beginning is one.

    Raises:
        ValueError: not of the form that its name says.
    """
    n_bytes = path.stat().st_size
    if path.suffix in COMPRESSED:
        return [(None, n_bytes * UNPACKED)]
    if kind(path) == ".parquet":
        with _naming(path):
            return _row_groups(path, key, size)
    if kind(path) == ".jsonl" and n_bytes > size:
        return _line_ranges(path, n_bytes, size)
    return [(None, n_bytes)]


def _line_ranges(path: Path, n_bytes: int, size: int) -> list[tuple[Range, int]]:
    """Each begins where a line does."""
    cuts = [0]
    with path.open("rb") as file:
        while cuts[-1] + size < n_bytes:
            file.seek(cuts[-1] + size)
            file.readline()
            cuts.append(file.tell())
    cuts += [n_bytes] * (cuts[-1] < n_bytes)
    return [((start, stop), stop - start) for start, stop in pairwise(cuts)]


def _row_groups(path: Path, key: str, size: int) -> list[tuple[Range, int]]:
    with path.open("rb") as raw:
        table = _parquet(raw, key)
        column = table.schema_arrow.names.index(key)
        groups = [table.metadata.row_group(i) for i in range(table.num_row_groups)]
        if table.metadata.num_columns != len(table.schema_arrow.names):  # some are nested
            sizes = [group.total_byte_size for group in groups]
        else:
            sizes = [group.column(column).total_uncompressed_size for group in groups]
    found: list[tuple[Range, int]] = []
    start = held = 0
    for stop, own in enumerate(sizes, 1):
        held += own
        if held >= size or stop == len(sizes):
            found.append(((start, stop), held))
            start, held = stop, 0
    return found


def _values(path: Path, key: str, within: Range) -> Iterator[str]:
    """Those of a key in lines of JSON. An error says its line, for which all before it are read."""
    try:
        for number, row in _read_jsonl(path, key, TEXT_KEY_HINT, within):
            if not isinstance(row, str | None):
                raise ValueError(f"line {number}: {key!r} must be a string, but is {row!r:.80}")
            yield row or ""  # as in parquet
    except ValueError:
        if within is not None and within[0]:
            for _ in _values(path, key, None):
                pass
        raise


def read_tokens(path: Path, end_token: int | None) -> Iterator[tuple[str, Tokens]]:
    """(where, token ids) of each document: a line of jsonl {"token_ids": […]}, or a stretch of a
    file of little-endian uint16, up to and with its end token.

    Raises:
        ValueError: not of the form that its name says.
    """
    with _naming(path):
        if kind(path) == ".bin":
            yield from _read_bin(path, end_token)
        else:
            for number, row in _read_jsonl(path, "token_ids", "for files of text use data=text"):
                yield f"{path}, line {number}", _token_ids(row, number)


def cut(lines: Iterable[str]) -> Iterator[str]:
    """Running text in documents, cut at blank lines or, lacking those, at line ends, or where a
    line is read in pieces. Together they are the text again, without the white space around
    them."""
    document, length = [], 0
    for line in lines:
        document.append(line)
        length += len(line)
        if length > LONGEST_CUT or (length > SHORTEST_CUT and not line.strip()):
            yield "".join(document).strip()
            document, length = [], 0
    yield "".join(document).strip()


def limited(documents: Iterable[str], max_bytes: int | None) -> Iterator[str]:
    """The documents until they are max_bytes long together; the one that crosses is the last."""
    read = 0
    for document in documents:
        yield document
        read += len(document.encode("utf-8", "replace"))
        if max_bytes is not None and read >= max_bytes:
            return


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Errors of content become a ValueError that names the file."""
    try:
        yield
    except UnicodeDecodeError as error:
        raise ValueError(
            f"{path} must be UTF-8 text, but byte {error.object[error.start]:#04x} is none; "
            "convert it, or name its format by its suffix"
        ) from error
    except (gzip.BadGzipFile, EOFError, zlib.error, lzma.LZMAError, zstandard.ZstdError) as error:
        raise ValueError(
            f"{path} must be a whole {path.suffix} file, but cannot be unpacked ({error}); "
            "fetch it again"
        ) from error
    except ValueError as error:
        raise ValueError(
            error if str(error).startswith(str(path)) else f"{path}: {error}"
        ) from error


def _open(path: Path, within: Range = None) -> BinaryIO:
    """The bytes of a file, unpacked, or those in a range of it."""
    if within is not None:
        with path.open("rb") as file:
            file.seek(within[0])
            return io.BytesIO(file.read(within[1] - within[0]))
    if path.suffix == ".zst":
        return io.BufferedReader(_Zst(path), 1 << 20)
    openers: dict[str, Any] = {".gz": gzip.open, ".xz": lzma.open}
    return cast(BinaryIO, openers.get(path.suffix, open)(path, "rb"))


class _Zst(io.RawIOBase):
    """What a .zst file holds, frame after frame. The library's own reader takes a file that ends
    in the middle of a frame for a whole one."""

    def __init__(self, path: Path) -> None:
        self._file, self._left = path.open("rb"), b""
        self._frame: Any = None
        """Where one has begun and not ended."""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left:
            packed = self._file.read(1 << 18)
            if not packed:
                if self._frame is not None:
                    raise EOFError("it ends in the middle of a frame")
                return 0
            self._left = b"".join(self._unpacked(packed))
        part = self._left[: len(buffer)]
        buffer[: len(part)], self._left = part, self._left[len(part) :]
        return len(part)

    def _unpacked(self, packed: bytes) -> Iterator[bytes]:
        while packed:
            if self._frame is None:
                self._frame = zstandard.ZstdDecompressor().decompressobj()
            yield self._frame.decompress(packed)
            packed = self._frame.unused_data if self._frame.eof else b""
            self._frame = None if self._frame.eof else self._frame

    def close(self) -> None:
        self._file.close()
        super().close()


def _lines(path: Path, longest: int = -1, within: Range = None) -> Iterator[str]:
    """The lines of a text; of one of more than `longest` characters pieces, cut between words
    where there are any."""
    rest = ""
    for piece in _pieces(path, longest, within):
        line = rest + piece
        cut_at = line.rfind(" ") + 1 if len(piece) == longest and piece[-1] != "\n" else 0
        rest = line[cut_at:] if cut_at > len(rest) else ""
        yield line[: len(line) - len(rest)]
    if rest:
        yield rest


def _pieces(path: Path, longest: int, within: Range) -> Iterator[str]:
    encoding = "utf-8" if within is not None and within[0] else "utf-8-sig"
    with _open(path, within) as raw, io.TextIOWrapper(raw, encoding=encoding) as text:
        for line in iter(lambda: text.readline(longest), ""):
            if "\0" in line:
                raise ValueError(
                    "must be text, but has a zero byte, as binary files do; "
                    "name its format by its suffix"
                )
            yield line


def _read_jsonl(path: Path, key: str, hint: str, within: Range = None) -> Iterator[tuple[int, Any]]:
    """(line number, value of the key) of each line that is not blank."""
    for number, line in enumerate(_lines(path, within=within), 1):
        if not line.strip():
            continue
        try:
            row = json.loads(line)
        except json.JSONDecodeError as error:
            raise ValueError(f"line {number} must be JSON, but is not: {error}") from error
        if not isinstance(row, dict) or key not in row:
            keys = ", ".join(row) if isinstance(row, dict) else f"no object: {line.strip():.40}"
            raise ValueError(
                f"line {number} must have the key {key!r}, but has {keys or 'none'}; {hint}"
            )
        yield number, row[key]


def _read_parquet(path: Path, key: str, within: Range) -> Iterator[str]:
    with _open(path) as raw:
        source = io.BytesIO(raw.read()) if path.suffix in COMPRESSED else raw
        table = _parquet(source, key)
        groups = None if within is None else list(range(*within))
        for rows in table.iter_batches(batch_size=1024, columns=[key], row_groups=groups):
            yield from _strings(rows.column(0), key)


def _strings(column: Any, key: str) -> Iterator[str]:
    for value in column.to_pylist():
        if value is not None and not isinstance(value, str):
            raise ValueError(f"column {key!r} must hold strings, but has {value!r:.80}")
        yield value or ""


def _require_column(names: list[str], key: str) -> None:
    if key not in names:
        raise ValueError(
            f"must have the column {key!r}, but has {', '.join(names)}; {TEXT_KEY_HINT}"
        )


def _read_arrow(path: Path, key: str) -> Iterator[str]:
    """As `datasets` leaves them: streams of Arrow's inter-process format."""
    import pyarrow as pa

    with _open(path) as raw:
        try:
            batches = pa.ipc.open_stream(raw)
            _require_column(batches.schema.names, key)
            for rows in batches:
                for start in range(0, len(rows), 1024):
                    yield from _strings(rows.column(key).slice(start, 1024), key)
        except (pa.ArrowInvalid, OSError) as error:
            raise ValueError(f"must be a whole Arrow stream, but is none: {error}") from error


def _parquet(source: Any, key: str) -> Any:
    """A pyarrow.parquet.ParquetFile with this column."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        table = pq.ParquetFile(source)
    except pa.ArrowInvalid as error:
        raise ValueError(f"must be a parquet file, but is none: {error}") from error
    _require_column(table.schema_arrow.names, key)
    return table


def index_beside(path: Path) -> Path | None:
    """The .idx of a .bin file, where there is one."""
    index = path.with_suffix(".idx")
    return index if path.suffix == ".bin" and index.is_file() else None


def _megatron(path: Path, index: Path) -> tuple[Any, list[int]]:
    """The ids, and between which of them documents lie, as a Megatron index says: magic, version,
    code of the type, how many sequences and boundaries there are; the sequences' lengths and
    places, and the boundaries of documents in sequences (megatron/core/datasets/readme.md)."""
    head = index.read_bytes()[:34]
    version, code, n, n_bounds = struct.unpack("<QBQQ", head[9:]) if len(head) == 34 else [0] * 4
    dtype = np.dtype(MEGATRON_DTYPES.get(code, "V"))
    if head[:9] != MEGATRON or version != 1 or not dtype.itemsize:
        raise ValueError(
            f"the index beside it, {index.name}, must be Megatron's, version 1, of int32, int64 or "
            f"uint16, but is none; move it away if the .bin file is to be read without"
        )
    whole = index.stat().st_size == 34 + 12 * n + 8 * n_bounds
    if whole:
        lengths = np.fromfile(index, "<i4", n, offset=34)
        places = np.fromfile(index, "<i8", n, offset=34 + 4 * n)
        bounds = np.fromfile(index, "<i8", n_bounds, offset=34 + 12 * n)
        starts = np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)])
        whole = (
            bool((places == starts[:-1] * dtype.itemsize).all() and (np.diff(bounds) >= 0).all())
            and path.stat().st_size == starts[-1] * dtype.itemsize
            and len(bounds) > 0
            and (bounds[0], bounds[-1]) == (0, n)
        )
    if not whole:
        raise ValueError(
            f"must be what its index {index.name} says, sequence after sequence, but is not; are "
            "both complete and of one data set?"
        )
    if not starts[-1]:
        return np.empty(0, dtype), []
    tokens = np.memmap(path, dtype=dtype, mode="r")
    return tokens, starts[bounds].tolist()


def _read_bin(path: Path, end_token: int | None) -> Iterator[tuple[str, Tokens]]:
    if (index := index_beside(path)) is not None:
        tokens, bounds = _megatron(path, index)
        for start, end in pairwise(bounds):
            yield f"{path}, token {start}", tokens[start:end].astype(np.int64)
        return
    if path.stat().st_size % 2:
        raise ValueError("must hold two bytes per token, but has an odd size; is it complete?")
    if not path.stat().st_size:
        return
    tokens = _stored(path)
    if end_token is None:
        ends = np.arange(BLOCK_TOKENS, len(tokens), BLOCK_TOKENS)
    else:
        ends = np.flatnonzero(tokens == end_token) + 1
    start = 0
    for end in [*ends.tolist(), len(tokens)]:
        if end > start:
            yield f"{path}, token {start}", tokens[start:end].astype(np.int64)
        start = end


def stored_tokens(path: Path) -> Any:
    """The ids of a .bin file as they are stored: (n,), memory-mapped.

    Raises:
        ValueError: it is none, or holds no tokens, or not what its header or index says.
    """
    with _naming(path):
        if path.suffix != ".bin":
            raise ValueError("must be a .bin file of token ids to be used where it lies")
        if not (size := path.stat().st_size) or size % 2:
            raise ValueError("must hold two bytes per token, but is empty or of an odd size")
        index = index_beside(path)
        tokens = _stored(path) if index is None else _megatron(path, index)[0]
        if not len(tokens):
            raise ValueError("must hold tokens to be used where it lies, but is empty")
        return tokens


def mapped(path: str | Path, dtype: str, offset: int = 0, count: int = -1) -> Any:
    """The tokens of a file, of which no more is read than is asked for: windows lie anywhere in it,
    and what the system reads ahead of each would be thrown away."""
    with open(path, "rb") as file:
        content = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)
    if hasattr(mmap, "MADV_RANDOM"):
        content.madvise(mmap.MADV_RANDOM)
    return np.frombuffer(content, dtype, count, offset)


def _stored(path: Path) -> Any:
    """The ids of a .bin file, of two bytes each; with a header of llm.c as that says.

    Raises:
        ValueError: its ids have four bytes.
    """
    head = np.fromfile(path, dtype="<i4", count=3)
    if len(head) == 3 and int(head[0]) in LLM_C:
        dtype, version = LLM_C[int(head[0])]
        if head[1] != version:
            raise ValueError(
                f"must have version {version} in its header of llm.c, but has {head[1]}; write it "
                "by a newer llm.c, or without a header"
            )
        stored = np.memmap(path, dtype=dtype, mode="r", offset=LLM_C_HEADER_BYTES)
        if len(stored) != head[2]:
            raise ValueError(
                f"must hold the {head[2]} tokens that its header says, but has {len(stored)}; is "
                "it complete?"
            )
        return stored
    tokens = np.memmap(path, dtype="<u2", mode="r")
    sample = tokens[: 1 << 20]
    high, low = sample[1::2], sample[::2]
    # Ids of four bytes: every second pair of bytes is next to nothing, the others are not.
    if len(high) > 8 and np.mean(high < 16) > 0.99 and np.mean(low[: len(high)] < 16) < 0.9:
        raise ValueError(
            "must hold two bytes per token, but seems to hold four; write it as little-endian "
            "uint16, or as jsonl of token_ids where the vocabulary is larger"
        )
    return tokens


def _token_ids(row: Any, number: int) -> Tokens:
    try:
        tokens = np.asarray(row)
    except ValueError:  # lists of unequal length within the list
        tokens = np.empty((0, 0))
    if tokens.ndim != 1 or (tokens.size and tokens.dtype.kind != "i"):
        raise ValueError(f"line {number}: 'token_ids' must be a list of integers")
    return tokens.astype(np.int64)
