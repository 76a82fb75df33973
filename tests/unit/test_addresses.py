from __future__ import annotations

from ipaddress import ip_address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from batchinfer.domain.addresses import Reach, is_public, parse_networks, parse_web_url, read_address
from batchinfer.errors import BadRequest

CLOSED = Reach()
PLAIN = Reach(plain_http=True)

NOT_PUBLIC = """
    0.0.0.0 0.1.2.3 10.0.0.1 100.64.0.1 100.100.100.200 127.0.0.1 127.8.8.8 168.63.129.16 169.254.169.254 172.16.0.1
    192.0.0.192 192.0.2.1 192.88.99.1 192.168.1.1 198.18.0.1 198.51.100.1 203.0.113.1 224.0.0.1 239.255.255.250
    240.0.0.1 255.255.255.255
    :: ::1 ::127.0.0.1 ::ffff:127.0.0.1 ::ffff:169.254.169.254 ::ffff:0:127.0.0.1 64:ff9b::a9fe:a9fe 64:ff9b::7f00:1
    64:ff9b:1::1 100::1 2001::1 2001:db8::1 2002:7f00:1:: 2002:808:808:: 3fff::1 5f00::1 fc00::1 fd00:ec2::254 fe80::1
    fec0::1 ff02::1 4000::1
""".split()  # noqa: SIM905 - a list of forty would be forty lines


@pytest.mark.parametrize("text", NOT_PUBLIC)
def test_what_is_not_on_the_internet_is_not_public(text: str) -> None:
    assert not is_public(ip_address(text))
    assert not PLAIN.permits(ip_address(text), 443)


@pytest.mark.parametrize("text", ["8.8.8.8", "93.184.216.34", "2606:4700::1111", "::ffff:8.8.8.8", "64:ff9b::808:808"])
def test_the_rest_is(text: str) -> None:
    assert is_public(ip_address(text))
    assert CLOSED.permits(ip_address(text), 443)
    assert not CLOSED.permits(ip_address(text), 22), "the ports of the web and no other"


def test_a_network_that_was_named_is_open_on_any_port_and_its_neighbours_stay_shut() -> None:
    reach = Reach(networks=parse_networks("127.0.0.0/8, fd12::/16"))
    assert reach.permits(ip_address("127.0.0.1"), 8000)
    assert reach.permits(ip_address("::ffff:127.0.0.1"), 8000)
    assert reach.permits(ip_address("fd12::1"), 22)
    for text in ("10.0.0.1", "169.254.169.254", "::1", "64:ff9b::7f00:1"):
        assert not reach.permits(ip_address(text), 443), text


@pytest.mark.parametrize("text", ["10.0.0.1/8", "example.com", "10.0.0.0/33"])
def test_networks_that_are_none_are_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"host bits|not appear"):
        parse_networks(text)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("https://Example.COM", ("https", "example.com", 443, "/")),
        ("https://example.com:443/a/b?c=d#e", ("https", "example.com", 443, "/a/b?c=d")),
        ("HTTP://a-b.example:80?x", ("http", "a-b.example", 80, "/?x")),
        ("https://8.8.8.8/x", ("https", "8.8.8.8", 443, "/x")),
        ("https://[2606:4700:0::1111]/x", ("https", "2606:4700::1111", 443, "/x")),
        ("https://example.com/a@b", ("https", "example.com", 443, "/a@b")),
    ],
)
def test_a_url_is_read_into_its_parts(text: str, parts: tuple[str, str, int, str]) -> None:
    url = parse_web_url(text, PLAIN, param="url")
    assert (url.scheme, url.host, url.port, url.target) == parts
    assert parse_web_url(str(url), PLAIN, param="url") == url


@pytest.mark.parametrize(
    "text",
    [
        "", "example.com", "//example.com", "ftp://example.com", "file:///etc/passwd", "gopher://example.com",
        "https://", "https:///a", "https://user@example.com", "https://user:word@example.com",
        "https://127.0.0.1:8000\\@example.com/a", "https://example.com\\a", "https://exa mple.com",
        "https://example.com/\na", "https://example.com/\0", "https://bücher.example", "https://\u2460.example",
        "https://example.com.", "https://.example.com", "https://a..b", "https://-a.example", "https://%31.example",
        "https://127.1", "https://0x7f.1", "https://0x7f000001", "https://2130706433", "https://0177.0.0.1",
        "https://1.2.3.4.5", "https://[::1", "https://[fe80::1%25eth0]", "https://[::1]x", "https://example.com:",
        "https://example.com:0", "https://example.com:65536", "https://example.com:443x", "https://" + "a" * 2048,
        "https://" + "a." * 127 + "a",
    ],
)  # fmt: skip
def test_what_is_no_url_in_its_usual_form_is_refused(text: str) -> None:
    reach = Reach(plain_http=True, networks=parse_networks("0.0.0.0/0, ::/0"))
    with pytest.raises(BadRequest) as caught:
        parse_web_url(text, reach, param="url")
    assert (caught.value.code, caught.value.param) == ("invalid_url", "url")


@pytest.mark.parametrize(
    "text",
    [
        "http://example.com", "https://example.com:8443", "https://127.0.0.1", "https://[::1]", "https://10.1.2.3:443",
        "https://169.254.169.254/latest/meta-data", "https://[::ffff:169.254.169.254]", "https://[64:ff9b::a9fe:a9fe]",
        "https://224.0.0.1", "https://8.8.8.8:22", "https://0.0.0.0",
    ],
)  # fmt: skip
def test_what_leads_nowhere_allowed_is_refused_as_soon_as_it_is_seen(text: str) -> None:
    with pytest.raises(BadRequest) as caught:
        parse_web_url(text, CLOSED, param="url")
    assert (caught.value.code, caught.value.param) == ("url_not_allowed", "url")


def test_a_location_is_joined_and_read_again() -> None:
    url = parse_web_url("https://example.com/a/b?c", CLOSED, param="url")
    assert url.join("../d") == "https://example.com/d"
    with pytest.raises(BadRequest):
        parse_web_url(url.join("//169.254.169.254/"), CLOSED, param="url")


@given(st.text(max_size=80) | st.from_regex(r"https?://[\[\]0-9a-fx.:%@\\-]{1,30}(/.*)?", fullmatch=True))
def test_whatever_is_sent_is_read_or_refused_and_what_was_read_stays_the_same(text: str) -> None:
    try:
        url = parse_web_url(text, PLAIN, param="url")
    except BadRequest:
        return
    assert parse_web_url(str(url), PLAIN, param="url") == url
    address = read_address(url.host)
    assert address is None or is_public(address)
