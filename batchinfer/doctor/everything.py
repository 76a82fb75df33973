"""Which checks are made where: all of them for who asks, those of the host alone when a worker starts."""

from __future__ import annotations

from typing import TYPE_CHECKING

import structlog

from batchinfer.doctor.device_checks import DEVICE_CHECKS
from batchinfer.doctor.findings import Finding, Level, Look, examine
from batchinfer.doctor.fleet_checks import FLEET_CHECKS
from batchinfer.doctor.folder_checks import FOLDER_CHECKS
from batchinfer.doctor.host_checks import HOST_CHECKS
from batchinfer.doctor.port_checks import PORT_CHECKS
from batchinfer.doctor.service_checks import SERVICE_CHECKS
from batchinfer.doctor.storage_checks import STORAGE_CHECKS

if TYPE_CHECKING:
    from collections.abc import Iterator

log = structlog.get_logger(__name__)
SERVICE = (*SERVICE_CHECKS, *FLEET_CHECKS)
HOST = (*STORAGE_CHECKS, *FOLDER_CHECKS, *HOST_CHECKS, *PORT_CHECKS, *DEVICE_CHECKS)
#: While a service starts, its web server may not answer yet.
AT_START = tuple(check for check in HOST if check not in PORT_CHECKS)


def examine_all(look: Look) -> Iterator[Finding]:
    """Every check that can be made; without a service those of the host."""
    return examine(HOST if look.ctx is None else (*SERVICE, *HOST), look)


def note_host(look: Look) -> int:
    """Write what is not as it should be on this host to the log. Answers how many findings that were."""
    wrong = [finding for finding in examine(AT_START, look) if finding.level in {Level.WARNING, Level.ERROR}]
    for finding in wrong:
        log.warning("the doctor advises", check=finding.check, found=finding.message, remedy=finding.remedy)
    return len(wrong)
