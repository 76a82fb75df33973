"""Which examples of the pages are run, where, and why the others are only held against the program.

All Python of the manual is in these tables, and the commands of the pages in `SHELL`; tests/docs/test_examples.py
holds the tables to what the pages have.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from tests.docs.conftest import ROOT, Page

if TYPE_CHECKING:
    from collections.abc import Iterator

_SDK, _UP = "tests/sdk/test_client_docs.py", "tests/e2e/test_page_examples.py"
#: The test in which the Python of a page is run, its blocks in order and with what the earlier ones left.
PYTHON = {
    "README.md": _UP,
    "docs/api.md": _UP,
    "docs/client.md": _SDK,
    "docs/migrating-from-openai-batch.md": _SDK,
    "docs/migrating-from-xinference.md": _UP,
    "docs/quickstart.md": _UP,
    "docs/webhooks.md": _UP,
}
#: The same of the commands in blocks marked `sh`.
SHELL = {"docs/api.md": _UP, "docs/client.md": _SDK, "docs/quickstart.md": _UP, "docs/webhooks.md": _UP}
#: Blocks of Python and commands that are not run, by page and by how they begin.
NOT_RUN = {
    ("docs/client.md", "from batchinfer.client import to_dataframe"): "needs pandas, which no extra installs",
    ("docs/quickstart.md", "make demo"): "starts a service of its own, and checks itself",
    ("docs/quickstart.md", "make up"): "is how the service of the test runs already",
    ("docs/quickstart.md", "batchinfer up --model /data/models/my-vlm"): "needs the reader's own model",
    ("docs/quickstart.md", "batchinfer models register Qwen/"): "asks a hub, and no test leaves the machine",
    ("docs/quickstart.md", "batchinfer models fetch qwen"): "downloads 4 GB from a hub",
    ("docs/quickstart.md", "batchinfer models plan qwen"): "needs the model that was fetched",
    ("docs/quickstart.md", "batchinfer models launch qwen"): "needs the model that was fetched",
}  # fmt: skip
#: What only tells the shell where the service is: a test knows that once the service runs, and sets it itself.
_SETS = re.compile(r"^(export\s+)?(\w+=\S+\s*)+(#.*)?$")


def list_examples(name: str) -> Iterator[tuple[str, str]]:
    """(`python`, block), (`yaml`, block) and (`sh`, command) of a page, in order; commands with their lines joined."""
    for block in Page(ROOT / name).list_blocks():
        if block.language in {"python", "yaml"}:
            yield block.language, block.text
        elif block.language == "sh":
            for line in re.sub(r"\\\n\s*", " ", block.text).splitlines():
                if line.strip() and not _SETS.match(line):
                    yield "sh", line.strip()


def find_reason(name: str, example: str) -> str | None:
    """Why an example of a page is not run; None where it is."""
    reasons = (why for (page, start), why in NOT_RUN.items() if page == name and example.startswith(start))
    return next(reasons, None)


def list_runnable(name: str) -> list[tuple[str, str]]:
    """What `list_examples` has, without what is not run."""
    return [(kind, text) for kind, text in list_examples(name) if find_reason(name, text) is None]
