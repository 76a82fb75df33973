"""How far rendering runs ahead of reading: listed documents become work as pages end.

The bound is of pages and of the disk that they take (settings `render_ahead_pages`, `render_ahead_mib`): those that are
rendered and wait, and those that the documents at work will bring, by what documents of this run brought so far.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.store import backpressure as store

if TYPE_CHECKING:
    from uuid import UUID

    from batchinfer.services.context import Context
    from batchinfer.settings import Settings
    from batchinfer.store.backpressure import Ahead

#: Documents that become work in one transaction.
PIECE = 500
#: What a document and its pages are taken for before any was read.
USUAL_PAGES, USUAL_PAGE_BYTES = 4, 400 * 1024


def pump(ctx: Context, run_id: UUID) -> int:
    """Let the next listed documents of a run be rendered, as many as there is room for, and announce them.

    Answers how many. None while the run is paused, or has ended. Safe to call at any time, by anybody.
    """
    total = 0
    while True:
        with ctx.db.transaction() as tx:
            ahead = store.hold_run(tx, run_id)
            room = min(PIECE, find_room(ahead, ctx.settings)) if ahead else 0
            queued = store.queue_listed(tx, run_id, room) if room else []
        ctx.announcer.announce_cpu(queued)
        total += len(queued)
        if len(queued) < PIECE:
            return total


def find_room(ahead: Ahead, settings: Settings) -> int:
    """How many more documents may be rendered now."""
    a_document = max(1.0, ahead.pages / ahead.rendered) if ahead.rendered else USUAL_PAGES
    a_page = ahead.page_bytes / ahead.ended if ahead.page_bytes and ahead.ended else USUAL_PAGE_BYTES
    most = min(settings.render_ahead_pages, settings.render_ahead_mib * 2**20 / a_page)
    waiting = ahead.pages - ahead.ended + ahead.unrendered * a_document
    if waiting <= 0:
        # However large its documents are: one at a time.
        return max(1, int(most / a_document))
    return max(0, int((most - waiting) / a_document))
