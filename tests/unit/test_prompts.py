"""What a request may hold, field by field. Each refusal names the field and carries a stable code."""

from __future__ import annotations

import base64
import json
from typing import Any
from uuid import UUID

import pytest

from batchinfer.domain.fields import decode_json
from batchinfer.domain.jobs import JobClass
from batchinfer.domain.prompts import JobRequest, Limits, Upload, parse_form, parse_job
from batchinfer.errors import BadRequest, NotFound
from batchinfer.settings import load_settings

LIMITS = Limits(default_max_tokens=512, max_tokens=4096, max_prompt_chars=1000, max_images=3, max_body_bytes=1_000_000)
PNG = b"\x89PNG\r\n\x1a\nrest"
URL = "data:image/png;base64," + base64.b64encode(PNG).decode()


def ask(**fields: Any) -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": "user", "content": "hello"}], **fields}


def ask_parts(*parts: Any, role: str = "user") -> dict[str, Any]:
    return {"model": "m", "messages": [{"role": role, "content": list(parts)}]}


def picture(url: Any = URL, **more: Any) -> dict[str, Any]:
    return {"type": "image_url", "image_url": {"url": url, **more}}


def refusal(body: object) -> BadRequest:
    with pytest.raises(BadRequest) as caught:
        parse_job(body, LIMITS)
    return caught.value


def test_the_least_that_is_a_job() -> None:
    request = parse_job(ask(), LIMITS)
    assert request == JobRequest(
        model="m",
        job_class=JobClass.NORMAL,
        messages=({"role": "user", "content": [{"type": "text", "text": "hello"}]},),
        uploads=(),
        sampling={
            "temperature": 0.0,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "seed": None,
            "repetition_penalty": 1.0,
            "logprobs": False,
        },
        max_tokens=512,
        stop=(),
        response_format=None,
        metadata={},
        expires_in_s=None,
    )


def test_pictures_become_places_that_count_into_the_uploads() -> None:
    body = ask_parts(picture(), {"type": "text", "text": "between"}, picture(detail="high"))
    request = parse_job(body, LIMITS)
    assert request.messages[0]["content"] == [
        {"type": "image", "index": 0},
        {"type": "text", "text": "between"},
        {"type": "image", "index": 1},
    ]
    assert [upload.data for upload in request.uploads] == [PNG, PNG]
    assert request.uploads[1].param == "messages.0.content.2.image_url.url"


def test_a_file_part_brings_its_name() -> None:
    part = {
        "type": "file",
        "file": {"filename": "a.pdf", "file_data": "data:application/pdf;base64,JVBERg=="},
    }
    upload = parse_job(ask_parts(part, {"type": "text", "text": "read"}), LIMITS).uploads[0]
    assert upload == Upload(b"%PDF", "a.pdf", "messages.0.content.0.file.file_data")


def test_a_file_part_names_a_file_that_is_kept() -> None:
    part = {"type": "file", "file": {"file_id": "file-0192f1c07d6a7b3e8f00c0ffee00c0de", "file_data": None}}
    (upload,) = parse_job(ask_parts(part), LIMITS).uploads
    assert upload == Upload(b"", None, "messages.0.content.0.file.file_id", file_id=upload.file_id)
    assert upload.file_id == UUID("0192f1c07d6a7b3e8f00c0ffee00c0de")
    with pytest.raises(NotFound) as caught:
        parse_job(ask_parts({"type": "file", "file": {"file_id": "file-1"}}), LIMITS)
    assert (caught.value.code, caught.value.param) == ("file_not_found", "messages.0.content.0.file.file_id")


def test_addresses_are_taken_where_the_operator_names_hosts() -> None:
    limits = Limits.of(load_settings(fetch_hosts="*.example.com"))
    body = ask_parts(picture("HTTPS://a.Example.com/p.png?q#f"), {"type": "text", "text": "read"})
    (upload,) = parse_job(body, limits).uploads
    assert (upload.url, upload.data) == ("https://a.example.com/p.png?q", b"")
    for address, code in {"https://example.org/": "url_not_allowed", "https://x@a.example.com/": "invalid_url"}.items():
        with pytest.raises(BadRequest) as caught:
            parse_job(ask_parts(picture(address)), limits)
        assert (caught.value.code, caught.value.param) == (code, "messages.0.content.0.image_url.url")


def test_every_field_is_read() -> None:
    request = parse_job(
        ask(
            max_tokens=7.0,
            temperature=1,
            top_p=0.5,
            top_k=4,
            min_p=0.1,
            seed=3,
            repetition_penalty=1.1,
            logprobs=True,
            stop=["a", "b"],
            response_format={
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "object"}},
            },
            metadata={"folder": "in"},
            expires_in=60,
            n=1,
            stream=False,
        )
        | {"class": "batch"},
        LIMITS,
    )
    assert request.max_tokens == 7
    assert isinstance(request.max_tokens, int)
    assert request.sampling == {
        "temperature": 1.0,
        "top_p": 0.5,
        "top_k": 4,
        "min_p": 0.1,
        "seed": 3,
        "repetition_penalty": 1.1,
        "logprobs": True,
    }
    assert request.stop == ("a", "b")
    assert request.response_format is not None
    assert (request.metadata, request.expires_in_s, request.job_class) == (
        {"folder": "in"},
        60.0,
        JobClass.BATCH,
    )


def test_null_means_left_out() -> None:
    names = [
        "max_tokens",
        "temperature",
        "seed",
        "stop",
        "response_format",
        "metadata",
        "expires_in",
        "n",
        "stream",
    ]
    assert parse_job(ask(**dict.fromkeys(names)), LIMITS) == parse_job(ask(), LIMITS)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"max_tokens": -1}, "max_tokens", "invalid_value"),
        ({"max_tokens": 0}, "max_tokens", "invalid_value"),
        ({"max_tokens": 1e9}, "max_tokens", "invalid_value"),
        ({"max_tokens": 10**400}, "max_tokens", "invalid_value"),
        ({"max_tokens": True}, "max_tokens", "invalid_type"),
        ({"max_tokens": "5"}, "max_tokens", "invalid_type"),
        ({"max_tokens": 1.5}, "max_tokens", "invalid_type"),
        ({"max_tokens": float("nan")}, "max_tokens", "invalid_value"),
        ({"max_tokens": 4, "max_completion_tokens": 5}, "max_completion_tokens", "invalid_value"),
        ({"temperature": float("inf")}, "temperature", "invalid_value"),
        ({"temperature": 2.1}, "temperature", "invalid_value"),
        ({"temperature": -(10**400)}, "temperature", "invalid_value"),
        ({"top_p": 0}, "top_p", "invalid_value"),
        ({"top_k": -1}, "top_k", "invalid_value"),
        ({"min_p": 2}, "min_p", "invalid_value"),
        ({"seed": 2**63}, "seed", "invalid_value"),
        ({"seed": False}, "seed", "invalid_type"),
        ({"repetition_penalty": 0}, "repetition_penalty", "invalid_value"),
        ({"logprobs": 1}, "logprobs", "invalid_type"),
        ({"stop": ["a"] * 17}, "stop", "invalid_value"),
        ({"stop": [""]}, "stop.0", "invalid_value"),
        ({"stop": 4}, "stop", "invalid_type"),
        ({"n": 2}, "n", "invalid_value"),
        ({"stream": True}, "stream", "invalid_value"),
        ({"class": "urgent"}, "class", "invalid_value"),
        ({"service_tier": "gold"}, "service_tier", "invalid_value"),
        ({"class": "batch", "service_tier": "flex"}, "service_tier", "invalid_value"),
        ({"expires_in": 0}, "expires_in", "invalid_value"),
        ({"metadata": {str(i): "" for i in range(17)}}, "metadata", "invalid_value"),
        ({"metadata": {"k" * 65: "v"}}, "metadata." + "k" * 60 + "…", "invalid_value"),
        ({"metadata": {"k": "v" * 513}}, "metadata.k", "invalid_value"),
        ({"metadata": {"k": 4}}, "metadata.k", "invalid_type"),
        ({"metadata": {"": "v"}}, "metadata.", "invalid_value"),
        ({"response_format": {"type": "yaml"}}, "response_format.type", "invalid_value"),
        ({"response_format": {}}, "response_format.type", "missing_required_parameter"),
        ({"response_format": {"type": "choice", "choice": []}}, "response_format.choice", "invalid_value"),
        ({"response_format": {"type": "regex"}}, "response_format.regex", "missing_required_parameter"),
        ({"response_format": {"type": "text", "regex": "a"}}, "response_format.regex", "unknown_parameter"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"name": "x"}}},
            "response_format.json_schema.schema",
            "missing_required_parameter",
        ),
        (
            {
                "response_format": {
                    "type": "json_schema",
                    "json_schema": {"name": "x", "schema": {"minimum": 1e999}},
                }
            },
            "response_format.json_schema.schema.minimum",
            "invalid_value",
        ),
        ({"model": ""}, "model", "invalid_value"),
        ({"model": None}, "model", "missing_required_parameter"),
        ({"model": 4}, "model", "invalid_type"),
        ({"messages": []}, "messages", "invalid_value"),
        ({"messages": None}, "messages", "missing_required_parameter"),
        ({"messages": "hello"}, "messages", "invalid_type"),
        ({"messages": [{"role": "user", "content": "  "}]}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "system", "content": "be kind"}]}, "messages", "missing_required_parameter"),
        ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role", "invalid_value"),
        ({"messages": [{"role": "user"}]}, "messages.0.content", "missing_required_parameter"),
        ({"messages": [{"role": "user", "content": []}]}, "messages.0.content", "invalid_value"),
        ({"messages": [{"role": "user", "content": "x" * 1001}]}, "messages.0.content", "prompt_too_long"),
    ],
)
def test_a_bad_field_is_named(fields: dict[str, Any], param: str, code: str) -> None:
    error = refusal(ask(**fields))
    assert (error.param, error.code) == (param, code)
    assert param in error.message


def test_a_limit_that_is_passed_is_told() -> None:
    assert "4,096" in refusal(ask(max_tokens=1e9)).message


@pytest.mark.parametrize(
    ("sent", "meant"),
    [("modle", "model"), ("max_token", "max_tokens"), ("temprature", "temperature"), ("priority", "class")],
)
def test_an_unknown_field_is_named_with_the_nearest(sent: str, meant: str) -> None:
    error = refusal(ask(**{sent: 1}))
    assert (error.param, error.code) == (sent, "unknown_parameter")
    assert f"`{meant}`" in error.message


def test_unknown_fields_inside_are_named_with_their_path() -> None:
    error = refusal(ask_parts({"type": "text", "text": "x", "txt": 1}))
    assert error.param == "messages.0.content.0.txt"
    error = refusal(ask_parts(picture(size=4)))
    assert error.param == "messages.0.content.0.image_url.size"


@pytest.mark.parametrize(
    ("part", "param", "code"),
    [
        ({"type": "image_url"}, "image_url", "missing_required_parameter"),
        ({"type": "image_url", "image_url": {}}, "image_url.url", "missing_required_parameter"),
        ({"type": "image_url", "image_url": URL}, "image_url", "invalid_type"),
        (picture(4), "image_url.url", "invalid_type"),
        (picture("https://example.com/a.png"), "image_url.url", "invalid_image_url"),
        (picture("HTTP://example.com/a.png"), "image_url.url", "invalid_image_url"),
        (picture("file:///etc/passwd"), "image_url.url", "invalid_image_url"),
        (picture("data:image/png,raw"), "image_url.url", "invalid_image_url"),
        (picture("data:image/png;base64"), "image_url.url", "invalid_image_url"),
        (picture(""), "image_url.url", "invalid_image_url"),
        (picture("data:image/png;base64,"), "image_url.url", "empty_image_file"),
        (picture("data:image/png;base64,QUJ"), "image_url.url", "invalid_base64_image"),
        (picture("data:image/png;base64,QU!D"), "image_url.url", "invalid_base64_image"),
        (picture("data:image/png;base64,QUJD\n"), "image_url.url", "invalid_base64_image"),
        (picture("data:image/png;base64,QUJDé"), "image_url.url", "invalid_base64_image"),
        (picture(detail="huge"), "image_url.detail", "invalid_value"),
        ({"type": "input_audio", "input_audio": {}}, "type", "invalid_value"),
        ({"type": "file", "file": {"file_id": 5}}, "file.file_id", "invalid_type"),
        ({"type": "file", "file": {"file_id": "file-1", "file_data": URL}}, "file.file_id", "invalid_value"),
        ({"type": "file", "file": {"file_url": "https://example.com/a.pdf"}}, "file.file_url", "invalid_image_url"),
        ({"type": "file", "file": {"file_path": "/etc/passwd"}}, "file.file_path", "unknown_parameter"),
        ({"type": "file", "file": {}}, "file.file_data", "missing_required_parameter"),
        ("text", "", "invalid_type"),
    ],
)
def test_a_bad_part_is_named(part: Any, param: str, code: str) -> None:
    error = refusal(ask_parts(part))
    assert (error.param, error.code) == (f"messages.0.content.0.{param}".rstrip("."), code)


def test_an_address_is_answered_with_what_to_send() -> None:
    error = refusal(ask_parts(picture("https://example.com/a.png")))
    assert "fetching is off" in error.message
    assert "data:image/png;base64" in error.message
    assert "example.com" not in error.message


def test_pictures_stand_in_user_messages_only() -> None:
    assert refusal(ask_parts(picture(), role="system")).param == "messages.0.content.0.image_url"


def test_one_picture_too_many() -> None:
    error = refusal(ask_parts(*[picture()] * 4))
    assert (error.code, error.param) == ("too_many_images", "messages.0.content.3.image_url.url")


@pytest.mark.parametrize("bad", ["a\0b", "a\ud800b", "\udfff"])
def test_nul_and_lone_surrogates_are_refused_anywhere(bad: str) -> None:
    bodies = {
        "messages.0.content": ask(messages=[{"role": "user", "content": bad}]),
        "model": ask(model=bad),
        "metadata.k": ask(metadata={"k": bad}),
        "stop": ask(stop=bad),
        "response_format.regex": ask(response_format={"type": "regex", "regex": bad}),
    }
    for param, body in bodies.items():
        error = refusal(body)
        assert (error.param, error.code) == (param, "invalid_characters")
    assert refusal(ask(metadata={bad: "v"})).code == "invalid_characters"
    # What goes back to the user can be written as JSON in UTF-8.
    json.dumps(refusal(ask(**{bad: 1})).as_dict(), ensure_ascii=False).encode("utf-8")


def test_depth_is_refused_in_json_and_in_values() -> None:
    with pytest.raises(BadRequest) as caught:
        decode_json(b"[" * 100_000)
    assert caught.value.code == "invalid_json"
    schema: dict[str, Any] = {}
    for _ in range(100):
        schema = {"items": schema}
    body = ask(response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
    assert refusal(body).code == "invalid_json"


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b'{"a": NaN}',
        b'{"a": -Infinity}',
        b"\xff\xfe{}",
        b"\xef\xbb\xbf{}",
        b"1" * 5000,
    ],
)
def test_what_is_not_json_is_refused(raw: bytes) -> None:
    with pytest.raises(BadRequest) as caught:
        decode_json(raw)
    assert caught.value.code == "invalid_json"


def test_vast_trees_are_refused_before_they_are_walked() -> None:
    error = refusal(ask(messages=[0] * 3_000_000))
    assert (error.param, error.code) == ("messages", "invalid_value")
    assert "100,000" in error.message


def test_the_last_of_two_equal_keys_counts() -> None:
    assert decode_json(b'{"a": 1, "a": 2}') == {"a": 2}


@pytest.mark.parametrize("body", [None, 4, "x", [], [{}], True])
def test_a_body_that_is_no_object(body: object) -> None:
    assert refusal(body).code == "invalid_type"


def test_openai_tiers_are_classes() -> None:
    tiers = {"auto": JobClass.NORMAL, "default": JobClass.NORMAL, "flex": JobClass.BATCH}
    for tier, job_class in {**tiers, "priority": JobClass.INTERACTIVE}.items():
        assert parse_job(ask(service_tier=tier), LIMITS).job_class is job_class


FILE = Upload(PNG, "a.png", "file")


def test_a_form_is_files_then_the_prompt() -> None:
    fields = {
        "model": "m",
        "prompt": "read",
        "system": "be exact",
        "max_tokens": "9",
        "stop": '["a"]',
        "seed": "",
    }
    request = parse_form(fields, [FILE, FILE], LIMITS)
    assert request.messages == (
        {"role": "system", "content": [{"type": "text", "text": "be exact"}]},
        {
            "role": "user",
            "content": [
                {"type": "image", "index": 0},
                {"type": "image", "index": 1},
                {"type": "text", "text": "read"},
            ],
        },
    )
    assert (request.max_tokens, request.stop, request.sampling["seed"]) == (9, ("a",), None)
    assert request.uploads == (FILE, FILE)


@pytest.mark.parametrize(
    ("fields", "param", "code"),
    [
        ({"prompt": ""}, "prompt", "missing_required_parameter"),
        ({"promt": "x"}, "promt", "unknown_parameter"),
        ({"file": "a.png"}, "file", "invalid_type"),
        ({"max_tokens": "NaN"}, "max_tokens", "invalid_json"),
        ({"max_tokens": "1e9"}, "max_tokens", "invalid_value"),
        ({"max_tokens": "many"}, "max_tokens", "invalid_json"),
        ({"max_tokens": "9" * 5000}, "max_tokens", "invalid_json"),
        ({"temperature": "1e999"}, "temperature", "invalid_value"),
        ({"metadata": "[]"}, "metadata", "invalid_type"),
        ({"metadata": '{"a": "\\ud800"}'}, "metadata.a", "invalid_characters"),
        ({"prompt": "a\0"}, "prompt", "invalid_characters"),
        ({"prompt": "x" * 1001}, "prompt", "invalid_value"),
        ({"prompt": "x" * 999, "system": "yy"}, "system", "invalid_value"),
        ({"model": ""}, "model", "missing_required_parameter"),
    ],
)
def test_a_bad_form_field_is_named(fields: dict[str, str], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_form({"model": "m", "prompt": "read", **fields}, [FILE], LIMITS)
    assert (caught.value.param, caught.value.code) == (param, code)


@pytest.mark.parametrize(
    ("uploads", "param", "code"),
    [
        ([], "file", "missing_required_parameter"),
        ([Upload(b"", "a.png", "file")], "file", "empty_image_file"),
        ([FILE] * 4, "file", "too_many_images"),
        ([Upload(PNG, "a\0.png", "file")], "filename", "invalid_characters"),
        ([Upload(PNG, "\ud800.png", "file")], "filename", "invalid_characters"),
        ([Upload(PNG, "a" * 256, "file")], "filename", "invalid_value"),
    ],
)
def test_a_bad_file_is_named(uploads: list[Upload], param: str, code: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_form({"model": "m", "prompt": "read"}, uploads, LIMITS)
    assert (caught.value.param, caught.value.code) == (param, code)
