"""From where addresses of pictures and documents may be fetched: nowhere, unless the operator names hosts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from batchinfer.domain.addresses import Reach, parse_networks, parse_web_url
from batchinfer.domain.fields import refuse, show
from batchinfer.errors import BadImage

if TYPE_CHECKING:
    from batchinfer.domain.addresses import WebUrl
    from batchinfer.settings import Settings

#: What an address begins with, in lower case.
SCHEMES = ("http:", "https:")
_EVERYWHERE = "*"


@dataclass(frozen=True)
class FetchRules:
    """Hosts that may be asked, and how far connections to them may go."""

    #: In lower case. `*.example.org` stands for all names below it, `*` for every host.
    hosts: tuple[str, ...]
    reach: Reach

    def permits(self, host: str) -> bool:
        """Whether the operator named this host."""
        return any(_covers(pattern, host) for pattern in self.hosts)


def _covers(pattern: str, host: str) -> bool:
    return pattern in (_EVERYWHERE, host) or (pattern.startswith("*.") and host.endswith(pattern[1:]))


def find_fetch_rules(settings: Settings) -> FetchRules | None:
    """The rules that the settings set; None where fetching is off."""
    hosts = tuple(part.strip().lower() for part in settings.fetch_hosts.split(",") if part.strip())
    return FetchRules(hosts, Reach(True, parse_networks(settings.fetch_networks))) if hosts else None


def parse_fetch_url(text: str, rules: FetchRules | None, *, param: str) -> WebUrl:
    """Read an address whose bytes are to be fetched: one that a user sent, or to which its host redirects.

    Raises BadImage `invalid_image_url` where fetching is off, BadRequest `invalid_url` and `url_not_allowed`.
    """
    if rules is None:
        raise BadImage(
            f"`{param}` is an address, and fetching is off. Send the bytes: data:image/png;base64,...",
            code="invalid_image_url", param=param,
        )  # fmt: skip
    url = parse_web_url(text, rules.reach, param=param)
    if not rules.permits(url.host):
        refuse(
            param,
            f"leads to {show(url.host)}, which is none of the hosts that may be asked. Send the bytes, or let the "
            "operator name the host in the setting fetch_hosts.",
            "url_not_allowed",
        )
    return url
