"""What the third step makes of rows that were there before it."""

from __future__ import annotations

import json
from uuid import UUID

import psycopg

from batchinfer.domain.ids import DEFAULT_TENANT, new_id
from batchinfer.store import migrate

MADE, SENT = "1" * 64, "0" * 64


def test_pictures_and_suspects_of_before_are_known_afterwards(empty_database_url: str) -> None:
    migrate.upgrade(empty_database_url, "0002")
    job_id, crashed = new_id(), new_id()
    images = [{"sha256": SENT, "normal": {"sha256": MADE, "media_type": "image/png"}}, {"sha256": SENT, "normal": None}]
    with psycopg.connect(empty_database_url) as connection:
        connection.execute(
            "INSERT INTO jobs (id, tenant_id, model, prompt) VALUES (%s, %s, 'm', %s), (%s, %s, 'm', '{}')",
            [job_id, DEFAULT_TENANT, json.dumps({"images": images}), crashed, DEFAULT_TENANT],
        )
        connection.execute(
            "INSERT INTO blobs (tenant_id, sha256, size_bytes, media_type) VALUES (%s, %s, 9, 'image/png')",
            [DEFAULT_TENANT, SENT],
        )
        connection.execute(
            "INSERT INTO queue (id, kind, subject_id, tenant_id, model, crashes) VALUES"
            " (%(a)s, 'infer', %(a)s, %(t)s, 'm', 0), (%(b)s, 'infer', %(b)s, %(t)s, 'm', 2)",
            {"a": job_id, "b": crashed, "t": DEFAULT_TENANT},
        )
    assert migrate.upgrade(empty_database_url) == migrate.head_revision()
    with psycopg.connect(empty_database_url) as connection:
        blobs = connection.execute("SELECT sha256, media_type FROM blobs ORDER BY sha256").fetchall()
        suspected = dict(connection.execute("SELECT id, suspected FROM queue").fetchall())
    assert blobs == [(SENT, "image/png"), (MADE, "image/png")]
    assert suspected == {UUID(str(job_id)): 0, UUID(str(crashed)): 2}
