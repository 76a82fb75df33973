"""Pixels are made once and travel as bytes, and neither shows: what the model gets is the family's own, bit for bit."""

from __future__ import annotations

import dataclasses
import hashlib
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import transformers as tf

from workers.engine.byte_forms import NoByteFormError, find_byte_form, stop_at_bytes
from workers.engine.engine import TransformersEngine
from workers.engine.features import ALL_OFF, Budgets, Features
from workers.engine.loader import LoadedModel, load_model
from workers.engine.pictures import NotKeptError, PictureProcessor
from workers.engine.pixel_bytes import GRID, PADDING, PIXELS, Scale, join_vision
from workers.engine.pixel_cache import PixelCache
from workers.engine.prepared import Prepared
from workers.engine.protocol import Image, Request
from workers.engine.scheduler import LengthClass
from workers.engine.verify import verify_model

PATIENCE_S = 60.0
CPU = torch.device("cpu")
NewRequest = Callable[..., Request]
_TILES = {"image_grid_pinpoints": [[32, 32], [64, 32], [32, 64]], "size": {"shortest_edge": 32}}
_GRID = {"size": {"shortest_edge": 32 * 32, "longest_edge": 96 * 96}, "patch_size": 8, "merge_size": 2}
_SQUARE = {"size": {"height": 32, "width": 32}}
#: The picture processor of each family in the exactness suite, made small, and how it is stopped at bytes.
PROCESSORS: dict[str, tuple[str, dict[str, Any], str]] = {
    "aya_vision": ("GotOcr2", _SQUARE | {"crop_to_patches": True, "min_patches": 1, "max_patches": 4}, "marks"),
    "gemma3": ("Gemma3", _SQUARE, "marks"),
    "gemma3, pan and scan": (
        "Gemma3",
        _SQUARE
        | {
            "do_pan_and_scan": True,
            "pan_and_scan_min_crop_size": 16,
            "pan_and_scan_max_num_crops": 4,
            "pan_and_scan_min_ratio_to_activate": 1.2,
        },
        "marks",
    ),
    "glm4v": ("Glm4v", _GRID, "cut"),
    "got_ocr2": ("GotOcr2", _SQUARE, "marks"),
    "idefics3": ("Idefics3", {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}, "marks"),
    "internvl": ("GotOcr2", _SQUARE | {"crop_to_patches": True, "min_patches": 1, "max_patches": 4}, "marks"),
    "llava": ("CLIP", {"size": {"shortest_edge": 32}, "crop_size": {"height": 32, "width": 32}}, "marks"),
    "llava_next": ("LlavaNext", _TILES | {"crop_size": {"height": 32, "width": 32}}, "marks"),
    "llava_onevision": ("LlavaOnevision", _TILES | _SQUARE, "marks"),
    "mistral3": ("Pixtral", {"size": {"longest_edge": 64}, "patch_size": 8}, "marks"),
    "paddleocr_vl": ("PaddleOCRVL", _GRID, "cut"),
    "paligemma": ("Siglip", _SQUARE, "marks"),
    "qwen2_vl, qwen2_5_vl, qwen3_vl, qwen3_vl_moe": ("Qwen2VL", _GRID, "cut"),
    "smolvlm": ("SmolVLM", {"size": {"longest_edge": 64}, "max_image_size": {"longest_edge": 32}}, "marks"),
}
#: Families that pad behind scaling at these sizes.
PADDED = {"llava_next", "llava_onevision", "mistral3"}
#: Sizes that no probe has; black and white ones too, since padding must not be taken for either.
SETS = (((97, 33),), ((31, 77), (120, 50)), ((64, 64), (64, 64)), ((40, 90), (90, 40), (33, 33)))


def draw(width: int, height: int, seed: int) -> PIL.Image.Image:
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    noise[: height // 3] = 0
    noise[-height // 4 :] = 255
    return PIL.Image.fromarray(noise)


def build(name: str, **more: Any) -> Any:
    return getattr(tf, f"{name}ImageProcessorPil")(**more)


def stop(processor: Any, form: Any, pictures: list[Any]) -> dict[str, Any]:
    found = dict(stop_at_bytes(processor, form)(images=pictures, return_tensors="pt"))
    assert form.pack(found)
    assert found[PIXELS].dtype is torch.uint8
    return found


def finish(form: Any, found: dict[str, Any]) -> torch.Tensor:
    grid = found[GRID].tolist() if form.cut else ()
    done: torch.Tensor = form.finish(found[PIXELS], grid=grid, padding=found.get(PADDING))
    return done


@pytest.mark.parametrize("family", sorted(PROCESSORS))
def test_bytes_finished_are_the_processors_own_pixels(family: str) -> None:
    name, settings, kind = PROCESSORS[family]
    processor = build(name, **settings)
    form = find_byte_form(processor, CPU)
    assert ("cut" if form.cut else "marks" if form.marks else "whole") == kind
    padded = 0
    for seed, sizes in enumerate(SETS):
        pictures = [draw(width, height, seed) for width, height in sizes]
        wanted = dict(processor(images=pictures, return_tensors="pt"))
        found = stop(processor, form, pictures)
        padded += PADDING in found
        done = finish(form, found)
        assert done.dtype is wanted[PIXELS].dtype is torch.float32
        assert torch.equal(done, wanted[PIXELS])
        assert set(found) - {PADDING} == set(wanted)
        for key in set(wanted) - {PIXELS}:
            assert np.array_equal(np.asarray(found[key]), np.asarray(wanted[key])), key
    assert (padded > 0) == (family in PADDED), "what is padded behind scaling is marked, and only that"


def test_whole_pictures_travel_where_a_family_repeats_patches() -> None:
    """Qwen's patches are float32 and hold each pixel twice, for two moments."""
    processor = build("Qwen2VL", **_GRID)
    pictures = [draw(96, 64, 1)]
    own = processor(images=pictures, return_tensors="pt")[PIXELS]
    assert own.nbytes == 8 * stop(processor, find_byte_form(processor, CPU), pictures)[PIXELS].nbytes


@pytest.mark.parametrize("settings", [{"do_normalize": False}, {"do_rescale": False}, {"rescale_factor": 1 / 127.5}])
def test_other_scalings_are_followed(settings: dict[str, Any]) -> None:
    processor = build("Siglip", **_SQUARE, **settings)
    form = find_byte_form(processor, CPU)
    pictures = [draw(50, 40, 2)]
    wanted = processor(images=pictures, return_tensors="pt")[PIXELS]
    assert torch.equal(finish(form, stop(processor, form, pictures)), wanted.float())
    assert form.marks == (settings.get("do_normalize", True)), "where black is 0, padding needs no marks"


class Gamma(tf.SiglipImageProcessorPil):  # type: ignore[misc, name-defined, unused-ignore]
    """Scales by a curve."""

    def rescale(self, image: Any, scale: float, **_: Any) -> Any:
        return (np.asarray(image, dtype=np.float32) * scale) ** 2


class Sharpened(tf.SiglipImageProcessorPil):  # type: ignore[misc, name-defined, unused-ignore]
    """Resizes to what is no byte, but only pictures that are much wider than high."""

    def resize(self, image: Any, *args: Any, **kwargs: Any) -> Any:
        resized = super().resize(image, *args, **kwargs)
        return resized / 2 + 0.25 if image.shape[2] > 4 * image.shape[1] else resized


def test_pictures_that_a_family_adds_stay_zero() -> None:
    """Granite Docling fills up to as many tiles as the picture with the most has, behind scaling."""
    processor = build("GraniteDocling", size={"height": 32, "width": 32}, max_tiles=4)
    form, padded = find_byte_form(processor, CPU), 0
    for sizes in (((40, 40), (200, 40)), ((33, 200), (64, 64), (90, 30))):
        pictures = [[draw(width, height, 1)] for width, height in sizes]
        wanted = processor(images=pictures, return_tensors="pt")[PIXELS]
        found = stop(processor, form, pictures)
        padded += PADDING in found
        assert torch.equal(finish(form, found), wanted)
    assert padded


def test_a_processor_that_scales_otherwise_is_left_alone() -> None:
    with pytest.raises(NoByteFormError, match="does not scale as"):
        find_byte_form(Gamma(**_SQUARE), CPU)
    with pytest.raises(NoByteFormError, match="not one of transformers' own"):
        find_byte_form(object(), CPU)


def test_a_picture_that_is_no_bytes_goes_the_familys_way() -> None:
    processor = Sharpened(**_SQUARE)
    stopped = PictureProcessor(processor, form=find_byte_form(processor, CPU))
    for width, bytes_expected in ((60, True), (300, False)):
        pictures = [draw(width, 40, 1)]
        with stopped.showing(pictures, ["any"], decoded=True, floats=False):
            found = stopped(images=pictures, return_tensors="pt")[PIXELS]
            assert stopped.has_stopped is bytes_expected
        assert (found.dtype is torch.uint8) is bytes_expected
    assert torch.equal(found, processor(images=pictures, return_tensors="pt")[PIXELS])


# The cache


def entry(size: int, fill: int = 0) -> dict[str, Any]:
    return {"pixel_values": torch.full((size,), fill, dtype=torch.uint8), "rows": [[1]]}


def test_the_cache_is_bounded_in_bytes_and_drops_what_was_not_used() -> None:
    cache = PixelCache(10_000)
    for name in "abc":
        cache.keep((name,), "s", entry(2000))
    assert cache.held_bytes <= 10_000
    assert cache.find(("a",), "s") is not None
    cache.keep(("d",), "s", entry(2000))
    assert [cache.knows((name,)) for name in "abcd"] == [True, False, True, True]
    cache.keep(("huge",), "s", entry(20_000))
    assert not cache.knows(("huge",))
    cache.keep(("a",), "s", entry(2500))
    assert cache.held_bytes <= 10_000
    assert cache.forget()
    assert (cache.held_bytes, cache.knows(("a",)), cache.forget()) == (0, False, False)


def test_order_company_and_settings_are_part_of_the_key() -> None:
    cache = PixelCache(10_000)
    cache.keep(("a", "b"), "s", entry(10))
    found = [cache.find(key, settings) for key, settings in ((("b", "a"), "s"), (("a",), "s"), (("a", "b"), "t"))]
    assert found == [None, None, None]
    assert cache.find(("a", "b"), "s") is not None
    assert (cache.hits, cache.misses) == (1, 3)


def test_nobody_can_alter_what_is_kept() -> None:
    cache, given = PixelCache(10_000), entry(100, 7)
    cache.keep(("a",), "s", given)
    given["pixel_values"].zero_()
    given["rows"][0].append(2)
    first = cache.find(("a",), "s")
    assert first is not None
    assert (first["pixel_values"].tolist(), first["rows"]) == ([7] * 100, [[1]])
    first["pixel_values"].add_(1)
    first.pop("rows")
    second = cache.find(("a",), "s")
    assert second is not None
    assert (second["pixel_values"].tolist(), second["rows"]) == ([7] * 100, [[1]])


def test_many_threads_share_the_cache() -> None:
    cache, wrong = PixelCache(40_000), []

    def work(seed: int) -> None:
        dice = random.Random(seed)
        for _ in range(300):
            number = dice.randrange(30)
            found = cache.find((str(number),), "s")
            if found is None:
                cache.keep((str(number),), "s", entry(dice.randrange(1, 4000), number))
            elif set(found["pixel_values"].tolist()) != {number}:
                wrong.append(number)

    threads = [threading.Thread(target=work, args=(seed,)) for seed in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong
    assert 0 < cache.held_bytes <= 40_000
    assert cache.hits + cache.misses == 1200
    assert cache.hits > 0


# The whole path


@pytest.fixture(scope="module", params=["qwen3_vl_folder", "llava_folder"])
def loaded(request: pytest.FixtureRequest) -> LoadedModel:
    return load_model(request.getfixturevalue(request.param), threads=1)


def prepare(processing: Any, request: Request) -> Prepared:
    prepared: Prepared = processing.prepare(request, processing.render(request), 0.0)
    return prepared


def same(one: Prepared, other: Prepared) -> bool:
    given, found = (join_vision([item], CPU, torch.float32) for item in (one, other))
    assert given.keys() == found.keys()
    return one.prompt_ids == other.prompt_ids and all(torch.equal(given[name], found[name]) for name in given)


def cut_behind_header(image: Image, folder: Path) -> Image:
    """The same hash, but a file of which only the size can be read."""
    path = folder / f"{image.sha256}.png"
    path.write_bytes(image.path.read_bytes()[:60])
    return Image(image.sha256, path)


def test_a_second_prompt_about_a_page_does_not_open_it(
    loaded: LoadedModel, new_request: NewRequest, tmp_path: Path
) -> None:
    cache = PixelCache(2**20)
    for form in (None, loaded.processing.find_form(CPU)):
        processing = loaded.processing.tune(cache=cache, form=form)
        first = prepare(processing, new_request("What is this?", images=2))
        asked = new_request("And how many?", images=2)
        expected = prepare(loaded.processing, asked)
        hits = cache.hits
        cut = tuple(cut_behind_header(image, tmp_path) for image in asked.images)
        again = prepare(processing, dataclasses.replace(asked, images=cut))
        assert cache.hits == hits + 1
        assert same(again, expected)
        assert again.pixels == expected.pixels
        assert (first.form is None) == (form is None)
        assert again.nbytes < expected.nbytes or form is None
        cache.forget()


def test_what_left_the_cache_meanwhile_is_opened_after_all(loaded: LoadedModel, new_request: NewRequest) -> None:
    class Forgetful(PixelCache):
        def knows(self, _: Any) -> bool:
            return True

    request = new_request("What is this?", images=1)
    processing = loaded.processing.tune(cache=Forgetful(2**20))
    assert same(prepare(processing, request), prepare(loaded.processing, request))
    undecoded = PictureProcessor(loaded.processing.picture_processor, cache=PixelCache(2**20))
    with (
        PIL.Image.open(request.images[0].path) as lazy,
        undecoded.showing([lazy], ["any"], decoded=False, floats=True),
        pytest.raises(NotKeptError),
    ):
        undecoded(images=[lazy], return_tensors="pt")


def test_an_engine_processes_a_page_once_and_says_so(loaded: LoadedModel, new_request: NewRequest) -> None:
    def ask(features: Features) -> tuple[list[Any], TransformersEngine]:
        engine = TransformersEngine(loaded, classes=[LengthClass(4, 512)], features=features, preparers=3)
        requests = [new_request(f"Question {number}", images=1, max_tokens=5) for number in range(8)]
        handles = [engine.submit(request) for request in requests]
        done = [handle.result(PATIENCE_S) for handle in handles]
        engine.close()
        return [(one.error, one.token_ids) for one in done], engine

    plain, without = ask(ALL_OFF)
    assert without.pixels is None
    made, engine = ask(dataclasses.replace(ALL_OFF, pixel_cache=True, uint8_pixels=True))
    assert made == plain
    assert engine.pixels is not None
    # Three threads may each have begun before the first was done.
    assert engine.pixels.hits + engine.pixels.misses == 8
    assert engine.pixels.hits >= 5


def test_pixels_go_where_the_prompt_is_in_its_slot(loaded: LoadedModel, new_request: NewRequest) -> None:
    engine = TransformersEngine(loaded, classes=[LengthClass(2, 512)])
    heard = threading.Semaphore(0)
    handle = engine.submit(new_request(images=1, max_tokens=300), on_token=lambda *_: heard.release())
    # The first token comes before the prompt is in its slot.
    assert heard.acquire(timeout=PATIENCE_S)
    assert heard.acquire(timeout=PATIENCE_S)
    prepared = handle.plan.prepared
    assert prepared is None or PIXELS not in prepared.vision
    engine.cancel(handle.id)
    handle.result(PATIENCE_S)
    engine.close()


def test_ready_pixels_are_bounded_in_bytes(loaded: LoadedModel, new_request: NewRequest) -> None:
    """A queue of pictures does not fill memory: beyond the bound, nobody prepares ahead, and all are served."""
    one = prepare(loaded.processing, new_request("0", images=1)).nbytes
    budgets = Budgets(ready_bytes=3 * one)
    blocked = threading.Event()

    def hold(stage: str, _: Any) -> None:
        if stage == "prefill":
            blocked.wait(PATIENCE_S)

    engine = TransformersEngine(
        loaded, classes=[LengthClass(8, 512)], features=ALL_OFF, budgets=budgets, preparers=2, faults=hold
    )
    handles = [engine.submit(new_request(str(number), images=1, max_tokens=2)) for number in range(16)]

    def count_ready() -> int:
        return sum(handle.plan.prepared is not None for handle in handles)

    settled = threading.Event()
    while count_ready() < 3:
        assert not settled.wait(0.01)
    settled.wait(0.3)
    # The bound, and what each of two threads had in its hands.
    assert 3 <= count_ready() <= 5
    urgent = engine.submit(new_request("u", images=1, max_tokens=2, job_class="interactive"))
    while urgent.plan.prepared is None:
        assert not settled.wait(0.01), "an interactive request is prepared all the same"
    blocked.set()
    assert [handle.result(PATIENCE_S).error for handle in (*handles, urgent)] == [None] * 17
    engine.close()


# The self-test


def test_the_self_test_finds_wrong_scaling(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    original = Scale.apply

    def shifted(self: Scale, values: torch.Tensor, *rest: Any) -> torch.Tensor:
        return original(self, values, *rest) + (1e-6 if values.numel() > 3 * 256 else 0.0)

    monkeypatch.setattr(Scale, "apply", shifted)
    fresh = dataclasses.replace(loaded, processing=loaded.processing.tune())
    monkeypatch.setattr(fresh.processing, "_forms", {})
    verdict = verify_model(fresh)
    assert not verdict.features["uint8_pixels"]
    assert verdict.reasons["uint8_pixels"].startswith("Scaled on the device")
    assert verdict.features["pixel_cache"]
    assert (verdict.engine, verdict.exact) == ("transformers", 6)


def test_the_self_test_finds_a_cache_that_mixes_pictures(loaded: LoadedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    original = PixelCache.find

    def mixed(self: PixelCache, pictures: Any, settings: str) -> Any:
        found = original(self, pictures, settings)
        if found is not None:
            found[PIXELS] = found[PIXELS].flip(0)
        return found

    monkeypatch.setattr(PixelCache, "find", mixed)
    verdict = verify_model(loaded)
    assert not verdict.features["pixel_cache"]
    assert "other pixels" in verdict.reasons["pixel_cache"]
    assert verdict.features["uint8_pixels"]


def test_half_precision_gets_the_same_rounding(new_request: NewRequest, loaded: LoadedModel) -> None:
    request = new_request(images=2)
    own = prepare(loaded.processing, request)
    found = prepare(loaded.processing.tune(form=loaded.processing.find_form(CPU)), request)
    given, made = (join_vision([item], CPU, torch.bfloat16)[PIXELS] for item in (own, found))
    assert made.dtype is torch.bfloat16
    assert torch.equal(given, made)


def test_the_files_hash_is_the_key(loaded: LoadedModel, new_request: NewRequest, tmp_path: Path) -> None:
    """Other content under the same name is another picture."""
    processing = loaded.processing.tune(cache=PixelCache(2**20), form=loaded.processing.find_form(CPU))
    path, found = tmp_path / "page.png", []
    for seed in (1, 2):
        draw(48, 32, seed).save(path)
        image = Image(hashlib.sha256(path.read_bytes()).hexdigest(), path)
        request = dataclasses.replace(new_request("same", images=1), images=(image,))
        assert same(prepare(processing, request), prepare(loaded.processing, request))
        found.append(prepare(processing, request).vision[PIXELS])
    assert not torch.equal(found[0], found[1])
