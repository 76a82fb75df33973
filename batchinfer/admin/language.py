"""Language and time zone of a page: the browser's language, and UTC or the zone that somebody chose.

Texts are marked with gettext in templates and modules; `translations/` has them in Simplified Chinese. English is
what stands in the source.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from flask import Flask, g, request
from flask_babel import Babel

if TYPE_CHECKING:
    from datetime import datetime

#: Tags of RFC 5646 that a browser may ask for, and what the page then says of itself.
LANGUAGES = {"en": "en", "zh": "zh-Hans"}
#: The cookie in which the page keeps the browser's zone once it was chosen.
ZONE_COOKIE = "batchinfer_zone"
TRANSLATIONS = Path(__file__).parent / "translations"


def register_language(app: Flask) -> None:
    """Let every page of the application choose its language and zone."""
    Babel(
        app,
        default_locale="en",
        default_translation_directories=str(TRANSLATIONS),
        locale_selector=choose_language,
    )
    app.jinja_env.policies["ext.i18n.trimmed"] = True  # as `texts` collects them: line ends of a template are no text
    app.jinja_env.globals.update(page_language=lambda: LANGUAGES[choose_language()], zone_name=find_zone_name)


def choose_language() -> str:
    """The one of ours that the browser likes best; English where it likes none."""
    return request.accept_languages.best_match(list(LANGUAGES), default="en") or "en"


def find_zone() -> ZoneInfo:
    """The zone in which times are shown: the one that was chosen, else UTC."""
    if "zone" not in g:
        g.zone = _read_zone(request.cookies.get(ZONE_COOKIE, "UTC"))
    found: ZoneInfo = g.zone
    return found


def find_zone_name() -> str:
    """The name of that zone: UTC, Asia/Shanghai."""
    return find_zone().key


def in_zone(at: datetime) -> datetime:
    """A time as clocks show it there."""
    return at.astimezone(find_zone())


def _read_zone(name: str) -> ZoneInfo:
    try:
        return ZoneInfo(name)
    except (LookupError, ValueError, OSError):  # an unknown name, one that is a path, one that is a folder of zones
        return ZoneInfo("UTC")
