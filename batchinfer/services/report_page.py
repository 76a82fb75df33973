"""The report of a run as one page of HTML: no script, nothing from elsewhere, and what a model wrote stays text."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined

if TYPE_CHECKING:
    from collections.abc import Mapping

#: For whoever serves the page: styles and pictures that are in it, and nothing else.
CSP = (
    "default-src 'none'; style-src 'unsafe-inline'; img-src data:; frame-ancestors 'none'; base-uri 'none'; "
    "form-action 'none'; sandbox"
)
_UNITS = ("bytes", "KiB", "MiB", "GiB", "TiB")
_WORDS = {"ok": "ok", "completed": "ok", "fallback": "warn", "completed_with_errors": "warn", "blank": "mute",
          "unchanged": "mute", "failed": "bad", "expired": "bad", "cancelled": "mute", "not_read": "bad"}  # fmt: skip


def render_report(report: Mapping[str, Any], pictures: Mapping[str, bytes]) -> str:
    """The page. `pictures` are thumbnails by SHA-256, as JPEG or PNG; those that are missing are left out."""
    shown = {name: f"data:{_find_type(raw)};base64,{base64.b64encode(raw).decode()}" for name, raw in pictures.items()}
    return _TEMPLATE.render(
        report=report,
        pictures=shown,
        page_parts=_split(report["pages"], ("ok", "fallback", "blank", "failed", "expired", "cancelled")),
        document_parts=_split(
            report["documents"],
            ("completed", "completed_with_errors", "failed", "unchanged", "expired", "cancelled", "not_read"),
        ),
    )


def _find_type(raw: bytes) -> str:
    return "image/png" if raw.startswith(b"\x89PNG") else "image/jpeg"


def _split(counts: Mapping[str, int], names: tuple[str, ...]) -> list[dict[str, Any]]:
    """Parts of a whole that are not empty, with their share in percent and the tone of their colour."""
    whole = sum(counts.get(name, 0) for name in names)
    shares = {name: counts[name] / whole for name in names if counts.get(name)}
    return [
        {
            "name": name, "number": counts[name], "share": 100 * share, "tone": _WORDS[name],
            "said": _show_percent(share) if share >= 0.0005 else f"under {_show_percent(0.001)}",
        }
        for name, share in shares.items()
    ]  # fmt: skip


def _show_time(seconds: int | None) -> str:
    return "–" if seconds is None else datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%d %H:%M:%S UTC")


def _show_span(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    hours, rest = divmod(round(seconds), 3600)
    minutes, left = divmod(rest, 60)
    return f"{hours:,} h {minutes} min" if hours else f"{minutes} min {left} s"


def _show_bytes(number: int) -> str:
    size, unit = float(number), 0
    while size >= 1024 and unit < len(_UNITS) - 1:
        size, unit = size / 1024, unit + 1
    return f"{size:,.0f} {_UNITS[unit]}" if unit == 0 else f"{size:,.1f} {_UNITS[unit]}"


def _show_percent(share: float | None) -> str:
    return "–" if share is None else f"{100 * share:.1f}\u00a0%"  # the sign stays with its number


def _show_text(value: object) -> str:
    """A text whose control characters are seen, so that none of them turns the page round."""
    return "".join(char if char.isprintable() or char in "\n\t" else "�" for char in str(value))


def _make_environment() -> Environment:
    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent), autoescape=True, undefined=StrictUndefined, trim_blocks=True,
        lstrip_blocks=True,
    )  # fmt: skip
    environment.filters |= {
        "time": _show_time, "span": _show_span, "bytes": _show_bytes, "percent": _show_percent, "plain": _show_text,
        "count": lambda number: f"{number:,}", "words": lambda name: str(name).replace("_", " "),
    }  # fmt: skip
    return environment


_TEMPLATE = _make_environment().get_template("report.html")
