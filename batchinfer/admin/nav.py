"""The menu: the pages in the order of a day's questions, and which of them one is on."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from flask import current_app, request, url_for
from flask_babel import lazy_gettext

from batchinfer.admin.acting import may

if TYPE_CHECKING:
    from flask import Blueprint


@dataclass(frozen=True)
class Entry:
    """A line of the menu. `modules`: the modules of this room whose views belong to it; `scope`: what a key needs to
    see it, beside being signed in."""

    endpoint: str
    icon: str
    text: str
    modules: tuple[str, ...]
    scope: str | None = None

    @property
    def address(self) -> str:
        """Where it leads."""
        return url_for(self.endpoint)

    @property
    def current(self) -> str | None:
        """What `aria-current` says: "page" on the page itself, "true" on one that belongs to it."""
        if request.endpoint == self.endpoint:
            return "page"
        view = current_app.view_functions.get(request.endpoint or "")
        return "true" if view is not None and view.__module__.rsplit(".", 1)[-1] in self.modules else None


_MODELS = ("models", "model", "deployment", "launching", "registering", "swaps", "trying")

ENTRIES = (
    Entry("admin.show_overview", "overview", lazy_gettext("Overview"), ("overview",)),
    Entry("admin.show_jobs", "jobs", lazy_gettext("Jobs"), ("jobs", "job", "job_acts", "acts")),
    Entry(
        "admin.show_batches",
        "batches",
        lazy_gettext("Batches"),
        ("batches", "batch", "batch_acts", "batch_files", "batch_new", "run_pages", "review"),
    ),
    Entry(
        "admin.show_schedules",
        "schedules",
        lazy_gettext("Schedules"),
        ("schedules", "schedule", "schedule_form", "runs"),
    ),
    Entry("admin.show_models", "models", lazy_gettext("Models"), _MODELS),
    Entry("admin.show_workers", "workers", lazy_gettext("Workers"), ("workers",)),
    Entry("admin.show_doctor", "doctor", lazy_gettext("Doctor"), ("doctor",), "admin"),
    Entry("admin.show_keys", "keys", lazy_gettext("Keys"), ("keys",), "admin"),
    Entry("admin.show_settings", "settings", lazy_gettext("Settings"), ("settings", "audit"), "admin"),
)  # fmt: skip


def register(blueprint: Blueprint) -> None:
    """Offer `menu()` to templates."""
    blueprint.add_app_template_global(list_entries, "menu")


def list_entries() -> list[Entry]:
    """The entries whose pages this application has and the key may see."""
    return [
        entry
        for entry in ENTRIES
        if entry.endpoint in current_app.view_functions and (entry.scope is None or may(entry.scope))
    ]
