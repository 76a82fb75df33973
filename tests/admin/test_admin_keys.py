"""Keys, settings and the audit log at the pages: a token is shown once, secrets never, and every act leaves a row."""

from __future__ import annotations

import html
import re
from typing import TYPE_CHECKING, Any

import pytest

from batchinfer.domain import ids
from batchinfer.services import audit, keys
from batchinfer.services.keys import authenticate
from batchinfer.settings import Settings
from batchinfer.store.audit import Wanted
from batchinfer.store.keys import ensure_tenant

if TYPE_CHECKING:
    from collections.abc import Callable

    from flask.testing import FlaskClient

    from batchinfer.services.context import Caller, Context

TOKEN = re.compile(r"bi_[0-9a-f]{8}_[A-Za-z0-9_-]{43}")
HOSTILE = "<img src=x onerror=alert(1)>"


@pytest.fixture
def reader(context: Context, caller: Caller, sign_in: Callable[[str], FlaskClient]) -> FlaskClient:
    """A browser with a key that may only read."""
    return sign_in(keys.create_key(context, "looks on", ["read"])[1])


def fill(page: str, **changes: Any) -> dict[str, Any]:
    """The form of a new key as it came, with changes."""
    (once,) = re.findall(r'name="once" value="(\w+)"', page)
    return {"once": once, "name": "nightly uploads", "scopes": ["submit", "read"], "expires_days": "30",
            "requests_per_minute": "", **changes}  # fmt: skip


def list_actions(context: Context, caller: Caller, **wanted: Any) -> list[str]:
    return [stored.act.action for stored in audit.list_acts(context, caller, Wanted(**wanted)).data]


def test_a_token_is_shown_once_and_nowhere_else(
    client: FlaskClient, context: Context, caller: Caller, logged: list[Any]
) -> None:
    form = fill(client.get("/admin/keys/new").text)
    made = client.post("/admin/keys/new", data=form)
    assert made.status_code == 200
    assert made.headers["Cache-Control"] == "no-store"
    (token,) = set(TOKEN.findall(made.text))
    assert authenticate(context, token).scopes == {"submit", "read"}
    again = client.post("/admin/keys/new", data=form)
    assert "This form made its key before" in again.text
    listed = client.get("/admin/keys")
    assert len(keys.list_keys(context, caller).data) == 2
    cookie = client.get_cookie("batchinfer_admin", path="/admin")
    assert cookie is not None
    secret = token.split("_", 2)[2]
    for kept in (again.text, listed.text, cookie.value, repr(made.headers), repr(logged),
                 repr(audit.list_acts(context, caller).data)):  # fmt: skip
        assert secret not in kept
    assert "nightly uploads" in listed.text
    assert f"bi_{token.split('_')[1]}…" in listed.text
    assert list_actions(context, caller, action="key.create", actor="tests") == ["key.create"]


def test_what_a_key_cannot_have_is_said_beside_the_field(client: FlaskClient, context: Context, caller: Caller) -> None:
    page = client.get("/admin/keys/new").text
    for changes, wrong in (
        ({"name": ""}, "name"), ({"name": HOSTILE + "x" * 100}, "name"), ({"scopes": []}, "scopes"),
        ({"requests_per_minute": "many"}, "requests_per_minute"), ({"requests_per_minute": "0"}, "requests_per_minute"),
        ({"scopes": ["root"]}, "scopes"),
    ):  # fmt: skip
        answer = client.post("/admin/keys/new", data=fill(page, **changes))
        assert answer.status_code == 400, changes
        assert f'id="wrong-{wrong}"' in answer.text, changes
        assert HOSTILE not in answer.text
    assert client.post("/admin/keys/new", data=fill(page, tenant="nobody")).status_code == 404
    assert len(keys.list_keys(context, caller).data) == 1


def test_a_key_is_replaced_and_the_new_one_shown_once(client: FlaskClient, context: Context, caller: Caller) -> None:
    old, token = keys.create_key(context, HOSTILE, ["read"])
    address = f"/admin/keys/{ids.show_id(ids.KEY, old.id)}/rotate"
    assert address in client.get("/admin/keys").text
    question = client.get(address)
    assert HOSTILE not in question.text
    (once,) = re.findall(r'name="once" value="(\w+)"', question.text)
    made = client.post(address, data={"once": once, "overlap_days": "1"})
    (new,) = set(TOKEN.findall(made.text))
    for one in (token, new):
        assert authenticate(context, one).scopes == {"read"}
    again = client.post(address, data={"once": once, "overlap_days": "1"})
    assert "This form made its key before" in again.text
    assert len(keys.list_keys(context, caller).data) == 3
    assert client.post(address, data={"once": "x", "overlap_days": "soon"}).status_code == 400
    assert list_actions(context, caller, action="key.rotate", actor="tests") == ["key.rotate"]


def test_a_key_is_revoked_after_a_question_and_its_own_leads_to_the_door(
    client: FlaskClient, context: Context, caller: Caller, api_key: str
) -> None:
    other, token = keys.create_key(context, HOSTILE, ["read"])
    address = f"/admin/keys/{ids.show_id(ids.KEY, other.id)}/revoke"
    question = client.get(address)
    assert "refused at once" in question.text
    assert HOSTILE not in question.text
    assert authenticate(context, token).key_id == other.id
    assert client.post(address).status_code == 303
    assert "revoked" in client.get("/admin/keys").text
    client.post(address)
    assert "had been revoked before" in client.get("/admin/keys").text
    own = f"/admin/keys/{ids.show_id(ids.KEY, caller.key_id)}/revoke"
    assert "signed in with" in client.get(own).text
    assert client.post(own).headers["Location"] == "/admin/keys"
    assert client.get("/admin/keys").headers["Location"].startswith("/admin/sign-in")


def test_keys_settings_and_audit_are_an_administrators(reader: FlaskClient, caller: Caller) -> None:
    menu = reader.get("/admin/").text
    for path in ("/admin/keys", "/admin/keys/new", "/admin/settings", "/admin/audit",
                 f"/admin/keys/{ids.show_id(ids.KEY, caller.key_id)}/revoke"):  # fmt: skip
        assert reader.get(path).status_code == 403, path
        assert f'href="{path}"' not in menu
    assert reader.post("/admin/keys/new", data={"once": "1", "name": "x", "scopes": ["read"]}).status_code == 403
    assert reader.post(f"/admin/keys/{ids.show_id(ids.KEY, caller.key_id)}/revoke").status_code == 403


def test_the_operator_sees_the_keys_of_any_tenant_another_administrator_only_its_own(
    client: FlaskClient, context: Context, sign_in: Callable[[str], FlaskClient]
) -> None:
    tenant_id = ids.new_id()
    with context.db.transaction() as tx:
        ensure_tenant(tx, tenant_id, "strangers")
    _, token = keys.create_key(context, "stranger", ["read", "admin"], tenant_id=tenant_id)
    assert "stranger" in re.sub(
        r"<select.*?</select>", "", client.get("/admin/keys?tenant=strangers").text, flags=re.DOTALL
    )
    stranger = sign_in(token)
    assert "tests" not in stranger.get("/admin/keys").text.split("<main", 1)[1]
    assert stranger.get("/admin/keys?tenant=default").status_code == 404
    assert stranger.get("/admin/settings").status_code == 403
    assert "key.create" in stranger.get("/admin/audit").text


def test_every_setting_is_shown_and_no_secret(client: FlaskClient, settings: Settings, context: Context) -> None:
    page = client.get("/admin/settings").text
    assert settings.database_url is not None
    assert settings.secret_key is not None
    for secret in (settings.database_url, settings.redis_url, settings.secret_key):
        assert secret is not None
        assert secret.get_secret_value() not in html.unescape(page)
    for name, field in Settings.model_fields.items():
        assert f"BATCHINFER_{name.upper()}" in page
        assert field.description in html.unescape(page)
    assert "are not changed here" in page
    changed = re.findall(r'<th scope="row"[^>]*><code>(\w+)</code>', client.get("/admin/settings?from=changed").text)
    assert {"BATCHINFER_DATABASE_URL", "BATCHINFER_HOME"} <= set(changed)
    assert "BATCHINFER_MAX_PAGES" not in changed
    found = re.findall(r"<code>(BATCHINFER_\w+)", client.get("/admin/settings?q=thumbnail").text)
    assert found == ["BATCHINFER_THUMBNAIL_SIDE"]
    assert "No setting is like that." in client.get("/admin/settings?q=zzz").text


def test_signing_in_and_out_leave_a_row_and_a_wrong_key_none(
    anonymous: FlaskClient, context: Context, caller: Caller, api_key: str
) -> None:
    anonymous.post("/admin/sign-in", data={"key": "bi_aaaaaaaa_" + "b" * 43})
    anonymous.post("/admin/sign-out")
    assert list_actions(context, caller, action="pages") == []
    anonymous.post("/admin/sign-in", data={"key": api_key})
    anonymous.post("/admin/sign-out")
    (out, into) = audit.list_acts(context, caller, Wanted(action="pages", key_id=caller.key_id)).data
    assert (into.act.action, out.act.action) == ("pages.sign_in", "pages.sign_out")
    assert into.act.subject == ids.show_id(ids.KEY, caller.key_id)
    assert into.act.actor == "tests"


def test_acts_are_filtered_by_the_address_and_paged_by_key(
    client: FlaskClient, context: Context, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("batchinfer.admin.audit.ROWS", 2)
    for name in ("one", HOSTILE, "three"):
        keys.create_key(context, name, ["read"], actor=f"desk {name}")
    first = client.get("/admin/audit?action=key")
    assert HOSTILE not in first.text
    assert "desk three" in first.text
    assert "onerror" in first.text
    (older,) = re.findall(r'rel="next" href="([^"]+)"', first.text)
    second = client.get(html.unescape(older)).text
    assert "desk one" in second
    assert "desk three" not in second
    assert re.findall(r'class="button" href="([^"]+)"', second) == ["/admin/audit?action=key"]
    own = ids.show_id(ids.KEY, caller.key_id)
    for query, number in (
        ("action=key.create&actor=desk+one", 1), (f"key={own}", 1), ("action=pages.sign_in", 1), ("action=queue", 0),
        ("to=2001-01-01", 0), ("from=2001-01-01&action=pages", 1), ("actor=%00", 0),
    ):  # fmt: skip
        answer = client.get(f"/admin/audit?{query}")
        assert answer.status_code == 200, query
        assert len(re.findall(r'<tr id="act_', answer.text)) == number, query
    for query in ("key=x", "from=x", "after=act_1"):
        assert client.get(f"/admin/audit?{query}").status_code == 400
