"""`data=hf`: a data set of the Hugging Face hub, streamed; a local folder of files will do."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from search.data.corpora import Kind
from search.data.hashes import FileHashes


@dataclass(frozen=True, kw_only=True)
class HubDataset:
    """Rows of one split of a data set."""

    kind: ClassVar[Kind] = "text"
    name: str | None = None
    subset: str | None = None
    split: str = "train"
    revision: str | None = None
    text_key: str = "text"

    def __post_init__(self) -> None:
        if self.name is None:
            raise ValueError("data.name must name a data set of the hub; add data.name=…")

    def identity(self, hashes: FileHashes) -> Any:
        """What is asked of the hub: its content is as fixed as `revision` makes it. Of a local
        folder, the content of its files."""
        files = sorted(path for path in Path(str(self.name)).rglob("*") if path.is_file())
        content = hashes.of(files) if files else self.name
        return [content, self.subset, self.split, self.revision, self.text_key]

    def documents(self) -> Iterator[str]:
        """In the order of the data set."""
        for number, row in enumerate(self._rows()):
            if self.text_key not in row or not isinstance(row[self.text_key], str | None):
                raise ValueError(
                    f"row {number} of {self.name} must have text under {self.text_key!r}, but has "
                    f"the columns {', '.join(row)}; set data.text_key"
                )
            yield row[self.text_key] or ""

    def _rows(self) -> Any:
        from datasets import load_dataset
        from datasets.exceptions import DatasetsError

        try:
            return load_dataset(
                self.name, self.subset, split=self.split, revision=self.revision, streaming=True
            )
        except (DatasetsError, OSError, ValueError) as error:
            raise ValueError(
                f"data.name must be a data set that can be loaded, but {self.name!r} with subset "
                f"{self.subset!r} and split {self.split!r} cannot: {' '.join(str(error).split())}"
            ) from error


CORPUS = HubDataset
