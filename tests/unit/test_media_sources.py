"""Folders and addresses as sources: what may be read, what is found, and where listing goes on."""

from __future__ import annotations

import os
import tracemalloc
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from batchinfer.domain.globs import compile_globs
from batchinfer.domain.sources import parse_source
from batchinfer.errors import BatchinferError, Failure
from batchinfer.media import folders, sources
from batchinfer.media.folders import Folder, open_file
from batchinfer.settings import Settings, load_settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    from batchinfer.domain.sources import Entry

ALL = compile_globs((), ())


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "in"
    made.mkdir()
    return made


@pytest.fixture
def settings(folder: Path) -> Settings:
    return load_settings(source_folders=f"/nowhere/else, {folder}")


def write(folder: Path, *names: str) -> None:
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode("utf-8", "surrogateescape"))


def listing(folder: Path | str, settings: Settings, after: str | None = None, **more: Any) -> list[Entry]:
    return list(sources.iterate_source(parse_source({"uri": str(folder), **more}), settings, after))


def code_of(action: Any) -> str:
    with pytest.raises(BatchinferError) as caught:
        action()
    return caught.value.code


def test_files_are_listed_in_order_and_read_by_their_uri(folder: Path, settings: Settings) -> None:
    write(folder, "b.pdf", "a/z.pdf", "a.pdf", "a b%c.pdf", "ä/ß.pdf")
    found = listing(folder, settings)
    assert [entry.name for entry in found] == ["a/z.pdf", "a b%c.pdf", "a.pdf", "b.pdf", "ä/ß.pdf"]
    for entry in found:
        with sources.open_source(entry.uri, settings) as file:
            assert file.read().decode() == entry.name
        assert sources.read_stamp(entry.uri, settings) == (entry.size_bytes, entry.stamp)
    assert [entry.uri for entry in listing(f"file://{folder}", settings)] == [entry.uri for entry in found]


def test_a_changed_file_has_another_stamp(folder: Path, settings: Settings) -> None:
    write(folder, "a.pdf")
    (entry,) = listing(folder, settings)
    os.utime(folder / "a.pdf", ns=(1, 1))
    assert sources.read_stamp(entry.uri, settings) != (entry.size_bytes, entry.stamp)


@pytest.mark.parametrize(
    "uri", ["/etc", "file:///etc", "/", "{in}/..", "{in}/../other", "{in}x", "/proc/self/root/etc", "file://host/etc"]
)
def test_no_other_folder_can_be_read(uri: str, folder: Path, settings: Settings) -> None:
    (folder.parent / "other").mkdir()
    (folder.parent / "inx").mkdir()
    where = uri.replace("{in}", str(folder))
    source = parse_source({"uri": where})
    assert code_of(lambda: sources.check_source(source, settings)) in ("source_not_allowed", "invalid_source")
    assert code_of(lambda: list(sources.iterate_source(source, settings))) in ("source_not_allowed", "invalid_source")
    with pytest.raises(Failure), sources.open_source(f"file://{where}/passwd", settings):
        pass


def test_nothing_can_be_read_unless_the_operator_names_it(folder: Path) -> None:
    source = parse_source({"uri": str(folder)})
    assert code_of(lambda: sources.check_source(source, load_settings())) == "source_not_allowed"


def test_links_are_followed_as_long_as_they_stay(folder: Path, settings: Settings) -> None:
    secret = folder.parent / "secret.pdf"
    secret.write_bytes(b"secret")
    write(folder, "deep/a.pdf")
    (folder / "inside.pdf").symlink_to(folder / "deep/a.pdf")
    (folder / "outside.pdf").symlink_to(secret)
    (folder / "gone.pdf").symlink_to(folder / "nothing")
    (folder / "loop").symlink_to(folder)
    found = {entry.name: entry for entry in listing(folder, settings)}
    assert found.keys() == {"deep/a.pdf", "inside.pdf", "outside.pdf"}
    assert (found["outside.pdf"].error or {})["code"] == "source_not_allowed"
    assert found["inside.pdf"].error is None
    assert code_of(lambda: open_file(found["outside.pdf"].uri, settings)) == "source_not_allowed"
    # One that is exchanged for a link behind the listing.
    (folder / "deep/a.pdf").unlink()
    (folder / "deep/a.pdf").symlink_to(secret)
    assert code_of(lambda: open_file(found["deep/a.pdf"].uri, settings)) == "source_not_allowed"


def test_what_is_no_plain_file_is_never_waited_for(folder: Path, settings: Settings) -> None:
    os.mkfifo(folder / "pipe.pdf")
    assert listing(folder, settings) == []
    assert code_of(lambda: open_file(f"file://{folder}/pipe.pdf", settings)) == "source_not_found"
    assert code_of(lambda: open_file(f"file://{folder}", settings)) == "source_not_found"


def test_names_with_control_characters_and_tricks_are_told_apart(folder: Path, settings: Settings) -> None:
    raw = [b"a\x01.pdf", b"a\x02.pdf", b"a\n.pdf", b"bad\xff.pdf", b"..\\..\\win.pdf", b"  .pdf",
           "\u202egnp.pdf".encode(), b"x" * 250 + b".pdf", b"x" * 251 + b".pdf"]  # fmt: skip
    for name in raw:
        (Path(os.fsdecode(os.fsencode(folder) + b"/" + name))).write_bytes(name)
    found = listing(folder, settings, include=["**"])
    assert len(found) == len(raw)
    assert len({entry.name for entry in found}) == len(raw)
    for entry in found:
        assert entry.name.isprintable()
        assert not {"..", "", "."} & set(entry.name.split("/"))
        assert "\\" not in entry.name
        assert len(entry.name.encode()) < 230
        assert entry.name.endswith(".pdf")
        with sources.open_source(entry.uri, settings) as file:
            assert file.read() in raw
    assert listing(folder, settings, after=found[3].place, include=["**"]) == found[4:]


def test_a_folder_that_cannot_be_listed_is_told_of_once(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    write(folder, "a.pdf", "shut/b.pdf", "z.pdf")
    scan = os.scandir

    def scandir(path: Any) -> Any:
        if str(path).rstrip("/").endswith("shut"):
            raise PermissionError(13, "no")
        return scan(path)

    monkeypatch.setattr(folders.os, "scandir", scandir)
    found = listing(folder, settings)
    assert [(entry.name, (entry.error or {}).get("code")) for entry in found] == [
        ("a.pdf", None), ("shut", "source_forbidden"), ("z.pdf", None)
    ]  # fmt: skip
    assert [entry.name for entry in listing(folder, settings, after=found[1].place)] == ["z.pdf"]


def test_a_folder_that_vanishes_on_the_way_is_no_empty_one(folder: Path, settings: Settings) -> None:
    write(folder, *(f"{i}.pdf" for i in range(5)))
    walk = Folder(str(folder), settings).iterate(ALL)
    next(walk)
    for path in list(folder.iterdir()):
        path.unlink()
    folder.rmdir()
    assert code_of(lambda: list(walk)) == "source_not_found"
    assert code_of(lambda: sources.check_source(parse_source({"uri": str(folder)}), settings)) == "source_not_found"


NAMES = st.text(st.sampled_from("ab.é~\x01 "), min_size=1, max_size=3).filter(lambda name: name not in (".", ".."))
PATHS = st.lists(st.lists(NAMES, min_size=1, max_size=3).map("/".join), max_size=12, unique=True)


@pytest.mark.long
@hypothesis_settings(max_examples=40, deadline=None)
@given(paths=PATHS, cut=st.integers(0, 12), at_once=st.integers(1, 4))
def test_listing_goes_on_behind_any_entry(
    tmp_path_factory: pytest.TempPathFactory, paths: list[str], cut: int, at_once: int
) -> None:
    folder = tmp_path_factory.mktemp("any")
    for path in paths:
        try:
            write(folder, path)
        except OSError:
            continue  # a folder and a file of one name
    settings = load_settings(source_folders=str(folder))
    taken = compile_globs(("**",), ())
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(folders, "NAMES_AT_ONCE", at_once)
        whole = list(Folder(str(folder), settings).iterate(taken))
        there = {path for path in folder.rglob("*") if path.is_file()}
        assert len(whole) == len({entry.uri for entry in whole}) == len({entry.name for entry in whole}) == len(there)
        if whole:
            cut %= len(whole)
            rest = list(Folder(str(folder), settings).iterate(taken, whole[cut].place))
            assert rest == whole[cut + 1 :]


def spread(folder: Path, number: int) -> None:
    """Empty files, a thousand to a folder."""
    for i in range(number):
        if i % 1000 == 0:
            (folder / f"{i // 1000:05}").mkdir()
        os.close(os.open(folder / f"{i // 1000:05}" / f"{i % 1000:03}.pdf", os.O_CREAT))


def measure(entries: Iterator[Entry]) -> tuple[int, int]:
    """How many there are, and the most bytes that were held meanwhile."""
    tracemalloc.start()
    try:
        return sum(1 for _ in entries), tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.long
def test_memory_is_flat_however_many_there_are(folder: Path, settings: Settings) -> None:
    spread(folder, 200)
    few = measure(Folder(str(folder), settings).iterate(ALL))
    more = folder.parent / "more"
    more.mkdir()
    spread(more, 20_000)
    many = measure(Folder(str(more), load_settings(source_folders=str(more))).iterate(ALL))
    assert (few[0], many[0]) == (200, 20_000)
    # Held whole, they would be above ten million bytes; other threads of this process are counted too.
    assert many[1] < few[1] + 2_000_000


def test_one_folder_of_many_names_is_taken_some_at_a_time(
    folder: Path, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(2000):
        os.close(os.open(folder / f"{i * 7919 % 2000:05}.pdf", os.O_CREAT))
    monkeypatch.setattr(folders, "NAMES_AT_ONCE", 200)
    found = [entry.name for entry in listing(folder, settings)]
    assert found == sorted(found)
    assert len(found) == 2000


def test_the_names_of_a_folder_that_are_held_at_once_are_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(folders, "NAMES_AT_ONCE", 200)
    alive = most = 0

    class Named:
        def __init__(self, name: str) -> None:
            nonlocal alive, most
            self.name = name
            alive += 1
            most = max(most, alive)

        def __del__(self) -> None:
            nonlocal alive
            alive -= 1

    def scan() -> Iterator[Any]:
        return (Named(f"{i * 7919 % 2000:05}") for i in range(2000))

    assert sum(1 for _ in folders.list_sorted(scan)) == 2000
    assert 200 <= most < 500, "one group of names, and the group before it until it is replaced"


def test_lists_of_addresses_are_off_until_hosts_are_named() -> None:
    source = parse_source(
        {"urls": ["https://docs.example/a.pdf", "https://docs.example/b/a.pdf", "https://docs.example/"]}
    )
    assert code_of(lambda: sources.check_source(source, load_settings())) == "source_not_allowed"
    allowed = load_settings(fetch_hosts="docs.example")
    sources.check_source(source, allowed)
    other = parse_source({"urls": ["https://docs.example/a.pdf", "http://10.0.0.1/a.pdf"]})
    assert code_of(lambda: sources.check_source(other, allowed)) == "url_not_allowed"
    found = list(sources.iterate_source(source, allowed))
    assert [entry.name for entry in found] == ["a.pdf", "a~2.pdf", "document"]
    assert [entry.stamp for entry in found] == [None] * 3
    assert list(sources.iterate_source(source, allowed, found[0].place)) == found[1:]
    assert sources.read_stamp(found[0].uri, allowed) == (None, None)


@pytest.mark.parametrize(
    "uri", ["in", "s3:/x", "ftp://host/x", "s3://", "memory://x", "", "file://", "zip::/x", "s3://b:80/x"]
)
def test_addresses_that_are_none(uri: str, settings: Settings) -> None:
    code = code_of(lambda: sources.check_source(parse_source({"uri": uri}), settings))
    assert code in ("invalid_source", "source_not_allowed", "invalid_value", "missing_required_parameter")


def test_a_glob_in_the_address_is_of_that_folder(folder: Path, settings: Settings) -> None:
    write(folder, "a.pdf", "b.txt", "c/d.pdf", "c/e/f.pdf")
    assert [e.name for e in listing(folder / "*.pdf", settings)] == ["a.pdf"]
    assert [e.name for e in listing(folder / "c/**/*.pdf", settings)] == ["d.pdf", "e/f.pdf"]
    both = parse_source({"uri": f"{folder}/*.pdf", "include": ["*"]})
    assert code_of(lambda: sources.check_source(both, settings)) == "invalid_value"
