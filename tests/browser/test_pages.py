"""Each page in both themes and two widths: nothing in the console, nobody else asked, nothing for axe to find."""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain import ids
from batchinfer.domain.jobs import JobClass
from batchinfer.samples import draw_page
from batchinfer.store.series_tables import minutes

if TYPE_CHECKING:
    from batchinfer.services.context import Context

pytestmark = pytest.mark.browser

TOO_WIDE = "document.documentElement.scrollWidth - document.documentElement.clientWidth"
HOSTILE = "<script>alert(1)</script> \u202egnp.exe " + "x" * 20_000 + "\u0007"


def fill(stage: Any) -> dict[str, str]:
    """An installation at work: answered pages, failures, retries, some waiting, one running. Paths by name."""
    context, tenant = stage.context, stage.caller.tenant_id
    put_history(context, tenant)
    document, pages = stage.document([17, 18, 19])
    stage.answer(pages[1], json.dumps(draw_page(18).fields))
    last = None
    for seed in range(20, 27):
        page = draw_page(seed)
        answer = json.dumps(page.fields) if seed % 3 else page.text
        last = stage.page_job(seed, answer=answer)
    failed = stage.submit("Transcribe.", pictures=[b"\x89PNG\r\n\x1a\n" + b"0" * 64])
    refuse(stage, failed)
    retried = stage.submit("What is the total? Answer with the number and the currency alone.")
    stage.fail(retried, "The worker ran out of memory.", code="out_of_memory", transient=True)
    hostile = stage.answer(stage.submit(HOSTILE, metadata={"<b>": HOSTILE[:400]}), HOSTILE)
    branch = {"value": "y" * 500, "parts": [12, None, True, {"deep": "z"}]}
    long_tree = {f"field {number}": branch for number in range(5)}
    tree = stage.answer(stage.submit("Extract."), json.dumps(long_tree))
    running = stage.submit("Describe the page in one sentence.")
    stage.claim(running)
    stage.submit("Summarise.", job_class=JobClass.BATCH)
    unprepared = stage.submit(pictures=[b"\x89PNG\r\n\x1a\n" + b"1" * 64])
    jobs = {"job": last, "page": pages[1], "failed": failed, "hostile": hostile, "tree": tree, "unprepared": unprepared}
    paths = {name: f"/admin/jobs/{ids.show_id(ids.JOB, job.id)}" for name, job in jobs.items()}
    return {
        "overview": "/admin/",
        "jobs": "/admin/jobs",
        "doctor": "/admin/doctor",
        "document": f"/admin/jobs?document={ids.show_id(ids.DOCUMENT, document)}",
        "none": "/admin/jobs?state=expired",
        "nowhere": "/admin/nowhere",
        **paths,
    }


def refuse(stage: Any, job: Any) -> None:
    """What a CPU worker does with a picture that is none."""
    from batchinfer.services import work
    from batchinfer.store.claims import Ending

    claim = stage.claim(job, work.PREPARE)
    error = {
        "message": "image 0 is not a readable PNG: it ends too early. Send the whole file.",
        "type": "invalid_request_error", "param": "messages[0].content[0]", "code": "image_parse_error",
    }  # fmt: skip
    work.fail(stage.context, stage.leases["cpu"], [Ending(claim.id, claim.attempt, error)])


def put_history(context: Context, tenant: Any) -> None:
    """An hour of minutes, a few with failures."""
    now = datetime.now(UTC).replace(second=0, microsecond=0)
    values = [
        {
            "tenant_id": tenant, "model": "reader", "minute": now - timedelta(minutes=back),
            "submitted": 20, "succeeded": 8 + (back * 7) % 23 + (12 if 20 < back < 40 else 0),
            "failed": int(back % 9 == 0), "images": 20, "completion_tokens": 1200,
        }
        for back in range(2, 55)
    ]  # fmt: skip
    with context.db.transaction() as tx:
        tx.execute(minutes.insert(), values)


@pytest.mark.parametrize("width", [390, 1280])
@pytest.mark.parametrize("theme", ["light", "dark"])
def test_every_page_is_clean(look: Callable[..., Any], stage: Any, theme: str, width: int) -> None:
    with look(width=width, theme=theme) as window:
        window.open("/admin/sign-in")
        window.check()
        window.picture(f"sign-in-{theme}-{width}")
        window.open("/docs")
        window.check()
        window.picture(f"docs-{theme}-{width}")
        overflow = window.page.evaluate(TOO_WIDE)
        assert overflow <= 0, f"the reference is {overflow} pixels wider than the window"
        window.sign_in()
        window.picture(f"empty-{theme}-{width}")
        window.check()
        for name, path in fill(stage).items():
            window.open(path)
            if name == "nowhere":
                assert [line for line in window.trouble if "404" not in line] == []
                window.trouble.clear()  # the browser notes the answer's status
            window.picture(f"{name}-{theme}-{width}")
            window.check()
            overflow = window.page.evaluate(TOO_WIDE)
            assert overflow <= 0, f"{name} is {overflow} pixels wider than the window"


def test_the_widest_window_stays_readable(look: Callable[..., Any], stage: Any) -> None:
    paths = fill(stage)
    with look(width=1920) as window:
        window.sign_in()
        for name in ("overview", "jobs", "job"):
            window.open(paths[name])
            window.picture(f"{name}-light-1920")
            window.check()
