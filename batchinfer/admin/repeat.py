"""The curl command that asks the same again, ready to paste into a shell."""

from __future__ import annotations

import json
import secrets
from typing import TYPE_CHECKING, Any

from batchinfer.domain.messages import expand_places
from batchinfer.domain.sampling import parse_sampling

if TYPE_CHECKING:
    from batchinfer.domain.jobs import Job

#: Longer prompts would make a command that no terminal takes.
MOST_CHARS = 30_000


def write_curl(job: Job, base_url: str) -> str | None:
    """A command that submits the job's prompt again; None where the prompt is too long for one.

    Pictures are read from files `picture-0.png` … in the present folder: the page offers them so.
    The JSON is plain ASCII inside a here-document, so that no character of a prompt is syntax to the shell.
    """
    names = [picture_name(job, index) for index in range(len(job.prompt.get("images") or []))]
    mark = secrets.token_hex(16)  # stands for a picture's bytes until the quoting is done; no prompt can hold it
    body = json.dumps(_body(job, names, mark))
    if len(body) > MOST_CHARS:
        return None
    head = (
        f"curl -sS {base_url.rstrip('/')}/v1/jobs \\\n"
        '  -H "Authorization: Bearer $BATCHINFER_API_KEY" \\\n'
        '  -H "Content-Type: application/json" \\\n'
        "  --data-binary @- "
    )
    if not names:
        return f"{head}<<'END'\n{body}\nEND"
    body = body.replace("\\", "\\\\").replace("$", "\\$").replace("`", "\\`")
    for index, name in enumerate(names):
        body = body.replace(f"{mark}-{index}-", f"$(base64 -w0 {name})")
    return f"{head}<<END\n{body}\nEND"


def picture_name(job: Job, index: int) -> str:
    """The file name under which a picture of the job is offered."""
    image = (job.prompt.get("images") or [])[index]
    normal = image.get("normal") or {}
    return f"picture-{index}.{'jpg' if normal.get('media_type') == 'image/jpeg' else 'png'}"


def _body(job: Job, names: list[str], mark: str) -> dict[str, Any]:
    prompt = job.prompt
    body: dict[str, Any] = {"model": job.model, "class": job.job_class.value}
    body["messages"] = [
        {"role": message.get("role"), "content": _content(message.get("content"), names, mark)}
        for message in expand_places(prompt.get("messages") or [], prompt.get("images") or [])
    ]
    usual = parse_sampling({})
    body |= {name: value for name, value in (prompt.get("sampling") or {}).items() if usual.get(name) != value}
    if prompt.get("max_tokens"):
        body["max_tokens"] = prompt["max_tokens"]
    body |= {name: prompt[name] for name in ("stop", "response_format") if prompt.get(name)}
    return body


def _content(content: Any, names: list[str], mark: str) -> Any:
    if not isinstance(content, list):
        return content
    return [_image_part(part["index"], names, mark) if part.get("type") == "image" else part for part in content]


def _image_part(index: int, names: list[str], mark: str) -> dict[str, Any]:
    kind = "jpeg" if names[index].endswith(".jpg") else "png"
    return {"type": "image_url", "image_url": {"url": f"data:image/{kind};base64,{mark}-{index}-"}}
