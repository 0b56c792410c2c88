"""The JSON file in which an export records, in the folder that it fills, which run it belongs to. Knows no format."""

import json
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, BinaryIO, ClassVar

from db.views.run_views import RunView


class FolderRecord:
    """What the records of all formats have; each format's own is a dataclass with this as its base."""

    mark: ClassVar[str]  # a key that no other program writes, by which a file is known as ours
    run: str
    uid: str
    source: str  # path of the run's file or folder
    folded: bool  # whether names that differ only in case have checksums, see `names.mask_path`

    def belongs_to(self, view: RunView) -> bool:
        """Whether the folder has files of this run, or of a deleted run with the same name and source."""
        return self.uid == view.uid or (self.run, self.source) == (view.name, view.source.path)

    @classmethod
    def known(cls, facts: Mapping[str, Any]) -> dict[str, Any]:
        """Facts that are fields of this record."""
        return {field.name: facts[field.name] for field in fields(cls) if field.name in facts}  # type: ignore[arg-type]

    @classmethod
    def is_ours(cls, file: BinaryIO) -> bool:
        """Whether we wrote this file, so that it may be replaced."""
        return _parsed(file.read()).get(cls.mark) is True

    def text(self, facts: Mapping[str, Any]) -> str:
        """The content of the file."""
        return json.dumps({"schema": 1, self.mark: True, **facts}, ensure_ascii=False, indent=1) + "\n"


def read_facts(content: bytes | None) -> dict[str, Any]:
    """The facts of a record with this content; none if there is no content, or it is not ours."""
    return _parsed(content or b"")


def _parsed(content: bytes) -> dict[str, Any]:
    try:
        facts = json.loads(content)
    except (ValueError, RecursionError):
        return {}
    return facts if isinstance(facts, dict) else {}
