"""What an earlier run has read is left out, without a byte of it being read; what changed is read again."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

from batchinfer.services import previewing
from batchinfer.store import unchanged

if TYPE_CHECKING:
    import pytest

    from tests.sources.conftest import Night

NAMES = ("a.pdf", "b/c.pdf", "d.pdf")


def test_a_second_run_over_unchanged_files_reads_nothing(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    night.write(*NAMES)
    first = night.declare()
    night.read_all(first, pages=2)
    opened: list[Any] = []
    for module, name in ((os, "open"), (Path, "open")):
        original = getattr(module, name)
        monkeypatch.setattr(module, name, lambda *a, _of=original, **k: opened.append(a) or _of(*a, **k))
    second = night.declare()
    night.list()
    monkeypatch.undo()
    assert not [one for one in opened if str(night.folder) in str(one[0])]
    rows = night.documents(second)
    assert [(row.stage, row.same_as, row.pages) for row in rows] == [
        ("skipped", row.id, 2) for row in night.documents(first)
    ]
    run = night.get(second)
    assert (run.counts.documents, run.counts.skipped, night.is_open(second)) == (3, 3, 0)
    assert [row.id for row in night.rows("SELECT id FROM queue WHERE kind = 'export'")] == [first, second]


def test_what_changed_is_read_again_and_the_rest_is_not(night: Night, folder: Path) -> None:
    night.write(*NAMES)
    first = night.declare()
    night.read_all(first)
    (folder / "a.pdf").write_bytes(b"%PDF-1.4 longer")
    os.utime(folder / "b/c.pdf", (1, 1))
    night.write("new.pdf")
    second = night.declare()
    night.list()
    stages = {row.filename: row.stage for row in night.documents(second)}
    assert stages == {"a.pdf": "queued", "b/c.pdf": "queued", "d.pdf": "skipped", "new.pdf": "queued"}
    assert night.is_open(second) == 3


def test_a_changed_prompt_or_model_redoes_everything(night: Night) -> None:
    night.write(*NAMES)
    night.read_all(night.declare())
    run_id = night.declare(prompt="Read it well.")
    night.list()
    assert night.get(run_id).counts.skipped == 0
    night.rows("UPDATE models SET revision = 'r2'")
    run_id = night.declare()
    night.list()
    assert night.get(run_id).counts.skipped == 0


def test_incremental_off_reads_everything_again(night: Night) -> None:
    night.write(*NAMES)
    night.read_all(night.declare())
    run_id = night.declare(incremental="off")
    night.list()
    assert night.get(run_id).counts.skipped == 0


def test_a_document_whose_results_are_gone_is_read_again(night: Night) -> None:
    night.write(*NAMES)
    first = night.declare()
    night.read_all(first)
    rows = night.documents(first)
    night.rows("UPDATE results SET finish_reason = 'deleted' WHERE job_id IN "
               "(SELECT id FROM jobs WHERE document_id = :id)", id=rows[0].id)  # fmt: skip
    night.rows("DELETE FROM jobs WHERE document_id = :id", id=rows[1].id)
    second = night.declare()
    night.list()
    assert [row.stage for row in night.documents(second)] == ["queued", "queued", "skipped"]


def test_the_same_bytes_are_known_by_their_hash(night: Night) -> None:
    night.write("a.pdf", "b.pdf")
    first = night.declare()
    night.read_all(first, pages=3)
    one, other = night.documents(first)
    recipe = night.get(first).recipe or ""

    def find(**changed: str) -> unchanged.Same | None:
        asked = {"recipe": recipe, "uri": one.uri, "sha256": "0" * 64, **changed}
        with night.ctx.db.transaction() as tx:
            return unchanged.find_same_content(tx, tenant_id=one.tenant_id, **asked)

    assert find() == unchanged.Same(one.id, 3)
    assert find(uri=other.uri) == unchanged.Same(other.id, 3)
    assert find(sha256="1" * 64) is None
    assert find(recipe="another") is None
    assert find(uri=one.uri + "x") is None


def test_a_preview_says_what_would_be_read_and_why(night: Night) -> None:
    night.write(*NAMES)
    body = night.body()
    del body["sinks"]

    def preview(body: dict[str, Any]) -> dict[str, Any]:
        return previewing.preview_run(night.ctx, night.caller, body)

    before = preview(body)
    assert (before["documents"], before["bytes"], before["unchanged"], before["redone"]) == (3, 24, 0, 0)
    assert before["reason"].endswith("3 are read.")
    assert night.kinds() == {}
    night.read_all(night.declare())
    night.write("new.pdf")
    after = preview(body)
    assert (after["documents"], after["unchanged"], after["redone"], after["complete"]) == (4, 3, 0, True)
    changed = preview({**body, "pipeline": {**body["pipeline"], "prompt": "Read it well.", "render": {"dpi": 200}}})
    assert (changed["unchanged"], changed["redone"]) == (0, 3)
    assert "the prompt" in changed["reason"]
    assert "`render`" in changed["reason"]


def test_a_preview_is_bounded(night: Night, monkeypatch: pytest.MonkeyPatch) -> None:
    night.write(*(f"{i}.pdf" for i in range(12)))
    monkeypatch.setattr(previewing, "MOST_DOCUMENTS", 10)
    body = night.body()
    del body["sinks"]
    found = previewing.preview_run(night.ctx, night.caller, body)
    assert (found["documents"], found["complete"]) == (10, False)
    assert found["reason"].startswith("Of the first 10 documents")
