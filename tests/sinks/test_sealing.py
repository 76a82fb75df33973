"""Shards are written whole, the same each time, where they may be, and nothing that failed is left out."""

from __future__ import annotations

import csv
import errno
import hashlib
import json
from pathlib import Path

import pytest

from batchinfer.domain.retries import RetryClass, classify_error
from batchinfer.domain.sinks import parse_sinks
from batchinfer.domain.webhooks import find_reach, parse_endpoint
from batchinfer.errors import BadRequest, FetchFailed, Unavailable
from batchinfer.media import sinks as media
from batchinfer.services import sealing, userfiles, webhooks
from batchinfer.services.sealing import check_sinks
from batchinfer.store.claims import EXPORT
from batchinfer.store.userfiles import list_files

SCHEMA = {
    "type": "json_schema",
    "json_schema": {"name": "x", "schema": {"type": "object", "properties": {"total": {}, "note": {}, "page": {}}}},
}


def read_tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


def read_lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def test_a_shard_is_queued_once_it_is_full_and_written_to_every_sink(make_night, out):
    night = make_night({"type": "jsonl", "uri": str(out)}, {"type": "markdown", "uri": str(out)})
    night.close("a/one.pdf", ("ok", "first"), ("failed", "invalid_output"), ("blank", ""))
    assert night.take() == []
    night.close("two.pdf", ("fallback", "from the file"))
    night.close("three.pdf", ("ok", "third"))
    assert night.seal() == 1
    (shard,) = night.shards()
    assert (shard.number, shard.first, shard.last, shard.sealed_at is not None) == (1, 1, 2, True)
    folder = out / night.shown_id
    lines = read_lines(folder / "pages-00001.jsonl")
    assert [(line["document"]["name"], line["page"], line["outcome"], line["text"]) for line in lines] == [
        ("a/one.pdf", 1, "ok", "first"),
        ("a/one.pdf", 2, "failed", None),
        ("a/one.pdf", 3, "blank", ""),
        ("two.pdf", 1, "fallback", "from the file"),
    ]
    assert lines[1]["error"] == {"code": "invalid_output", "message": "It ended with invalid_output."}
    assert lines[0]["usage"]["prompt_tokens"] == 10
    assert lines[0]["revision"] == "r1"
    one = (folder / "a/one.pdf.md").read_text()
    assert "first" in one
    assert "**This page failed** (invalid_output)" in one
    assert "Nothing is on this page." in one
    for file in shard.files:
        raw = (folder / file["name"]).read_bytes()
        assert (file["bytes"], file["sha256"]) == (len(raw), hashlib.sha256(raw).hexdigest())
        assert (file["documents"], file["pages"]) == (2, 4)
    index = read_lines(folder / "_index/documents-00001.jsonl")
    assert [entry["name"] for entry in index] == ["a/one.pdf.md", "two.pdf.md"]
    assert index[0]["sha256"] == hashlib.sha256(one.encode()).hexdigest()


def test_sealing_again_makes_the_same_bytes(make_night, out):
    kinds = ("jsonl", "csv", "parquet", "markdown")
    night = make_night(*({"type": kind, "uri": str(out)} for kind in kinds), form=SCHEMA)
    night.close("one.pdf", ("ok", '{"total": 5, "note": "x"}'), ("ok", "no JSON"))
    night.close("two.pdf", ("ok", '{"total": null, "note": {"a": [1]}, "page": true}'))
    night.seal()
    first = read_tree(out)
    night.execute("UPDATE shards SET sealed_at = NULL, files = '[]'")
    with night.ctx.db.transaction() as tx:
        assert len(sealing.store.seal_again(tx, night.run_id)) == 1
    assert night.seal() == 1
    assert read_tree(out) == first
    assert len(first) == 3 + 2 + 1


def test_a_worker_that_was_lost_between_writing_and_committing_harms_nothing(make_night, out):
    night = make_night({"type": "jsonl", "uri": str(out)})
    night.close("one.pdf", ("ok", "1"))
    night.close("two.pdf", ("ok", "2"))
    (claim,) = night.take()

    def lost(_action):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        sealing.seal_shard(night.ctx, claim, night.scratch, lost, lambda: True)
    before = read_tree(out)
    assert list(before) == [f"{night.shown_id}/pages-00001.jsonl"]
    night.execute("UPDATE queue SET state = 'queued', lease_id = NULL WHERE id = :id", id=claim.id)
    assert night.seal() == 1
    assert read_tree(out) == before
    assert not sealing._finish(night.ctx, claim, None), "the lost one comes back too late"
    assert list(night.scratch.iterdir()) == []


def test_a_shard_that_nobody_wants_any_more_leaves_nothing_half(make_night, out):
    night = make_night({"type": "markdown", "uri": str(out)})
    night.close("one.pdf", ("ok", "1"))
    night.close("two.pdf", ("ok", "2"))
    (claim,) = night.take()
    assert not sealing.seal_shard(night.ctx, claim, night.scratch, lambda action: action(), lambda: False)
    assert read_tree(out) == {}


def test_a_document_that_failed_before_it_had_pages_has_a_line(make_night, out):
    night = make_night({"type": "jsonl", "uri": str(out)}, {"type": "csv", "uri": str(out)})
    night.close("locked.pdf", outcome="failed", error={"code": "encrypted", "message": "It is encrypted."})
    night.close("half.pdf", ("ok", "1"), outcome="failed", error={"code": "invalid_document", "message": "Broken."})
    night.seal()
    lines = read_lines(out / night.shown_id / "pages-00001.jsonl")
    assert [(line["page"], line["outcome"], (line["error"] or {}).get("code")) for line in lines] == [
        (None, "failed", "encrypted"),
        (1, "ok", None),
        (None, "failed", "invalid_document"),
    ]
    assert night.shards()[0].files[0]["pages"] == 1


def test_cells_cannot_become_formulas(make_night, out):
    night = make_night({"type": "csv", "uri": str(out)}, form=SCHEMA)
    night.close("=cmd|'/c calc'!A0.pdf", ("ok", '{"total": -5, "note": "=1+1", "page": "@x"}'))
    night.close("b.pdf", ("ok", "+1"), ("ok", "-1,\n2"), ("ok", "\t=1"), ("ok", 'a "quoted" word'))
    night.seal()
    raw = (out / night.shown_id / "pages-00001.csv").read_bytes().decode()
    head, *rows = csv.reader(raw.splitlines(keepends=True))
    cells = [dict(zip(head, row, strict=True)) for row in rows]
    assert cells[0]["document"].startswith("'=cmd")
    assert (cells[0]["total"], cells[0]["note"], cells[0]["answer_page"]) == ("-5", "'=1+1", "'@x")
    assert [cell["text"] for cell in cells[1:]] == ["'+1", "'-1,\n2", "'\t=1", 'a "quoted" word']


def test_parquet_is_read_back(make_night, out):
    parquet = pytest.importorskip("pyarrow.parquet")
    night = make_night({"type": "parquet", "uri": str(out)}, form=SCHEMA)
    night.close("one.pdf", *((("ok", f'{{"total": {n}, "note": "n{n}"}}')) for n in range(450)))
    night.close("two.pdf", ("failed", "invalid_output"))
    night.seal()
    table = parquet.read_table(out / night.shown_id / "pages-00001.parquet")
    assert table.num_rows == 451
    rows = table.to_pylist()
    assert (rows[449]["page"], rows[449]["total"], rows[449]["note"]) == (450, "449", "n449")
    assert (rows[450]["outcome"], rows[450]["error_code"], rows[450]["text"]) == ("failed", "invalid_output", None)


BAD_NAMES = [
    "../../etc/passwd", "/etc/passwd", "a/../../b", "..\\..\\b", "C:\\x", "a\nb\x01c\x1b[31m", ".hidden/.x",
    "\u202efdp.exe", "", "a" * 300, "\u00e9" * 200, "/".join("d" * 100 for _ in range(40)), "a:b", "a_b", "~", "a~2",
    "con", " ", "x/", "?",
]  # fmt: skip


def test_names_never_leave_the_folder_nor_become_one(make_night, out):
    names = BAD_NAMES
    night = make_night({"type": "markdown", "uri": str(out), "documents_per_shard": len(names)})
    for number, name in enumerate(names):
        night.close(name, ("ok", f"text {number}"))
    night.seal()
    tree = {name: raw for name, raw in read_tree(out / night.shown_id).items() if name.endswith(".md")}
    assert sorted(raw.decode().rsplit("text ", 1)[1].strip() for raw in tree.values()) == sorted(
        str(number) for number in range(len(names))
    )
    assert [path.name for path in out.iterdir()] == [night.shown_id]
    assert all(part.isprintable() and not part.startswith(".") for name in tree for part in name.split("/"))


def test_two_documents_with_one_name_get_files_of_their_own(make_night, out):
    night = make_night({"type": "markdown", "uri": str(out)}, source={"urls": ["https://example.org/a.pdf"]})
    night.close("a.pdf", ("ok", "one"))
    night.close("b.pdf", ("ok", "other"))
    night.close("a.pdf", ("ok", "two"))
    night.close("a.pdf", ("ok", "three"))
    assert night.seal() == 2
    tree = {name: raw.decode() for name, raw in read_tree(out / night.shown_id).items() if name.endswith(".md")}
    assert sorted(tree) == ["a.pdf.md", "a.pdf~3.md", "a.pdf~4.md", "b.pdf.md"]
    assert tree["a.pdf~4.md"].rstrip().endswith("three")


def test_a_link_out_of_the_folder_is_not_followed(make_night, out, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    night = make_night({"type": "markdown", "uri": str(out)})
    (out / night.shown_id).mkdir()
    (out / night.shown_id / "sub").symlink_to(outside)
    night.close("sub/a.pdf", ("ok", "one"))
    night.close("b.pdf", ("ok", "two"))
    (claim,) = night.take()
    with pytest.raises(FetchFailed) as raised:
        sealing.seal_shard(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    assert raised.value.code == "sink_refused"
    assert list(outside.iterdir()) == []


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_is_named_on_the_run_and_waited_for(make_night, out, monkeypatch, number):
    night = make_night({"type": "jsonl", "uri": str(out)})
    night.close("a.pdf", ("ok", "one"))
    night.close("b.pdf", ("ok", "two"))
    (claim,) = night.take()

    def full(*_):
        raise OSError(number, "no space at /secret/place")

    monkeypatch.setattr(media.shutil, "copyfileobj", full)
    with pytest.raises(Unavailable) as raised:
        sealing.seal_shard(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    assert classify_error(raised.value) is RetryClass.INFRASTRUCTURE
    assert "/secret" not in raised.value.message
    assert night.run.cause == {"code": "sink_full", "message": raised.value.message, "shard": 1}
    assert read_tree(out) == {}
    night.fail(claim, raised.value, RetryClass.INFRASTRUCTURE)
    monkeypatch.undo()
    assert night.seal() == 1
    assert night.run.cause is None
    assert len(read_tree(out)) == 1


def test_a_full_disk_of_the_worker_is_waited_for_too(make_night, out, monkeypatch):
    night = make_night({"type": "jsonl", "uri": str(out)})
    night.close("a.pdf", ("ok", "one"))
    night.close("b.pdf", ("ok", "two"))
    (claim,) = night.take()

    def full(*_):
        raise OSError(errno.ENOSPC, "no")

    monkeypatch.setattr(sealing, "open_writer", full)
    with pytest.raises(Unavailable) as raised:
        sealing.seal_shard(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    assert (raised.value.code, night.run.cause["code"]) == ("sink_unavailable", "sink_unavailable")
    assert list(night.scratch.iterdir()) == []


def test_a_folder_that_vanished_or_is_closed_is_told_so(make_night, out):
    night = make_night({"type": "jsonl", "uri": f"{out}/sub"})
    night.close("a.pdf", ("ok", "one"))
    night.close("b.pdf", ("ok", "two"))
    (claim,) = night.take()
    with pytest.raises(FetchFailed) as raised:
        sealing.seal_shard(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    assert (raised.value.code, classify_error(raised.value)) == ("sink_refused", RetryClass.TRANSIENT)
    assert night.run.cause["code"] == "sink_refused"
    with pytest.raises(FetchFailed, match="may not be written to"):
        media._raise_for(PermissionError(errno.EACCES, "no"))


def test_without_an_address_shards_are_files_of_ours(make_night):
    night = make_night({"type": "jsonl"})
    night.close("a.pdf", ("ok", "one"))
    night.close("b.pdf", ("ok", "two"))
    night.seal()
    with night.ctx.db.transaction() as tx:
        (file,) = list_files(tx, night.caller.tenant_id)
    _, pieces = userfiles.open_file(night.ctx, night.caller, file.id)
    assert [json.loads(line)["text"] for line in b"".join(pieces).splitlines()] == ["one", "two"]
    assert night.shards()[0].files[0]["file_id"].removeprefix("file-") == file.id.hex


def test_a_run_of_many_pages_is_read_piece_by_piece(make_night, out, monkeypatch):
    monkeypatch.setattr(sealing, "_PAGES", 7)
    monkeypatch.setattr(sealing, "_DOCUMENTS", 3)
    night = make_night({"type": "jsonl", "uri": str(out), "documents_per_shard": 10})
    for number in range(10):
        night.close(f"{number}.pdf", *(("ok", f"{number}.{page}") for page in range(number * 2)))
    night.seal()
    texts = [line["text"] for line in read_lines(out / night.shown_id / "pages-00001.jsonl")]
    assert texts == [f"{number}.{page}" for number in range(10) for page in range(number * 2)]


def test_sinks_are_checked_when_they_are_declared(settings, out):
    def refused(*sinks: dict) -> str | None:
        try:
            check_sinks(parse_sinks(list(sinks)), settings)
        except BadRequest as error:
            return f"{error.param} {error.code}"
        return None

    assert refused({"type": "jsonl", "uri": f"{out}/sub"}, {"type": "jsonl"}) is None
    assert refused({"type": "csv", "uri": f"file://{out}"}) is None
    assert refused({"type": "csv", "uri": "s3://results/x"}) is None
    assert refused({"type": "excel"}) == "sinks.0.type invalid_value"
    assert refused({"type": "jsonl", "uri": "/etc"}) == "sinks.0.uri sink_not_allowed"
    assert refused({"type": "jsonl", "uri": f"{out}-other"}) == "sinks.0.uri sink_not_allowed"
    assert refused({"type": "jsonl", "uri": f"{out}/../x"}) == "sinks.0.uri invalid_value"
    assert refused({"type": "jsonl", "uri": "s3://results2"}) == "sinks.0.uri sink_not_allowed"
    assert refused({"type": "jsonl", "uri": "s3://key:secret@results"}) == "sinks.0.uri invalid_value"
    assert refused({"type": "jsonl", "uri": "relative/path"}) == "sinks.0.uri invalid_value"
    assert refused({"type": "jsonl"}, {"type": "jsonl"}) == "sinks.1 invalid_value"
    assert refused({"type": "markdown"}) == "sinks.0.uri missing_required_parameter"
    assert refused({"type": "webhook", "uri": "https://example.org"}) == "sinks.0.uri invalid_value"


def test_a_missing_package_is_told_at_declaration(settings, out, monkeypatch):
    monkeypatch.setattr(media.importlib.util, "find_spec", lambda _: None)
    with pytest.raises(BadRequest, match=r"batchinfer-vlm\[parquet\]") as raised:
        check_sinks(parse_sinks([{"type": "jsonl"}, {"type": "parquet", "uri": str(out)}]), settings)
    assert (raised.value.code, raised.value.param) == ("extra_missing", "sinks.1")


def test_nothing_is_queued_of_a_run_that_is_gone(make_night):
    night = make_night({"type": "jsonl"})
    night.execute("DELETE FROM runs")
    with night.ctx.db.transaction() as tx:
        assert sealing.queue_full_shards(tx, night.run_id) == []
    assert night.take(EXPORT) == []


def test_a_shard_is_told_of_where_the_run_has_a_webhook(make_night):
    body = {"name": "mine", "url": "https://example.com/hook", "event_types": ["run.shard_sealed"]}
    quiet, night = make_night({"type": "jsonl"}), make_night({"type": "jsonl"}, {"type": "webhook"})
    request = parse_endpoint(body, find_reach(night.ctx.settings), whole=True)
    webhooks.create_endpoint(night.ctx, night.caller, request)
    for one in (quiet, night):
        one.close("a.pdf", ("ok", "one"), ("failed", "timeout"))
        one.close("b.pdf", ("ok", "two"))
    night.seal()
    (told,) = night.execute("SELECT * FROM outbox")
    assert (told.payload["type"], told.subject_id) == ("run.shard_sealed", night.run_id)
    data = told.payload["data"]
    assert data.pop("shard_id").removeprefix("shard_") == night.shards()[0].id.hex
    assert data == {"id": night.shown_id, "number": 1, "documents": 2, "pages": 3}
    assert len(night.shards()[0].files) == 1
