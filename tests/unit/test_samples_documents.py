from __future__ import annotations

import pypdfium2
import pytest
from PIL import Image

from batchinfer.samples import PAGE_SIZE, RESOLUTION, write_documents


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    return write_documents(tmp_path_factory.mktemp("documents"), seed=4)


def test_the_mix_holds_every_kind(written):
    assert len(written) == 24
    assert {document.media_type for document in written} == {
        "application/pdf",
        "image/png",
        "image/jpeg",
        "image/tiff",
    }
    assert max(len(document.pages) for document in written) > 1


def test_the_same_seed_writes_the_same_documents(written, tmp_path):
    again = write_documents(tmp_path, seed=4)
    assert [document.path.name for document in again] == [document.path.name for document in written]
    for one, other in zip(written, again, strict=True):
        assert one.path.read_bytes() == other.path.read_bytes()


def test_every_page_is_held_out(written):
    assert {page.split for document in written for page in document.pages} == {"held_out"}


def test_picture_files_have_the_pages_that_were_drawn(written):
    for document in written:
        if document.media_type == "application/pdf":
            continue
        with Image.open(document.path) as image:
            assert getattr(image, "n_frames", 1) == len(document.pages)
            assert image.size == (PAGE_SIZE, PAGE_SIZE)
            if document.media_type != "image/jpeg":
                assert image.convert("L").tobytes() == document.pages[0].image.tobytes()


def test_a_pdf_renders_back_at_its_resolution(written):
    for document in written:
        if document.media_type != "application/pdf":
            continue
        pdf = pypdfium2.PdfDocument(document.path)
        assert len(pdf) == len(document.pages)
        page = pdf[0]
        bitmap = page.render(scale=RESOLUTION / 72)
        assert (bitmap.width, bitmap.height) == (PAGE_SIZE, PAGE_SIZE)
        rendered = bitmap.to_pil().convert("L")
        drawn = document.pages[0].image
        difference = [abs(a - b) for a, b in zip(rendered.tobytes(), drawn.tobytes(), strict=True)]
        assert sum(difference) / len(difference) < 4
        bitmap.close()
        page.close()
        pdf.close()


def test_count_is_kept(tmp_path):
    assert len(write_documents(tmp_path / "new", seed=1, count=3)) == 3
