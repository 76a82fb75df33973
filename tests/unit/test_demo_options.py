from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
from PIL import Image

from batchinfer.demo.files import describe, draw_files, find_files
from batchinfer.demo.options import BadOption, Options, read_options
from batchinfer.samples import FIELDS

if TYPE_CHECKING:
    from pathlib import Path


def test_nothing_said_is_the_plain_run() -> None:
    assert read_options({}) == Options()
    assert read_options({"CALM": "0", "KEEP": "", "FILES": "", "MODEL": ""}) == Options()


def test_every_option(tmp_path: Path) -> None:
    said = {
        "CALM": "1",
        "KEEP": "yes",
        "FILES": str(tmp_path),
        "MODEL": "own",
        "PROMPT": "Transcribe.",
        "SEED": "3",
    }
    assert read_options(said) == Options(True, True, tmp_path, "own", "Transcribe.", 3)


@pytest.mark.parametrize("said", [{"FILES": "/no/such/folder"}, {"SEED": "many"}])
def test_what_cannot_be_followed_is_named(said: dict[str, str]) -> None:
    with pytest.raises(BadOption, match=next(iter(said))):
        read_options(said)


def test_two_dozen_documents_are_drawn_with_their_truth(tmp_path: Path) -> None:
    files = draw_files(tmp_path, seed=1)
    assert len(files) == 24
    assert {file.media_type for file in files} == {"application/pdf", "image/tiff", "image/png", "image/jpeg"}
    assert all(set(page) == set(FIELDS) for file in files for page in file.truth or ())
    assert 0 < sum(file.scanned for file in files) < 24
    pages = sum(file.pages or 0 for file in files)
    assert pages > 24
    assert describe(files).startswith("24 files (")
    assert describe(files).endswith(f"{pages} pages")


def test_own_files_are_found_by_their_first_bytes(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    Image.new("L", (4, 4)).save(tmp_path / "deep" / "picture.dat", "PNG")
    Image.new("L", (4, 4)).save(tmp_path / "scan.tif", "TIFF")
    Image.new("L", (4, 4)).save(tmp_path / "moving.png", "GIF")
    (tmp_path / "notes.txt").write_text("hello")
    (tmp_path / ".hidden").write_text("x")
    files, others = find_files(tmp_path)
    assert [file.path.name for file in files] == ["picture.dat", "scan.tif"]
    assert others == 2
    assert [file.pages for file in files] == [1, None]
    assert describe(files) == "2 files (1 PNG, 1 TIFF)"
