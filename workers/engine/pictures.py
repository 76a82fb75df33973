"""Stands between a family's processor and its picture processor: what was made of the same pictures is made once, and
pixels stay bytes where a form for that was found."""

from __future__ import annotations

import hashlib
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import PIL.Image
from transformers import BatchFeature

from workers.engine.byte_forms import stop_at_bytes
from workers.engine.pixel_bytes import ByteForm
from workers.engine.pixel_cache import PixelCache


class NotKeptError(Exception):
    """Pictures that were not decoded, as they seemed to be in the cache, are not there any more: decode them."""


class _Shown(threading.local):
    """What a thread is about to process."""

    def __init__(self) -> None:
        self.hashes: dict[int, str] = {}
        self.decoded, self.floats, self.stopped = True, True, False


class PictureProcessor:
    """A picture processor with a cache, and stopped at bytes as `form` says. Calls may come from any thread."""

    def __init__(self, inner: Any, *, cache: PixelCache | None = None, form: ByteForm | None = None) -> None:
        self._inner, self.cache, self.form = inner, cache, form
        self._stopped = stop_at_bytes(inner, form) if form else inner
        self._settings = hashlib.sha256(repr(sorted(inner.to_dict().items())).encode()).hexdigest()
        self._shown = _Shown()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._inner, name)

    @contextmanager
    def showing(
        self, opened: Sequence[PIL.Image.Image], hashes: Sequence[str], *, decoded: bool, floats: bool
    ) -> Iterator[None]:
        """Within this block and thread, each of these pictures has this SHA-256; with `floats` none becomes bytes.

        Where they are not `decoded`, a call that finds nothing in the cache raises NotKeptError.
        """
        self._shown.hashes = {id(picture): key for picture, key in zip(opened, hashes, strict=True)}
        self._shown.decoded, self._shown.floats, self._shown.stopped = decoded, floats, False
        try:
            yield
        finally:
            self._shown.hashes = {}

    @property
    def has_stopped(self) -> bool:
        """Whether this thread's last call was stopped at bytes."""
        return self._shown.stopped

    def knows(self, hashes: Sequence[str]) -> bool:
        """Whether the pictures of a request need not be decoded."""
        return self.cache is not None and bool(hashes) and self.cache.knows(tuple(hashes))

    def __call__(self, images: Any = None, *args: Any, **options: Any) -> BatchFeature:
        floats = self.form is None or self._shown.floats
        pictures = self._find_hashes(images)
        if self.cache is None or pictures is None or args:
            return BatchFeature(self._run(images, *args, floats=floats, **options))
        settings = f"{self._settings} {floats} {sorted(options.items())!r}"
        found = self.cache.find(pictures, settings)
        if found is None:
            found = self._run(images, floats=floats, **options)
            self.cache.keep(pictures, settings, found)
        elif not floats:
            self._shown.stopped = True
        return BatchFeature(found)

    def _run(self, images: Any, *args: Any, floats: bool, **options: Any) -> dict[str, Any]:
        if not self._shown.decoded:
            raise NotKeptError
        if not floats:
            try:
                found = dict(self._stopped(images, *args, **options))
            except ValueError:
                pass  # what it makes of these pictures is no bytes
            else:
                self._shown.stopped = True
                return found
        return dict(self._inner(images, *args, **options))

    def _find_hashes(self, images: Any) -> tuple[str, ...] | None:
        """The pictures' hashes in order; None where a family changed one before it came here."""
        found = [self._shown.hashes.get(id(picture)) for picture in _flatten(images)]
        return None if not found or None in found else tuple(str(key) for key in found)


def _flatten(images: Any) -> list[Any]:
    if isinstance(images, list | tuple):
        return [picture for one in images for picture in _flatten(one)]
    return [] if images is None else [images]
