"""Results in a bucket: moto's server speaks S3, and answers as S3 does when a bucket is not there."""

from __future__ import annotations

import json
from urllib.request import Request, urlopen

import pytest

from batchinfer.errors import FetchFailed, Unavailable
from batchinfer.services import sealing

pytestmark = pytest.mark.long

boto3 = pytest.importorskip("boto3")
s3fs = pytest.importorskip("s3fs")
moto_server = pytest.importorskip("moto.server")


@pytest.fixture
def bucket(monkeypatch):
    """A client of an S3 server of this test's own, with one bucket."""
    server = moto_server.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    host, port = server.get_host_and_port()
    for name, value in {
        "AWS_ENDPOINT_URL": f"http://{host}:{port}", "AWS_ACCESS_KEY_ID": "none", "AWS_SECRET_ACCESS_KEY": "none",
        "AWS_DEFAULT_REGION": "us-east-1",
    }.items():  # fmt: skip
        monkeypatch.setenv(name, value)
    s3fs.S3FileSystem.clear_instance_cache()
    client = boto3.client("s3")
    # What moto keeps is its process's: another server of this process may have left a bucket.
    with urlopen(Request(f"http://{host}:{port}/moto-api/reset", method="POST"), timeout=30) as answer:
        assert answer.status == 200
    client.create_bucket(Bucket="results")
    yield client
    client.close()
    s3fs.S3FileSystem.clear_instance_cache()
    server.stop()


def names(bucket):
    return sorted(one["Key"] for one in bucket.list_objects_v2(Bucket="results").get("Contents", ()))


def test_a_run_is_written_to_a_bucket(make_night, bucket):
    night = make_night(
        {"type": "jsonl", "uri": "s3://results/night"}, {"type": "markdown", "uri": "s3://results/night"}
    )
    for number in range(3):
        night.close(f"a/{number}.pdf", ("ok", f"text {number}"))
    night.end()
    night.finish()
    root = f"night/{night.shown_id}"
    assert names(bucket) == sorted(
        f"{root}/{name}"
        for name in (
            "pages-00001.jsonl", "pages-00002.jsonl", "_index/documents-00001.jsonl", "_index/documents-00002.jsonl",
            "a/0.pdf.md", "a/1.pdf.md", "a/2.pdf.md", "report.json", "report.html", "manifest.json",
        )
    )  # fmt: skip
    body = bucket.get_object(Bucket="results", Key=f"{root}/pages-00002.jsonl")["Body"].read()
    assert json.loads(body)["text"] == "text 2"
    manifest = json.loads(bucket.get_object(Bucket="results", Key=f"{root}/manifest.json")["Body"].read())
    assert len(manifest["files"]) == 4 + 2


def test_a_bucket_that_is_not_there_is_told_so(make_night, bucket):
    bucket.delete_bucket(Bucket="results")
    night = make_night({"type": "jsonl", "uri": "s3://results/night"})
    night.close("a.pdf", ("ok", "1"))
    night.close("b.pdf", ("ok", "2"))
    (claim,) = night.take()
    with pytest.raises((FetchFailed, Unavailable)) as raised:
        sealing.seal_shard(night.ctx, claim, night.scratch, lambda action: action(), lambda: True)
    assert night.run.cause["code"] == raised.value.code
    assert raised.value.code == "sink_refused"
