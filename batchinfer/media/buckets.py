"""Buckets as sources, through fsspec: only those that the operator names, with credentials of the installation alone.

S3's kind is listed page by page, each page from behind the last key on; other kinds folder by folder.
"""

from __future__ import annotations

import contextlib
import fnmatch
import io
import re
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, BinaryIO
from urllib.parse import quote, unquote

from batchinfer.domain.document_names import make_name
from batchinfer.domain.sources import Entry
from batchinfer.errors import BatchinferError, Failure, FetchFailed
from batchinfer.media.folders import name_fault, refuse_place
from batchinfer.observe.logs import get_logger

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.domain.globs import Globs
    from batchinfer.settings import Settings

# Neither a user nor a port: what a request brings is no credential, and names no host.
_URI = re.compile(r"([a-z][a-z0-9+.-]{0,31})://([^/:@?#]+)(?:/(.*))?", re.DOTALL)
_S3 = frozenset({"s3", "s3a"})
#: Not even where a pattern would take them: they read this host, or the network, past our guards.
_NEVER = frozenset({"file", "local", "http", "https", "data", "simplecache", "filecache", "blockcache", "cached", "dir",
                    "reference", "generic"})  # fmt: skip
#: What says that nobody let us in, among the exceptions of clients.
_NO_CREDENTIALS = frozenset({"NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError",
                             "NoAuthTokenError", "TokenRetrievalError"})  # fmt: skip
_KEYS_AT_ONCE = 1000
_CHECK_S = 5.0
_log = get_logger(__name__)


def permits(uri: str, settings: Settings) -> bool:
    """Whether the operator named this bucket, or the part of it."""
    patterns = [part.strip() for part in settings.source_buckets.split(",") if part.strip()]
    return any(
        fnmatch.fnmatchcase(uri.rstrip("/"), form)
        for pattern in patterns
        for form in (pattern.rstrip("/"), pattern.rstrip("/") + "/*", pattern.removesuffix("/*"))
    )


class Bucket:
    """A bucket, or what lies in it below a prefix. Raises Failure where it may not be read."""

    def __init__(self, uri: str, settings: Settings) -> None:
        found = _URI.fullmatch(uri)
        if found is None or "::" in uri or ".." in uri.split("/"):
            raise Failure("The address must be a folder such as /data/in, or a bucket such as s3://team-a/in.",
                          code="invalid_source")  # fmt: skip
        if found[1] in _NEVER or not permits(uri, settings):
            raise refuse_place()
        self._scheme, self._bucket, self._key = found[1], found[2], found[3] or ""
        self._settings = settings

    def check(self) -> None:
        """Go on only where it can be listed. Raises Failure, FetchFailed."""
        fs = self._connect(_CHECK_S)
        with _told_apart():
            if self._scheme in _S3:
                fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=self._prefix, MaxKeys=1)
            else:
                fs.ls(f"{self._bucket}/{self._key}".rstrip("/"), detail=False)

    def iterate(self, globs: Globs, after: str | None = None) -> Iterator[Entry]:
        """Its objects in the order of their keys, behind the place of an earlier entry. Raises Failure, FetchFailed."""
        start = unquote(after) if after else ""
        yield from (
            self._list_keys(globs, start)
            if self._scheme in _S3
            else self._walk("", start.split("/") if start else [], globs)
        )

    def open(self, start: int = 0) -> BinaryIO:
        """The bytes of this one object, from byte `start` on. Raises Failure, FetchFailed."""
        with _told_apart():
            file = self._connect().open(f"{self._bucket}/{self._key}", "rb")
            if start:
                file.seek(start)
        return io.BufferedReader(_Stream(file), 2**20)

    def read_stamp(self) -> tuple[int | None, str | None]:
        """The size in bytes and the stamp of this one object. Raises Failure, FetchFailed."""
        fs = self._connect()
        with _told_apart():
            if self._scheme in _S3:
                head = fs.call_s3("head_object", Bucket=self._bucket, Key=self._key)
                return head["ContentLength"], _plain(head.get("ETag"))
            found = fs.info(f"{self._bucket}/{self._key}")
        return found.get("size"), find_stamp(found)

    @property
    def _prefix(self) -> str:
        return self._key.rstrip("/") + "/" if self._key else ""

    def _connect(self, timeout_s: float | None = None) -> Any:
        import fsspec

        with _told_apart():
            if self._scheme not in _S3:
                return fsspec.filesystem(self._scheme, use_listings_cache=False)
            wait_s = min(timeout_s or self._settings.source_timeout_s, self._settings.source_timeout_s)
            fs = fsspec.filesystem(
                self._scheme, use_listings_cache=False, endpoint_url=self._settings.s3_endpoint_url,
                config_kwargs={"connect_timeout": wait_s, "read_timeout": wait_s, "retries": {"max_attempts": 1}},
            )  # fmt: skip
            fs.retries = 2
            return fs

    def _list_keys(self, globs: Globs, after: str) -> Iterator[Entry]:
        fs, prefix, more, last = self._connect(), self._prefix, True, after and self._prefix + after
        while more:
            begin = {"StartAfter": last} if last else {}
            with _told_apart():
                page = fs.call_s3("list_objects_v2", Bucket=self._bucket, Prefix=prefix, MaxKeys=_KEYS_AT_ONCE, **begin)
            for found in page.get("Contents", ()):
                last, path = found["Key"], found["Key"][len(prefix) :]
                if path and not path.endswith("/") and globs.take(path):
                    yield self._make(path, found["Size"], _plain(found.get("ETag")), found.get("LastModified"))
            more = bool(page.get("IsTruncated")) and bool(page.get("Contents"))
        if not last and self._key and not self._key.endswith("/"):
            yield from self._find_single()

    def _find_single(self) -> Iterator[Entry]:
        """The address may be that of one object."""
        try:
            size_bytes, stamp = self.read_stamp()
        except Failure as fault:
            if fault.code == "source_not_found":
                return
            raise
        uri, path = f"{self._scheme}://{self._bucket}/{self._key}", self._key.rpartition("/")[2]
        yield Entry(uri, make_name(path, uri), size_bytes, stamp, None, "\uffff")

    def _walk(self, folder: str, start: list[str], globs: Globs) -> Iterator[Entry]:
        first, rest = (start[0], start[1:]) if start else ("", [])
        fs, whole = self._connect(), f"{self._bucket}/{self._prefix}{folder}".rstrip("/")
        with _told_apart():
            listed = {found["name"].rstrip("/").rpartition("/")[2]: found for found in fs.ls(whole, detail=True)}
        for name in sorted(listed):
            found, goes_on = listed[name], bool(start) and name == first
            if name < first:
                continue
            if found["type"] == "directory":
                yield from self._walk(f"{folder}{name}/", rest if goes_on else [], globs)
            elif not goes_on and globs.take(folder + name):
                yield self._make(folder + name, found.get("size"), find_stamp(found), find_time(found))

    def _make(self, path: str, size_bytes: int | None, stamp: str | None, modified: datetime | None) -> Entry:
        uri = f"{self._scheme}://{self._bucket}/{self._prefix}{path}"
        error = None
        if "\0" in uri:
            uri = uri.replace("\0", "%00")
            error = Failure("The key holds a character that cannot be kept. Give the object another one.",
                            code="invalid_source").as_dict()  # fmt: skip
        return Entry(uri, make_name(path, uri), size_bytes, stamp, modified, quote(path), error)


class _Stream(io.RawIOBase):
    """An object's bytes, whose errors are ours."""

    def __init__(self, file: Any) -> None:
        self._file = file

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        with _told_apart():
            data = self._file.read(len(buffer))
        buffer[: len(data)] = data
        return len(data)

    def close(self) -> None:
        self._file.close()
        super().close()


def find_stamp(found: dict[str, Any]) -> str | None:
    """What a bucket says of a version: its etag, or when it was made; None where it says neither."""
    names = ("ETag", "etag", "content_md5", "md5Hash", "mtime", "last_modified", "updated", "LastModified", "created")
    return next((_plain(str(found[name])) for name in names if found.get(name)), None)


def find_time(found: dict[str, Any]) -> datetime | None:
    """When an object was changed, where its bucket says so."""
    for name in ("LastModified", "last_modified", "mtime", "updated", "created"):
        value = found.get(name)
        if isinstance(value, int | float):
            return datetime.fromtimestamp(value, UTC)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
    return None


def _plain(etag: str | None) -> str | None:
    return etag.strip('"') if etag else None


@contextlib.contextmanager
def _told_apart() -> Iterator[None]:
    """What fsspec and the clients below it raise, as one of our errors; their texts go to the log alone."""
    try:
        yield
    except BatchinferError:
        raise
    except (FileNotFoundError, PermissionError) as error:
        raise name_fault(error) from None
    except (ImportError, ValueError) as error:
        _log.warning("a bucket cannot be served", error=type(error).__name__)
        raise Failure("This kind of bucket is not installed here. Let the operator install the extra for it: for s3:// "
                      "it is `s3`.", code="source_unsupported") from None  # fmt: skip
    except Exception as error:
        _log.warning("a bucket did not answer", error=type(error).__name__)
        if type(error).__name__ in _NO_CREDENTIALS:
            raise name_fault(PermissionError()) from None
        raise FetchFailed("The bucket did not answer in time, or not as a bucket does. Look whether it is there.",
                          code="source_unreachable") from None  # fmt: skip
