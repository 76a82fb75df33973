"""The door: no key, no page; a key that ends, ends the session; other sites cannot press our buttons."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from batchinfer.admin import signin
from batchinfer.admin.guard import CSP, Throttle
from batchinfer.errors import Busy
from batchinfer.services import keys
from batchinfer.store import keys as stored_keys
from batchinfer.web import create_app

if TYPE_CHECKING:
    from flask.testing import FlaskClient

    from batchinfer.services.context import Caller, Context

PAGES = (
    "/admin/",
    "/admin/jobs",
    "/admin/schedules",
    "/admin/runs",
    "/admin/keys",
    "/admin/settings",
    "/admin/audit",
    "/admin/jobs/job_" + "0" * 32,
    "/admin/jobs/job_" + "0" * 32 + "/images/0",
)


@pytest.mark.parametrize("path", PAGES)
def test_without_a_session_every_page_leads_to_the_door(anonymous: FlaskClient, path: str) -> None:
    answer = anonymous.get(path)
    assert answer.status_code == 303
    assert answer.headers["Location"].startswith("/admin/sign-in?next=")


def test_the_way_back_after_signing_in_is_the_page_asked_for(anonymous: FlaskClient, api_key: str) -> None:
    door = anonymous.get("/admin/jobs?state=failed", follow_redirects=True)
    assert 'value="/admin/jobs?state=failed"' in door.text
    answer = anonymous.post("/admin/sign-in", data={"key": api_key, "next": "/admin/jobs?state=failed"})
    assert (answer.status_code, answer.headers["Location"]) == (303, "/admin/jobs?state=failed")


@pytest.mark.parametrize(
    "target",
    ["https://elsewhere.example/", "//elsewhere.example/", "/\\elsewhere.example", "/admin/\\x", "", "/v1/jobs"],
)
def test_signing_in_never_leads_to_another_site(anonymous: FlaskClient, api_key: str, target: str) -> None:
    answer = anonymous.post("/admin/sign-in", data={"key": api_key, "next": target})
    assert answer.headers["Location"] == "/admin/"


@pytest.mark.parametrize("token", ["", "x", "bi_aaaaaaaa_" + "b" * 43, "bi_", "\x00", "ü" * 500])
def test_a_wrong_key_stays_at_the_door(anonymous: FlaskClient, api_key: str, token: str) -> None:
    answer = anonymous.post("/admin/sign-in", data={"key": token})
    assert answer.status_code == 401
    assert 'role="alert"' in answer.text
    assert anonymous.get("/admin/").status_code == 303


def test_a_key_without_read_may_not_look(anonymous: FlaskClient, context: Context, api_key: str) -> None:
    _, token = keys.create_key(context, "only submits", ["submit"])
    answer = anonymous.post("/admin/sign-in", data={"key": token})
    assert answer.status_code == 403
    assert "read" in answer.text


def test_the_cookie_is_guarded_and_holds_no_key(anonymous: FlaskClient, api_key: str) -> None:
    answer = anonymous.post("/admin/sign-in", data={"key": api_key})
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=Lax" in cookie
    assert "Path=/admin" in cookie
    assert api_key.split("_")[2] not in cookie
    https = anonymous.post("/admin/sign-in", data={"key": api_key}, base_url="https://localhost")
    assert "Secure" in https.headers["Set-Cookie"]


@pytest.mark.parametrize("hops", [0, 1])
def test_a_proxy_is_believed_only_where_it_is_counted(
    context: Context, api_key: str, hops: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By which scheme somebody asks, and from where; that is the last address, which the proxy itself wrote."""
    monkeypatch.setattr(signin, "throttle", Throttle(most=1))
    counted = replace(context, settings=context.settings.model_copy(update={"proxies": hops}))
    browser = create_app(context=counted).test_client()
    said = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "192.0.2.9, 192.0.2.1", "X-Forwarded-Host": "elsewhere"}
    answer = browser.post("/admin/sign-in", data={"key": api_key}, headers=said)
    assert ("Secure" in answer.headers["Set-Cookie"]) == bool(hops)
    browser.post("/admin/sign-in", data={"key": "wrong"}, headers=said)
    assert browser.post("/admin/sign-in", data={"key": "wrong"}, headers=said).status_code == 429
    other = browser.post("/admin/sign-in", data={"key": "wrong"}, headers={**said, "X-Forwarded-For": "192.0.2.2"})
    assert other.status_code == (401 if hops else 429), "one address does not lock out another"


def test_a_changed_cookie_is_no_session(anonymous: FlaskClient, client: FlaskClient) -> None:
    cookie = client.get_cookie("batchinfer_admin", path="/admin")
    assert cookie is not None
    anonymous.set_cookie("batchinfer_admin", cookie.value[:-2] + "xx", path="/admin")
    assert anonymous.get("/admin/").status_code == 303


def test_a_revoked_key_ends_its_session(client: FlaskClient, context: Context, caller: Caller) -> None:
    assert client.get("/admin/").status_code == 200
    with context.db.transaction() as tx:
        assert stored_keys.revoke_key(tx, caller.tenant_id, caller.key_id)
    assert client.get("/admin/").status_code == 303
    fragment = client.get("/admin/", headers={"HX-Request": "true"})
    assert (fragment.status_code, fragment.headers["HX-Refresh"]) == (401, "true")


@pytest.mark.parametrize(
    ("referer", "target"),
    [
        ("http://localhost/admin/jobs?state=failed", "/admin/jobs?state=failed"),
        ("http://localhost/admin/schedules/new", "/admin/schedules/new"),
        ("https://elsewhere.example/admin/jobs", None),
        (None, None),
    ],
)
def test_a_form_that_comes_after_the_session_does_nothing_and_leads_back_to_its_page(
    client: FlaskClient, context: Context, caller: Caller, api_key: str, referer: str | None, target: str | None
) -> None:
    _, other = keys.create_key(context, "another", ["read"])
    with context.db.transaction() as tx:
        stored_keys.revoke_key(tx, caller.tenant_id, caller.key_id)
    headers = {"Referer": referer} if referer else {}
    door = client.post("/admin/schedules/new", headers=headers, data={"name": "late"}, follow_redirects=True)
    assert door.request.path == "/admin/sign-in"
    assert "Your session had ended, so nothing was done." in door.text
    assert (f'name="next" value="{target}"' in door.text) is (target is not None)
    back = client.post("/admin/sign-in", data={"key": other, "next": target or ""})
    assert back.headers["Location"] == (target or "/admin/")


def test_signing_out_ends_the_session(client: FlaskClient) -> None:
    assert client.post("/admin/sign-out").status_code == 303
    assert client.get("/admin/").status_code == 303
    assert client.get("/admin/sign-out").status_code in {303, 405}


@pytest.mark.parametrize("path", ["/admin/sign-in", "/admin/sign-out"])
@pytest.mark.parametrize(
    "headers",
    [
        {"Sec-Fetch-Site": "cross-site"},
        {"Sec-Fetch-Site": "same-site"},
        {"Origin": "https://elsewhere.example"},
        {"Origin": "null"},
    ],
)
def test_a_form_of_another_site_is_refused(client: FlaskClient, path: str, headers: dict[str, str]) -> None:
    answer = client.post(path, headers=headers)
    assert answer.status_code == 403
    assert "another site" in answer.text
    assert client.get("/admin/").status_code == 200


@pytest.mark.parametrize(
    "headers", [{"Sec-Fetch-Site": "same-origin"}, {"Sec-Fetch-Site": "none"}, {"Origin": "http://localhost"}, {}]
)
def test_our_own_forms_pass(client: FlaskClient, headers: dict[str, str]) -> None:
    assert client.post("/admin/sign-out", headers=headers).status_code == 303


def test_too_many_wrong_keys_must_wait(anonymous: FlaskClient, api_key: str) -> None:
    for _ in range(10):
        assert anonymous.post("/admin/sign-in", data={"key": "wrong"}).status_code == 401
    answer = anonymous.post("/admin/sign-in", data={"key": api_key})
    assert answer.status_code == 429
    assert 0 < int(answer.headers["Retry-After"]) <= 120


def test_the_throttle_forgets() -> None:
    throttle = Throttle(most=1, within_s=0.0)
    throttle.count_failure("a")
    throttle.check("a")
    strict = Throttle(most=1)
    strict.count_failure("a")
    strict.check("b")
    with pytest.raises(Busy):
        strict.check("a")


@pytest.mark.parametrize(
    "path", ["/admin/", "/admin/jobs", "/admin/nowhere", "/admin/jobs/nothing", "/admin/static/admin.css"]
)
def test_every_answer_has_the_strict_headers(client: FlaskClient, path: str) -> None:
    headers = client.get(path).headers
    assert headers["Content-Security-Policy"] == CSP
    assert headers["X-Content-Type-Options"] == "nosniff"
    assert headers["Referrer-Policy"] == "same-origin"
    if "static" not in path:
        assert headers["Cache-Control"] == "no-store"


def test_the_door_has_the_strict_headers_too(anonymous: FlaskClient) -> None:
    for answer in (anonymous.get("/admin/sign-in"), anonymous.get("/admin/"), anonymous.post("/admin/sign-in")):
        assert answer.headers["Content-Security-Policy"] == CSP
        assert answer.headers["Cache-Control"] == "no-store"
