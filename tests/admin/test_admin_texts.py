"""The pages' texts: every one is there in every language, with the same places to fill, and compiled."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

import pytest

from batchinfer.admin.language import LANGUAGES
from batchinfer.admin.texts import OTHERS, collect, compile_catalog, find_file, list_missing, read_catalog, renew

if TYPE_CHECKING:
    from flask.testing import FlaskClient

PLACES = re.compile(r"%\(\w+\)s|</?\w+[^>]*>")


@pytest.mark.parametrize("language", OTHERS)
def test_every_text_is_translated(language: str) -> None:
    marked = {(message.id, message.context) for message in collect() if message.id}
    catalog = read_catalog(language)
    written = {(message.id, message.context) for message in catalog if message.id}
    assert marked - written == set(), "run `make texts`"
    assert written - marked == set(), "run `make texts`"
    assert list_missing(catalog) == []


@pytest.mark.parametrize("language", OTHERS)
def test_translations_keep_the_places_to_fill(language: str) -> None:
    for message in read_catalog(language):
        if not message.id:
            continue
        forms = message.id if isinstance(message.id, tuple) else (message.id,)
        strings = message.string if isinstance(message.string, tuple) else (message.string,)
        allowed = [sorted(PLACES.findall(form)) for form in forms]
        for string in strings:
            assert sorted(PLACES.findall(string)) in allowed, f"{message.id}: {string}"


@pytest.mark.parametrize("language", OTHERS)
def test_what_the_pages_read_is_what_was_written(language: str) -> None:
    assert find_file(language, "mo").read_bytes() == compile_catalog(renew(language)), "run `make texts`"


def test_every_language_is_one_that_pages_offer() -> None:
    assert {"en", *OTHERS} == set(LANGUAGES)


@pytest.mark.parametrize(
    ("asked", "tag", "word"),
    [
        ("zh-CN,zh;q=0.9,en;q=0.8", "zh-Hans", "登录"),
        ("zh", "zh-Hans", "登录"),
        ("en-GB,en;q=0.9,zh;q=0.1", "en", "Sign in"),
        ("fr", "en", "Sign in"),
        ("", "en", "Sign in"),
    ],
)
def test_the_browser_chooses_the_language(anonymous: FlaskClient, asked: str, tag: str, word: str) -> None:
    page = anonymous.get("/admin/sign-in", headers={"Accept-Language": asked} if asked else {}).text
    assert f'<html lang="{tag}">' in page
    assert f"<h1>{word}</h1>" in page


@pytest.mark.parametrize("zone", ["../../etc/passwd", "Nowhere/City", "America", "\x00", "x" * 3000, ""])
def test_a_zone_that_cannot_be_is_utc(client: FlaskClient, zone: str) -> None:
    client.set_cookie("batchinfer_zone", zone, path="/admin")
    page = client.get("/admin/")
    assert page.status_code == 200
    assert 'data-zone="UTC"' in page.text


def test_times_are_shown_in_the_zone_that_was_chosen(client: FlaskClient) -> None:
    client.set_cookie("batchinfer_zone", "Asia/Shanghai", path="/admin")
    page = client.get("/admin/")
    assert page.headers["X-As-Of"].endswith("Asia/Shanghai")
    assert 'data-zone="Asia/Shanghai"' in page.text
