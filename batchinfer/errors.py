"""Every error that a user can meet, drawn as a tree. Each knows its code, its HTTP status and whether a retry may help.

    BatchinferError
    ├── BadRequest            400  the request itself is wrong; `param` names the field
    │   ├── BadImage          400  a picture that cannot be read within the limits
    │   └── BadDocument       400  a PDF or TIFF that cannot be read within the limits
    ├── Unauthenticated       401  no key, or one that is unknown, expired or revoked
    ├── Forbidden             403  the key lacks the scope
    ├── NotFound              404  no such thing for this tenant
    ├── MethodNotAllowed      405
    ├── Conflict              409  the state of the thing does not allow it
    │   └── InFlight          409  the same idempotency key is being worked on (retry helps)
    ├── TooLarge              413  the body is over the limit
    ├── Unsupported           415  a kind of file that is not served
    ├── KeyReused             422  the idempotency key came with another body
    ├── Busy                  429  a limit is reached (retry helps)
    ├── Internal              500  our fault; the request id finds it in the log
    ├── Unavailable           503  a part that is needed is not there (retry helps)
    │   └── Unreachable       -    said by the client: no service answers there (retry helps)
    ├── Overrun               504  who waited for an answer waited long enough; the job goes on
    ├── Failure               -    how a job ended: stored with the job, never raised at a client
    │   └── FetchFailed       -    another machine that a job asks did not answer (retry helps)
    ├── SettingsError         -    a setting that stops the start
    ├── BackupError           -    a backup that cannot be made, or one that cannot be restored here
    └── StartError            -    a process that cannot start

The sentence in `message` says what is wrong and what to do next. It never holds the text of a library's
exception, a path or a secret.
"""

from __future__ import annotations

from typing import Any, ClassVar


class BatchinferError(Exception):
    """The root. `code` is stable and for programs; `message` is for people; `param` is the dotted path of a field."""

    status: ClassVar[int] = 500
    kind: ClassVar[str] = "server_error"
    default_code: ClassVar[str] = "internal_error"
    retry_helps: ClassVar[bool] = False
    #: The job that the answer to a waiting client is about, as users see its id.
    job_id: str | None = None
    #: Of the request whose answer it was, where a client read it: the log of the web server has it.
    request_id: str | None = None

    def __init__(
        self, message: str, *, code: str | None = None, param: str | None = None, retry_after_s: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.code = code or self.default_code
        self.param = param
        self.retry_after_s = min(retry_after_s, 120) if retry_after_s is not None else None

    def as_dict(self) -> dict[str, Any]:
        """The `error` member of a response and the `error` column of a job: message, type, param, code; and `job_id`
        where the answer is about a job that somebody waited for."""
        about = {"job_id": self.job_id} if self.job_id else {}
        return {"message": self.message, "type": self.kind, "param": self.param, "code": self.code, **about}


class BadRequest(BatchinferError):
    """The request is wrong and the same request will always be."""

    status, kind, default_code = 400, "invalid_request_error", "invalid_request"


class BadImage(BadRequest):
    """A picture that cannot be read within the limits."""

    default_code = "invalid_image"


class BadDocument(BadRequest):
    """A PDF or TIFF that cannot be read within the limits."""

    default_code = "invalid_document"


class Unauthenticated(BatchinferError):
    """No key, or one that is unknown, expired or revoked."""

    status, kind, default_code = 401, "invalid_request_error", "invalid_api_key"


class Forbidden(BatchinferError):
    """The key lacks the scope."""

    status, kind, default_code = 403, "invalid_request_error", "insufficient_scope"


class NotFound(BatchinferError):
    """No such thing for this tenant; another tenant's thing answers the same."""

    status, kind, default_code = 404, "invalid_request_error", "not_found"


class MethodNotAllowed(BatchinferError):
    """The path exists, the verb does not."""

    status, kind, default_code = 405, "invalid_request_error", "method_not_allowed"


class Conflict(BatchinferError):
    """The state of the thing does not allow it."""

    status, kind, default_code = 409, "invalid_request_error", "conflict"


class InFlight(Conflict):
    """Another request with the same idempotency key has not ended yet."""

    default_code, retry_helps = "idempotency_in_progress", True


class TooLarge(BatchinferError):
    """The body is over the limit."""

    status, kind, default_code = 413, "invalid_request_error", "body_too_large"


class Unsupported(BatchinferError):
    """A kind of file that is not served."""

    status, kind, default_code = 415, "invalid_request_error", "unsupported_media_type"


class KeyReused(BatchinferError):
    """The idempotency key was used before with another body."""

    status, kind, default_code = 422, "invalid_request_error", "idempotency_key_reused"


class Busy(BatchinferError):
    """A limit is reached; waiting helps."""

    status, kind, default_code, retry_helps = 429, "rate_limit_error", "queue_full", True


class Internal(BatchinferError):
    """Our fault."""


class Unavailable(BatchinferError):
    """A part that is needed is not there; waiting helps."""

    status, default_code, retry_helps = 503, "service_unavailable", True


class Unreachable(Unavailable):
    """A client's word: nothing listens, the network is away, the answer broke off or is not this service's."""

    default_code = "unreachable"


class Overrun(BatchinferError):
    """Who waited for a job's answer waited long enough. The job goes on: asking again would make a second one."""

    status, default_code = 504, "timeout"


class Failure(BatchinferError):
    """How a job ended. Stored with the job as JSON; codes are listed in docs/errors.md."""

    default_code = "failed"


class FetchFailed(Failure):
    """A machine that is not ours, and that a job asks for something, failed in a way that may pass."""

    default_code, retry_helps = "failed_to_download_image", True


class SettingsError(BatchinferError):
    """A setting that stops the start; the message names the variable and the remedy."""

    default_code = "bad_setting"


class BackupError(BatchinferError):
    """A backup that cannot be made, or one that cannot be restored here. Nothing was changed."""

    default_code = "backup_refused"


class StartError(BatchinferError):
    """`batchinfer up` or a worker cannot start; one line with the remedy."""

    default_code = "cannot_start"
