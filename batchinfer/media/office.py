"""Office documents (DOCX, PPTX, XLSX, ODT) become PDFs by LibreOffice, where that is installed.

It runs as a process of its own for each file, with limits of memory and time, a new profile in which macros, active
content and links to elsewhere are off and no proxy leads out, and nothing in its environment.
"""

from __future__ import annotations

import math
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from batchinfer.errors import BadDocument, Failure

_OPEN_XML = "application/vnd.openxmlformats-officedocument."
_ODT = "application/vnd.oasis.opendocument.text"
#: Media types, the names that such a file begins with, and what its directory names.
SUFFIXES = {
    f"{_OPEN_XML}wordprocessingml.document": ".docx",
    f"{_OPEN_XML}presentationml.presentation": ".pptx",
    f"{_OPEN_XML}spreadsheetml.sheet": ".xlsx",
    _ODT: ".odt",
}
_PARTS = (
    (b"word/document.xml", f"{_OPEN_XML}wordprocessingml.document"),
    (b"ppt/presentation.xml", f"{_OPEN_XML}presentationml.presentation"),
    (b"xl/workbook.xml", f"{_OPEN_XML}spreadsheetml.sheet"),
)
#: How much of the end of a file is looked at: the directory of a ZIP archive lies there.
TAIL_BYTES = 256 * 1024
_HEAD_BYTES = 128
#: A new profile without a way out of the file.
_PROFILE = """<?xml version="1.0" encoding="UTF-8"?>
<oor:items xmlns:oor="http://openoffice.org/2001/registry">
<item oor:path="/org.openoffice.Office.Common/Security/Scripting"><prop oor:name="MacroSecurityLevel" oor:op="fuse">\
<value>3</value></prop><prop oor:name="DisableMacrosExecution" oor:op="fuse"><value>true</value></prop>\
<prop oor:name="DisableActiveContent" oor:op="fuse"><value>true</value></prop>\
<prop oor:name="BlockUntrustedRefererLinks" oor:op="fuse"><value>true</value></prop></item>
<item oor:path="/org.openoffice.Inet/Settings"><prop oor:name="ooInetProxyType" oor:op="fuse"><value>1</value></prop>\
<prop oor:name="ooInetHTTPProxyName" oor:op="fuse"><value>127.0.0.1</value></prop>\
<prop oor:name="ooInetHTTPProxyPort" oor:op="fuse"><value>9</value></prop>\
<prop oor:name="ooInetHTTPSProxyName" oor:op="fuse"><value>127.0.0.1</value></prop>\
<prop oor:name="ooInetHTTPSProxyPort" oor:op="fuse"><value>9</value></prop></item>
</oor:items>
"""


@dataclass(frozen=True)
class Office:
    """LibreOffice as it was found here, and what a conversion may take."""

    command: str
    timeout_s: float
    memory_mib: int

    def convert(self, source: Path, target: Path, media_type: str) -> None:
        """Write a PDF of the document at `source` to `target`.

        Raises BadDocument (`document_parse_error`), Failure (`sandbox_timeout`).
        """
        with tempfile.TemporaryDirectory(dir=target.parent, prefix=f"{target.name}-") as folder:
            room = Path(folder)
            user = room / "profile" / "user"
            user.mkdir(parents=True)
            (user / "registrymodifications.xcu").write_text(_PROFILE, encoding="utf-8")
            copy = room / f"document{SUFFIXES[media_type]}"
            shutil.copyfile(source, copy)
            self._run(room, copy)
            made = room / "document.pdf"
            if not made.is_file() or not made.read_bytes()[:5] == b"%PDF-":
                raise BadDocument(
                    "The office document could not be turned into pages. Check that it opens, or save it as PDF.",
                    code="document_parse_error",
                )
            made.replace(target)

    def _run(self, room: Path, copy: Path) -> None:
        profile = (room / "profile").as_uri()
        command = [
            sys.executable, "-P", "-s", "-m", "batchinfer.media.restrained", f"--memory-mib={self.memory_mib}",
            f"--cpu-s={math.ceil(self.timeout_s)}", "--", self.command, f"-env:UserInstallation={profile}",
            "--headless", "--norestore", "--nolockcheck", "--nodefault", "--convert-to", "pdf", "--outdir", str(room),
            str(copy),
        ]  # fmt: skip
        process = subprocess.Popen(
            command, cwd=room, env=_environment(room), start_new_session=True, stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
        )  # fmt: skip
        try:
            process.wait(self.timeout_s)
        except subprocess.TimeoutExpired:
            raise Failure(
                f"The office document took longer than {self.timeout_s:g} s to be turned into pages and was given up. "
                "Save it as PDF.",
                code="sandbox_timeout",
            ) from None
        finally:
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()


def find_office(command: str, *, timeout_s: float, memory_mib: int) -> Office | None:
    """LibreOffice, if it is installed under this name or path. None: office documents are not served."""
    found = shutil.which(command) if command else None
    return Office(found, timeout_s, memory_mib) if found else None


def tell_office(head: bytes, tail: bytes) -> str | None:
    """The media type of an office document with this beginning and end (TAIL_BYTES), or None. Nothing is unpacked."""
    if not head.startswith(b"PK\x03\x04"):
        return None
    if head[30:].startswith(b"mimetype" + _ODT.encode() + b"PK"):
        return _ODT
    return next((media_type for part, media_type in _PARTS if part in tail), None)


def tell_office_file(path: Path) -> str | None:
    """The same for a file."""
    with path.open("rb") as file:
        head = file.read(_HEAD_BYTES)
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        return tell_office(head, file.read(TAIL_BYTES))


def _environment(room: Path) -> dict[str, str]:
    """The search path and a home of its own; a proxy that is none, for what does not read the profile."""
    package_parent = str(Path(__file__).resolve().parents[2])
    nowhere = "http://127.0.0.1:9"
    return {
        "PATH": os.environ.get("PATH", os.defpath), "HOME": str(room), "TMPDIR": str(room), "LANG": "C.UTF-8",
        "PYTHONPATH": package_parent, "http_proxy": nowhere, "https_proxy": nowhere,
    }  # fmt: skip
