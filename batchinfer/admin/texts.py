"""The pages' texts for translators: `python -m batchinfer.admin.texts` (`make texts`).

Collects every marked text of this room into translations/LANGUAGE/LC_MESSAGES/messages.po, keeps what is
translated, drops what is gone, and compiles messages.mo, which the pages read. Ends with 1 while a text is missing.
"""

from __future__ import annotations

import io
import sys
from datetime import UTC, datetime
from pathlib import Path

from babel.messages.catalog import Catalog, Message
from babel.messages.extract import extract_from_dir
from babel.messages.mofile import write_mo
from babel.messages.pofile import read_po, write_po

from batchinfer.admin.language import TRANSLATIONS

ROOM = Path(__file__).parent
#: English stands in the source.
OTHERS = ("zh",)
_METHODS = [("texts.py", "ignore"), ("**.py", "python"), ("templates/**.html", "jinja2")]
_OPTIONS = {"templates/**.html": {"trimmed": "true", "silent": "false"}}
_HEADER = "# Texts of the admin pages. Written by `make texts`; translate what stands behind msgstr."
#: The same files from the same texts, whenever they are written.
_NEVER = datetime(2026, 1, 1, tzinfo=UTC)
_WORDS = {
    "_": None,
    "gettext": None,
    "lazy_gettext": None,
    "ngettext": (1, 2),
    "lazy_ngettext": (1, 2),
    "pgettext": ((1, "c"), 2),
}


def collect(room: Path = ROOM) -> Catalog:
    """Every text that is marked in a folder's modules and templates, with the files where it stands."""
    found = Catalog(project="batchinfer", charset="utf-8")
    for name, _, text, _, context in extract_from_dir(room, _METHODS, _OPTIONS, _WORDS):
        found.add(text, locations=[(name, 0)], context=context)
    return found


def read_catalog(language: str) -> Catalog:
    """What is translated so far; empty where nothing is."""
    file = find_file(language)
    return read_po(io.BytesIO(file.read_bytes()), locale=language) if file.is_file() else Catalog(locale=language)


def find_file(language: str, kind: str = "po") -> Path:
    """The file of a language, for people (po) or for programs (mo)."""
    return TRANSLATIONS / language / "LC_MESSAGES" / f"messages.{kind}"


def compile_catalog(catalog: Catalog) -> bytes:
    """What the pages read of a catalogue."""
    out = io.BytesIO()
    write_mo(out, catalog)
    return out.getvalue()


def list_missing(catalog: Catalog) -> list[str]:
    """The texts of a catalogue that have no translation, or one that was only guessed."""
    return [_name(message) for message in catalog if message.id and (not _is_whole(message) or message.fuzzy)]


def _is_whole(message: Message) -> bool:
    return all(message.string) if isinstance(message.string, tuple | list) else bool(message.string)


def _name(message: Message) -> str:
    return str(message.id[0] if isinstance(message.id, tuple | list) else message.id)


def renew(language: str) -> Catalog:
    """The texts that are marked now, with the translations that are known; those of texts that are gone are dropped."""
    known, catalog = read_catalog(language), Catalog(locale=language, header_comment=_HEADER, fuzzy=False)
    catalog.project, catalog.version, catalog.copyright_holder = "batchinfer", "1", "the authors of batchinfer"
    catalog.msgid_bugs_address, catalog.last_translator, catalog.language_team = "-", "-", "-"
    catalog.creation_date = catalog.revision_date = _NEVER
    for message in collect():
        if message.id:
            before = known.get(message.id, message.context)
            string = before.string if before is not None and not before.fuzzy else message.string
            catalog.add(message.id, string, locations=message.locations, context=message.context)
    return catalog


def main() -> int:
    """Renew the files; say what is missing."""
    missing = 0
    for language in OTHERS:
        catalog = renew(language)
        file = find_file(language)
        file.parent.mkdir(parents=True, exist_ok=True)
        out = io.BytesIO()
        write_po(out, catalog, sort_output=True, omit_header=False, include_lineno=False, width=110)
        file.write_bytes(out.getvalue())
        find_file(language, "mo").write_bytes(compile_catalog(catalog))
        left = list_missing(catalog)
        missing += len(left)
        sys.stdout.write(f"{language}: {len(catalog)} texts, {len(left)} without a translation\n")
        sys.stdout.writelines(f"  {text}\n" for text in left)
    return 1 if missing else 0


if __name__ == "__main__":
    sys.exit(main())
