"""Draw the Mermaid diagrams of the pages for the site: `make diagrams`; needs npm and a Chromium.

GitHub draws them itself; the site must fetch nothing, and Mermaid is three megabytes of script. So each is drawn once,
into diagrams/ beside this file, under the hash of its text. One that is not drawn yet is shown as its text.
"""

from __future__ import annotations

import hashlib
import re
import shutil
import tempfile
from pathlib import Path

FOLDER = Path(__file__).with_name("diagrams")
ROOT = Path(__file__).resolve().parents[2]
BLOCK = re.compile(r"^```mermaid\n(.*?)^```$", re.MULTILINE | re.DOTALL)
VERSION = "11.17.2"
_DRAW = """async (text) => {
  mermaid.initialize({startOnLoad: false, theme: "neutral", fontFamily: "sans-serif", htmlLabels: false,
                      flowchart: {htmlLabels: false}});
  return (await mermaid.render("diagram", text)).svg;
}"""


def name_diagram(text: str) -> str:
    """The file of a diagram, by the hash of its text."""
    return f"diagram-{hashlib.sha256(text.encode()).hexdigest()[:16]}.svg"


def find_diagrams() -> dict[str, str]:
    """The text of each diagram of the pages, by its file's name."""
    pages = [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]
    return {name_diagram(text): text for page in pages for text in BLOCK.findall(page.read_text())}


def give_size(drawing: str) -> str:
    """The drawing with a size of its own, three quarters of Mermaid's: letters as large as the tables'."""
    width, height = (float(one) * 0.75 for one in re.search(r'viewBox="\S+ \S+ (\S+) (\S+)"', drawing).groups())
    return drawing.replace('width="100%"', f'width="{width:.0f}" height="{height:.0f}"', 1)


def main() -> None:
    """Draw what is missing, and remove what belongs to no page."""
    from playwright.sync_api import sync_playwright

    from batchinfer.admin.vendoring import Package, fetch

    wanted = find_diagrams()
    FOLDER.mkdir(exist_ok=True)
    for path in FOLDER.glob("*.svg"):
        if path.name not in wanted:
            path.unlink()
    missing = {name: text for name, text in wanted.items() if not (FOLDER / name).exists()}
    if not missing:
        return
    with tempfile.TemporaryDirectory() as scratch, sync_playwright() as play:
        fetch(Package("mermaid", VERSION, (("dist/mermaid.min.js", "mermaid.min.js"),)), Path(scratch))
        browser = play.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.set_content("<!doctype html><body></body>")
        page.add_script_tag(path=Path(scratch) / "mermaid.min.js")
        for name, text in missing.items():
            (FOLDER / name).write_text(give_size(page.evaluate(_DRAW, text)) + "\n")
        browser.close()


if __name__ == "__main__":
    main()
