"""The whole service with two fake engines of 10 pages a second each, fed with pages of 1 MB over HTTP."""

from __future__ import annotations

import io
import random
import threading
import time
from typing import Any

from PIL import Image

from batchinfer.samples.pages import draw_page
from batchinfer.services import scheduling
from bench.api.uploading import post
from bench.api.web import Web, find_servers, open_web, read_cpu_s
from bench.queue.stand import MODEL, Stand, Worker

#: 8 pages at a time, each in 8 steps of a tenth of a second: 10 pages a second.
SLOTS, STEPS, STEPS_PER_S = 8, 8, 10.0
ENGINES = 2
CEILING = ENGINES * SLOTS * STEPS_PER_S / STEPS
_PAGE_BYTES = 1_000_000
_CLIENTS = 4
_RATE = """
    SELECT 0.9 * count(*) / extract(epoch FROM percentile_disc(0.95) WITHIN GROUP (ORDER BY created_at)
                                             - percentile_disc(0.05) WITHIN GROUP (ORDER BY created_at))
    FROM results"""


def measure_service(stand: Stand, *, pages: int) -> dict[str, Any]:
    """Pages are submitted and opened first, then the engines drain them: on a small machine opening pictures of this
    size takes more CPU than all else, and would hide it. CPU seconds a page are given by process."""
    drawn = [draw_scan(seed) for seed in range(8)]
    opener = stand.start_celery(
        ["workers.cpu", "worker", "-n", "cpu@bench", "-P", "threads", "-c", "1", "--without-gossip",
         "--without-mingle", "--processes", "1", "-l", "WARNING"], stand.settings,
    )  # fmt: skip
    stand.wait(lambda: stand.run("SELECT count(*) FROM leases WHERE role = 'cpu' AND NOT dead"), "a CPU worker")
    with open_web(stand) as web:
        roots = {"web": [web.pid], "CPU worker": [opener.popen.pid], "servers": find_servers(stand)}
        before = {name: _sum(pids) for name, pids in roots.items()}
        began = time.perf_counter()
        _submit_all(web, drawn, pages)
        submitted_s = time.perf_counter() - began
        stand.wait(lambda: _count(stand, "queued") == pages, "the opening of the pages")
        opened_s = time.perf_counter() - began
        scheduling.pause(stand.ctx, stand.caller)  # what the engines' start costs is no page's
        roots["model workers"] = [worker.popen.pid for worker in _start_engines(stand)]
        before["model workers"] = _sum(roots["model workers"])
        scheduling.resume(stand.ctx, stand.caller)
        stand.wait(lambda: int(stand.run("SELECT count(*) FROM results")) == pages, "the last page")
        spent = {name: _sum(pids) - before[name] for name, pids in roots.items()}
    rate = float(stand.run(_RATE))
    per_page = {name: round(1e3 * seconds / pages, 2) for name, seconds in spent.items()}
    return {
        "pages": pages,
        "page_kb": round(sum(map(len, drawn)) / len(drawn) / 1e3),
        "ceiling_per_s": CEILING,
        "pages_per_s": round(rate, 2),
        "share_of_ceiling": round(rate / CEILING, 3),
        "submitted_per_s": round(pages / submitted_s, 2),
        "opened_per_s": round(pages / opened_s, 2),
        "cpu_ms_a_page": per_page,
        "cpu_ms_without_rendering": round(sum(per_page.values()) - per_page["CPU worker"], 2),
    }


def draw_scan(seed: int) -> bytes:
    """A page as a scanner makes it: 1,240 by 1,754 pixels with grain, a JPEG of about 1 MB."""
    page = draw_page(seed, noise=4.0).image.convert("L").resize((1240, 1240))
    sheet = Image.new("L", (1240, 1754), 250)
    sheet.paste(page, (0, 200))
    grain = Image.effect_noise(sheet.size, 24.0)
    scan = Image.blend(sheet, grain, 0.25).convert("RGB")
    for quality in (97, 95, 92, 88, 84, 80, 75, 70):
        file = io.BytesIO()
        scan.save(file, "JPEG", quality=quality)
        if file.tell() <= _PAGE_BYTES * 1.1:
            break
    return file.getvalue()


def mark(page: bytes, number: int) -> bytes:
    """The same picture with another comment in it: other bytes, stored and opened for themselves."""
    comment = f"page {number} {random.random()}".encode()
    return page[:2] + b"\xff\xfe" + (len(comment) + 2).to_bytes(2, "big") + comment + page[2:]


def _submit_all(web: Web, drawn: list[bytes], pages: int) -> None:
    numbers, lock, wrong = iter(range(pages)), threading.Lock(), []

    def send() -> None:
        connection = web.connect()
        while True:
            with lock:
                number = next(numbers, None)
            if number is None or wrong:
                break
            try:
                body = _write_form(mark(drawn[number % len(drawn)], number), number)
                post(web, connection, "/v1/jobs", body, "multipart/form-data; boundary=b")
            except (RuntimeError, OSError) as error:
                wrong.append(error)
        connection.close()

    threads = [threading.Thread(target=send) for _ in range(_CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if wrong:
        raise wrong[0]


def _write_form(page: bytes, number: int) -> bytes:
    fields = {"model": MODEL, "prompt": f"[[steps:{STEPS}]] Read page {number}.", "max_tokens": "64"}
    parts = [
        f'--b\r\nContent-Disposition: form-data; name="{name}"\r\n\r\n{value}\r\n' for name, value in fields.items()
    ]
    head = '--b\r\nContent-Disposition: form-data; name="file"; filename="page.jpg"\r\n\r\n'
    return "".join(parts).encode() + head.encode() + page + b"\r\n--b--\r\n"


def _start_engines(stand: Stand) -> list[Worker]:
    return [
        stand.start_worker(slots=SLOTS, steps_per_s=STEPS_PER_S, name=f"engine-{number}") for number in range(ENGINES)
    ]


def _count(stand: Stand, state: str) -> int:
    return int(stand.run("SELECT count(*) FROM queue WHERE state = :state", state=state))


def _sum(pids: list[int]) -> float:
    return sum(read_cpu_s(pid) for pid in pids)
