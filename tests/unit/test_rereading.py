"""The source that has some documents of a run alone, each under the address that it had."""

from __future__ import annotations

import pytest

from batchinfer.domain.globs import compile_globs
from batchinfer.domain.ids import new_id
from batchinfer.domain.runs import Run
from batchinfer.domain.sources import Source
from batchinfer.errors import BadRequest
from batchinfer.media.folders import show_uri
from batchinfer.services.rereading import _name_documents


@pytest.fixture
def run():
    found = object.__new__(Run)
    object.__setattr__(found, "id", new_id())
    return found


def test_files_and_addresses_are_named_themselves(run):
    assert _name_documents(Source(files=("file-1", "file-2")), ["file-2"], run) == {"files": ["file-2"]}
    urls = ["https://one.example/b.pdf"]
    assert _name_documents(Source(urls=("https://one.example/a.pdf", *urls)), urls, run) == {"urls": urls}


def test_files_of_a_folder_are_taken_and_no_other(run, tmp_path):
    paths = ["a [1]?.pdf", "deep/b*.pdf", "deep/ü.pdf"]
    uris = [show_uri(f"{tmp_path.resolve()}/{path}") for path in paths]
    found = _name_documents(Source(uri=f"{tmp_path}/*.pdf"), uris, run)
    assert found["uri"] == show_uri(str(tmp_path.resolve()))
    globs = compile_globs(tuple(found["include"]), (), "source")
    assert all(globs.take(path) for path in paths)
    assert not any(globs.take(path) for path in ("a 1x.pdf", "deep/bc.pdf", "b*.pdf", "more/deep/b*.pdf"))


def test_a_folder_that_is_a_link_is_what_was_listed(run, tmp_path):
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "real")
    uri = show_uri(f"{(tmp_path / 'real').resolve()}/a.pdf")
    assert _name_documents(Source(uri=str(tmp_path / "link")), [uri], run)["include"] == ["/a.pdf"]


def test_objects_of_a_bucket_are_taken_below_its_prefix(run):
    found = _name_documents(Source(uri="s3://box/in"), ["s3://box/in/x/a%20.pdf"], run)
    assert found == {"uri": "s3://box/in", "include": ["/x/a%20.pdf"]}
    single = "s3://box/in/a.pdf"
    assert _name_documents(Source(uri=single), [single], run) == {"uri": single}


@pytest.mark.parametrize("uris", [[f"s3://box/in/{number}" for number in range(101)], ["s3://other/a.pdf"]])
def test_what_cannot_be_named_is_refused(run, uris):
    with pytest.raises(BadRequest) as refused:
        _name_documents(Source(uri="s3://box/in"), uris, run)
    assert refused.value.code == "run_not_retryable"
