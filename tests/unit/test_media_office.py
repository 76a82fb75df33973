"""Office documents become PDFs in a limited process: with a program in LibreOffice's place, and with it where it is."""

from __future__ import annotations

import io
import json
import shutil
import zipfile
from pathlib import Path

import pypdfium2
import pytest

from batchinfer.errors import BadDocument, Failure
from batchinfer.media.office import SUFFIXES, TAIL_BYTES, Office, find_office, tell_office, tell_office_file

DOCX, PPTX, XLSX, ODT = SUFFIXES
CONTENT = (
    '<?xml version="1.0"?><Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types">'
    '<Default Extension="rels" ContentType="application/vnd.openxmlformats-package.relationships+xml"/>'
    '<Override PartName="/word/document.xml" ContentType="application/vnd.openxmlformats-officedocument.'
    'wordprocessingml.document.main+xml"/></Types>'
)
RELATIONS = (
    '<?xml version="1.0"?><Relationships xmlns="http://schemas.openxmlformats.org/package/2006/relationships">'
    '<Relationship Id="r1" Type="http://schemas.openxmlformats.org/officeDocument/2006/relationships/officeDocument" '
    'Target="word/document.xml"/></Relationships>'
)
BODY = (
    '<?xml version="1.0"?><w:document xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"><w:body>'
    "<w:p><w:r><w:t>Delivery note 17</w:t></w:r></w:p></w:body></w:document>"
)


def make_zip(**parts: str) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name, text in parts.items():
            archive.writestr(name, text)
    return buffer.getvalue()


def make_docx() -> bytes:
    return make_zip(**{"[Content_Types].xml": CONTENT, "_rels/.rels": RELATIONS, "word/document.xml": BODY})


def tell(data: bytes) -> str | None:
    return tell_office(data[:128], data[-TAIL_BYTES:])


def pretend(folder: Path, script: str) -> Office:
    """A program in LibreOffice's place."""
    program = folder / "soffice"
    program.write_text(f"#!/bin/sh\n{script}\n")
    program.chmod(0o755)
    found = find_office(str(program), timeout_s=20, memory_mib=1024)
    assert found is not None
    return found


#: Writes a PDF of the name that it was asked for, and beside it what it saw.
GOOD = """
for last in "$@"; do :; done
printf '%%PDF-1.4 of %s' "$(basename "$last")" > document.pdf
{ env; ulimit -v; cat profile/user/registrymodifications.xcu; echo "$@"; } > "$(dirname "$0")/seen"
"""


def test_kinds_are_told_by_what_is_inside() -> None:
    assert tell(make_docx()) == DOCX
    assert tell(make_zip(**{"ppt/presentation.xml": "x"})) == PPTX
    assert tell(make_zip(**{"xl/workbook.xml": "x"})) == XLSX
    assert tell(make_zip(**{"mimetype": ODT, "content.xml": "x"})) == ODT
    assert tell(make_zip(**{"mimetype": f"{ODT}-template", "content.xml": "x"})) is None
    assert tell(make_zip(readme="a plain archive")) is None
    assert tell(b"%PDF-1.7 word/document.xml") is None
    assert tell(b"") is None


def test_it_runs_with_limits_a_profile_of_its_own_and_no_secrets(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BATCHINFER_SECRET_KEY", "hidden")
    source, target = tmp_path / "blob", tmp_path / "pages"
    source.write_bytes(make_docx())
    before = source.stat().st_mtime_ns
    pretend(tmp_path, GOOD).convert(source, target, DOCX)
    assert target.read_bytes() == b"%PDF-1.4 of document.docx"
    seen = (tmp_path / "seen").read_text()
    assert "hidden" not in seen
    assert str(1024 * 1024) in seen
    assert "DisableMacrosExecution" in seen
    assert "--headless" in seen
    assert "-env:UserInstallation=file://" in seen
    assert source.stat().st_mtime_ns == before
    assert sorted(file.name for file in tmp_path.iterdir()) == ["blob", "pages", "seen", "soffice"], "nothing is left"


@pytest.mark.parametrize("script", ["exit 0", "exit 1", "echo no pdf > document.pdf", "kill -9 $$"])
def test_what_it_cannot_read_is_said(tmp_path: Path, script: str) -> None:
    source = tmp_path / "blob"
    source.write_bytes(make_docx())
    with pytest.raises(BadDocument) as caught:
        pretend(tmp_path, script).convert(source, tmp_path / "pages", DOCX)
    assert caught.value.code == "document_parse_error"
    assert str(tmp_path) not in caught.value.message


def test_one_that_hangs_is_killed_with_its_children(tmp_path: Path) -> None:
    source = tmp_path / "blob"
    source.write_bytes(make_docx())
    office = pretend(tmp_path, 'sleep 600 & echo $! > "$(dirname "$0")/child"; wait')
    with pytest.raises(Failure) as caught:
        Office(office.command, 3.0, 1024).convert(source, tmp_path / "pages", DOCX)
    assert caught.value.code == "sandbox_timeout"
    child = json.loads((tmp_path / "child").read_text())
    states = [line for line in read_status(child).splitlines() if line.startswith("State:")]
    assert not states or "Z" in states[0], "its child lives on"


def read_status(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/status").read_text()
    except FileNotFoundError:
        return ""


def test_it_is_not_there() -> None:
    assert find_office("no-such-program", timeout_s=1, memory_mib=512) is None
    assert find_office("", timeout_s=1, memory_mib=512) is None


@pytest.mark.skipif(shutil.which("soffice") is None, reason="LibreOffice is not installed: `apt install libreoffice`")
def test_libreoffice_turns_a_document_into_pages(tmp_path: Path) -> None:
    source, target = tmp_path / "blob", tmp_path / "pages"
    source.write_bytes(make_docx())
    assert tell_office_file(source) == DOCX
    office = find_office("soffice", timeout_s=120, memory_mib=4096)
    assert office is not None
    office.convert(source, target, DOCX)
    pdf = pypdfium2.PdfDocument(target)
    assert "Delivery note 17" in pdf[0].get_textpage().get_text_range()
