"""What a migration must keep to (docs/upgrading.md), of all that came since the last release: code of before goes on
working on the new schema, and nobody is kept waiting."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from batchinfer.store import migrate
from batchinfer.store.partitions import PARTITIONED
from bench.chaos.released import find_release

#: Large, or written by every claim and result.
_HOT = "|".join((*PARTITIONED, "queue", "documents", "leases"))
RULES = {
    "a column or table goes": r"\bDROP (COLUMN|TABLE)\b",
    "something is renamed that code names": r"\bALTER TABLE\b[^;]*\bRENAME\b",
    "a column changes its type": r"\bALTER COLUMN \w+ (SET DATA )?TYPE\b",
    "a column that old code leaves empty may not be":
        r"\bSET NOT NULL\b|\bADD COLUMN \w+ (?![^,;]*\bDEFAULT\b)[^,;]*\bNOT NULL\b",
    "old code that leaves it out fails": r"\bDROP DEFAULT\b",
    "rows are held against a rule under a lock": r"\bADD CONSTRAINT\b(?![^;]*\bNOT VALID\b)",
    "an index keeps writers waiting": rf"\bCREATE (UNIQUE )?INDEX (?!CONCURRENTLY)\S+ ON ({_HOT})\b",
    "every row is written anew": rf"\bUPDATE ({_HOT}) SET\b",
}  # fmt: skip
#: Of a table that the same migration makes nothing can be in anybody's way.
_MADE = re.compile(r"CREATE TABLE (\w+) \((.*?)^\);", re.DOTALL | re.MULTILINE)


def find_breaches(source: str) -> list[str]:
    """The rules that a migration breaks."""
    rest = _MADE.sub("", source)
    return [name for name, pattern in RULES.items() if re.search(pattern, rest, re.IGNORECASE)]


def list_newer() -> list[Path]:
    head = find_release().head()
    files = sorted((migrate.find_folder() / "versions").glob("[0-9]*.py"))
    return [file for file in files if file.name.partition("_")[0] > head]


@pytest.mark.parametrize("file", list_newer(), ids=lambda file: file.stem)
def test_a_migration_since_the_last_release_harms_nobody(file: Path) -> None:
    assert find_breaches(file.read_text()) == []


@pytest.mark.parametrize(
    ("statement", "broken"),
    [
        ("ALTER TABLE jobs DROP COLUMN model;", True),
        ("ALTER TABLE jobs RENAME COLUMN model TO name;", True),
        ("ALTER TABLE keys ALTER COLUMN scopes TYPE JSONB;", True),
        ("ALTER TABLE keys ADD COLUMN owner TEXT NOT NULL;", True),
        ("ALTER TABLE keys ADD COLUMN owner TEXT DEFAULT '' NOT NULL, ADD COLUMN note TEXT;", False),
        ("CREATE INDEX ix_jobs_model ON jobs (model);", True),
        ("CREATE INDEX CONCURRENTLY ix_leases_host ON leases (host);", False),
        ("CREATE TABLE new (\n    id UUID NOT NULL\n);\nCREATE INDEX ix_new ON new (id);", False),
        ("UPDATE results SET engine = '';", True),
    ],
)
def test_the_rules_see_what_they_are_for(statement: str, broken: bool) -> None:
    assert bool(find_breaches(statement)) is broken
