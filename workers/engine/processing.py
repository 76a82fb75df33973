"""From a request to a model's inputs: the chat template, the tokens and the pictures.

The family's own processor does the work, so its tokens and pixels are those of transformers; its part for
videos, which would need torchvision, is left out.
"""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import PIL.Image
import torch
from torch import Tensor
from transformers import AutoImageProcessor, AutoTokenizer
from transformers.models.auto.processing_auto import PROCESSOR_MAPPING

from workers.engine.byte_forms import NoByteFormError, find_byte_form
from workers.engine.pictures import NotKeptError, PictureProcessor
from workers.engine.pixel_bytes import ByteForm
from workers.engine.pixel_cache import PixelCache
from workers.engine.plain_text import PlainTextTokenizer, new_mark
from workers.engine.prepared import Prepared
from workers.engine.protocol import EngineFailure, Image, ModelError, Refused, Request
from workers.engine.requests import find_image_places

_log = logging.getLogger(__name__)


class UnpreparableError(Exception):
    """A request that cannot be made ready; it ends with `failure`, and nobody else is touched."""

    def __init__(self, code: str, message: str, *, transient: bool = False) -> None:
        super().__init__(message)
        self.failure = EngineFailure(code, message, transient)


@dataclass(frozen=True)
class Rendered:
    """A chat template's output in which each mark stands for a user's text."""

    prompt: str
    texts: dict[str, str]


class _NoVideo:
    """Stands in for a processor of videos."""

    model_input_names: tuple[str, ...] = ()
    merge_size = temporal_patch_size = 1


class Processing:
    """Tokenizer, picture processor and chat template of one model folder. Methods may be called from any thread.

    Raises ModelError where a part is missing or needs what is not installed.
    """

    def __init__(self, folder: Path, config: Any, *, context_tokens: int) -> None:
        self._context_tokens = context_tokens
        tokenizer = _load("tokenizer", AutoTokenizer, folder)
        #: Decoding goes on while other threads encode, and a tokenizer serves one thread at a time.
        self.tokenizer = copy.deepcopy(tokenizer)
        pictures = _load("image processor", AutoImageProcessor, folder, backend="pil")
        self._processor = _build_processor(folder, config, tokenizer, pictures)
        self._image_tokens = _find_image_tokens(self._processor)
        self.image_token_ids = _find_image_token_ids(config, self._processor)
        self._processor.chat_template = self._processor.chat_template or tokenizer.chat_template
        if not self._processor.chat_template:
            raise ModelError(
                "chat_template_missing",
                "The model folder has no chat template; add chat_template.jinja, or use the instruction-tuned version "
                "of the model.",
            )
        control = {*tokenizer.all_special_ids, *self.image_token_ids}
        control |= {token for token, added in tokenizer.added_tokens_decoder.items() if added.special}
        self._processor.tokenizer = self._plain = PlainTextTokenizer(tokenizer, control)
        #: The family's own picture processor.
        self.picture_processor = pictures
        self._pictures = PictureProcessor(pictures)
        self._forms: dict[torch.device, ByteForm | NoByteFormError] = {}
        self._processor.image_processor = self._pictures

    def find_form(self, device: torch.device) -> ByteForm:
        """How pixels can stay bytes until they are on a device. Raises NoByteFormError."""
        if device not in self._forms:
            try:
                self._forms[device] = find_byte_form(self.picture_processor, device)
            except NoByteFormError as error:
                self._forms[device] = error
        found = self._forms[device]
        if isinstance(found, NoByteFormError):
            raise found
        return found

    def tune(self, *, cache: PixelCache | None = None, form: ByteForm | None = None) -> Processing:
        """The same processing, with a cache of pixels, and with pixels that stay bytes as a form says."""
        tuned = copy.copy(self)
        tuned._pictures = PictureProcessor(self.picture_processor, cache=cache, form=form)
        tuned._processor = copy.copy(self._processor)
        tuned._processor.image_processor = tuned._pictures
        return tuned

    def render(self, request: Request) -> Rendered:
        """Render the chat template. Raises Refused where the template takes no such messages or pictures."""
        texts: dict[str, str] = {}
        messages = [
            {"role": message["role"], "content": [_mark(part, texts) for part in message["content"]]}
            for message in request.messages
        ]
        try:
            prompt = self._processor.apply_chat_template(messages, add_generation_prompt=True, tokenize=False)
        except Exception as error:
            _log.info("the chat template refused request %s", request.id, exc_info=True)
            raise Refused(
                "messages_refused",
                "The model's chat template does not take these messages; check the order of roles, and whether the "
                "model knows system messages.",
            ) from error
        wanted = len(find_image_places(request))
        places = max((prompt.count(token) for token in self._image_tokens), default=wanted)
        if places != wanted:
            raise Refused(
                "image_places_mismatch",
                f"The messages show {wanted} pictures and the model's chat template makes room for {places}; send "
                "pictures in the user's messages, as many as the model takes.",
            )
        return Rendered(prompt, texts)

    def prepare(
        self, request: Request, rendered: Rendered, arrived_at: float, context_tokens: int | None = None
    ) -> Prepared:
        """Open the pictures, process and tokenise; `context_tokens` may be fewer than the model's.

        Raises UnpreparableError.
        """
        context = min(self._context_tokens, context_tokens or self._context_tokens)
        inputs, form, pixels = self._process(request, rendered)
        ids = inputs["input_ids"]
        prompt_ids = ids[0].tolist()
        room = context - len(prompt_ids)
        if room < 1:
            raise UnpreparableError(
                "context_length_exceeded",
                f"The prompt has {len(prompt_ids)} tokens and the model's context holds {context}; "
                "shorten the text, or send fewer or smaller pictures.",
            )
        sequence = {name: value for name, value in inputs.items() if value.shape == ids.shape}
        return Prepared(
            request=dataclasses.replace(request, max_tokens=min(request.max_tokens, room)),
            sequence=sequence,
            vision={name: value for name, value in inputs.items() if name not in sequence},
            prompt_ids=prompt_ids,
            image_token_ids=self.image_token_ids,
            pixels=pixels,
            form=form,
            arrived_at=arrived_at,
            prepared_at=time.monotonic(),
        )

    def decode(self, ids: Sequence[int]) -> str:
        """Token ids to text, without special tokens. For one thread at a time."""
        return str(self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False))

    def _process(self, request: Request, rendered: Rendered) -> tuple[dict[str, Tensor], ByteForm | None, int]:
        """The model's inputs, the form of those that are bytes, and how many pixels the pictures have."""
        shown = [(request.images[index], index) for index in find_image_places(request)]
        hashes = [image.sha256 for image, _ in shown]
        decoded, floats = not self._pictures.knows(hashes), False
        while True:
            with contextlib.ExitStack() as files:
                opened = [_open(image, index) if decoded else _peek(image, index, files) for image, index in shown]
                pixels = sum(picture.width * picture.height for picture in opened)
                try:
                    with self._pictures.showing(opened, hashes, decoded=decoded, floats=floats):
                        inputs = self._call(rendered, opened)
                        stopped = self._pictures.has_stopped
                except NotKeptError:
                    decoded = True
                    continue
                except Exception as error:
                    _log.warning("request %s could not be prepared", request.id, exc_info=True)
                    raise UnpreparableError(
                        "preparing_failed",
                        "The model's processor could not prepare this request; check that the pictures are neither "
                        "tiny nor extremely long, and that the model takes as many.",
                    ) from error
            form = self._pictures.form
            if not stopped or form is None:
                return inputs, None, pixels
            if form.pack(inputs):
                return inputs, form, pixels
            floats = True

    def _call(self, rendered: Rendered, pictures: list[PIL.Image.Image]) -> dict[str, Tensor]:
        begin = self._plain.bos_token
        # As transformers' own apply_chat_template: a template that writes the beginning itself gets no second one.
        options = {"add_special_tokens": False} if begin and rendered.prompt.startswith(begin) else {}
        with self._plain.speaking(rendered.texts):
            output = self._processor(
                text=[rendered.prompt], images=[pictures] if pictures else None, return_tensors="pt", **options
            )
        return {name: value for name, value in output.items() if isinstance(value, Tensor)}


def _mark(part: Any, texts: dict[str, str]) -> dict[str, Any]:
    if part["type"] == "image":
        return {"type": "image"}
    text: str = part["text"]
    middle = text.strip()
    if not middle:
        return {"type": "text", "text": text}
    mark = new_mark()
    texts[mark] = middle
    # Outer blanks stay outside the mark: some templates trim them.
    start = text.index(middle)
    return {"type": "text", "text": text[:start] + mark + text[start + len(middle) :]}


def _open(image: Image, index: int) -> PIL.Image.Image:
    with _telling(image, index), PIL.Image.open(image.path) as opened:
        return opened.convert("RGB")


def _peek(image: Image, index: int, files: contextlib.ExitStack) -> PIL.Image.Image:
    """A picture of which only the size is known; its pixels are not decoded."""
    with _telling(image, index):
        return files.enter_context(PIL.Image.open(image.path))


@contextlib.contextmanager
def _telling(image: Image, index: int) -> Iterator[None]:
    """Say what is wrong with a picture. Raises UnpreparableError."""
    try:
        yield
    except FileNotFoundError:
        raise UnpreparableError(
            "image_missing", f"The file of picture {index} is not in storage; submit the job again.", transient=True
        ) from None
    except Exception as error:
        _log.warning("picture %s cannot be read", image.sha256, exc_info=True)
        raise UnpreparableError("image_unreadable", f"Picture {index} cannot be read; send it again.") from error


def _load(what: str, loader: Any, folder: Path, **options: Any) -> Any:
    try:
        return loader.from_pretrained(folder, local_files_only=True, trust_remote_code=False, **options)
    except Exception as error:
        _log.warning("the %s of a model folder cannot be loaded", what, exc_info=True)
        code = what.replace(" ", "_") + "_unusable"
        if "torchvision" in str(error):
            raise ModelError(
                code,
                f"The model's {what} exists for torchvision only, which the engine does without; use a model whose "
                "pictures transformers can prepare with Pillow.",
            ) from error
        raise ModelError(code, f"The model folder's {what} cannot be loaded; copy its files again.") from error


def _build_processor(folder: Path, config: Any, tokenizer: Any, pictures: Any) -> Any:
    """The family's processor class with our parts. Its check of their classes would insist on a video part."""
    parts = {"tokenizer": tokenizer, "image_processor": pictures}

    def take_ours(cls: Any, *_: Any, **__: Any) -> list[Any]:
        return [parts.get(name, _NoVideo()) for name in cls.get_attributes()]

    try:
        family = PROCESSOR_MAPPING[type(config)]
        replaced = {
            "check_argument_for_proper_class": lambda _self, _name, _value: None,
            "_get_arguments_from_pretrained": classmethod(take_ours),
            # transformers logs it, and would write our stand-in as JSON.
            "__repr__": lambda _self: family.__name__,
        }
        without_checks: Any = type(family.__name__, (family,), replaced)
        return without_checks.from_pretrained(folder, local_files_only=True)
    except Exception as error:
        _log.warning("the processor of a model folder cannot be built", exc_info=True)
        raise ModelError(
            "processor_unusable",
            f"The processor of {config.model_type} cannot be built here; it may need a package that is not installed.",
        ) from error


def _find_image_tokens(processor: Any) -> list[str]:
    """What a template may write where a picture belongs."""
    found = (getattr(processor, name, None) for name in ("image_token", "boi_token"))
    return [str(token) for token in found if token]


def _find_image_token_ids(config: Any, processor: Any) -> frozenset[int]:
    found = [getattr(config, name, None) for name in ("image_token_id", "image_token_index")]
    found += list(getattr(processor, "image_token_ids", None) or [])
    return frozenset(token for token in found if isinstance(token, int))
