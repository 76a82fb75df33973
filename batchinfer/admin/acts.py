"""Acts on many jobs: the question with the exact count, the act as a page that tells how far it is, those of late."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from flask import Blueprint, Response, request, url_for
from flask_babel import gettext as _
from flask_babel import ngettext

from batchinfer.admin.acting import ask, finish
from batchinfer.admin.job_filters import Filters, read_filters, read_job_ids, tell_search
from batchinfer.admin.live import render_live
from batchinfer.admin.session import get_caller, get_context
from batchinfer.domain import ids
from batchinfer.domain.bulk_acts import BulkAct, BulkVerb
from batchinfer.domain.job_search import JobSearch
from batchinfer.errors import BadRequest
from batchinfer.services import bulk_acts

if TYPE_CHECKING:
    from werkzeug.wrappers import Response as BaseResponse

    from batchinfer.services.bulk_acts import Reach

ROWS = 30


def register(blueprint: Blueprint) -> None:
    """Add the pages and the acts."""
    blueprint.add_url_rule("/acts", view_func=show_acts)
    blueprint.add_url_rule("/acts/new", view_func=ask_act)
    blueprint.add_url_rule("/acts/new", view_func=make_act, methods=["POST"])
    blueprint.add_url_rule("/acts/<act_id>", view_func=show_act)
    blueprint.add_url_rule("/acts/<act_id>/cancel", view_func=ask_cancel_act)
    blueprint.add_url_rule("/acts/<act_id>/cancel", view_func=cancel_act, methods=["POST"])


def show_acts() -> Response:
    """Acts of late, newest first."""
    after = request.args.get("after")
    cursor = ids.parse_id(ids.BULK, after) if after else None
    page = bulk_acts.list_acts(get_context(), get_caller(), after=cursor, limit=ROWS)
    older = show_bulk(page.data[-1]) if page.has_more else None
    return render_live("acts.html", "_acts.html", acts=page.data, older=older, **_words())


def show_act(act_id: str) -> Response:
    """One act. Raises NotFound."""
    act = bulk_acts.get_act(get_context(), get_caller(), ids.parse_id(ids.BULK, act_id))
    filters = Filters(JobSearch.of(act.search))
    return render_live("act.html", "_act.html", act=act, act_id=act_id, filters=filters, **_words())


def ask_act() -> Response:
    """The question, with the exact count. Raises BadRequest, Forbidden."""
    verb, filters, named = _read_request()
    reach = bulk_acts.count_reach(
        get_context(), get_caller(), verb, search=None if named is not None else filters.search, ids=named or ()
    )
    if not reach.number:
        raise BadRequest(_("No job there allows that any more. Look at the list again."), code="nothing_to_do")
    return ask(
        _ask(verb, reach.number),
        verb=_press(verb),
        text=_explain(verb, reach),
        danger=verb is not BulkVerb.RETRY,
        fields={"up_to": ids.show_id(ids.JOB, reach.up_to)},
        back=filters.address(),
    )


def make_act() -> BaseResponse:
    """Ask for it. Raises BadRequest, Forbidden."""
    verb, filters, named = _read_request()
    given = request.form.get("up_to")
    act, _replayed = bulk_acts.ask_for(
        get_context(),
        get_caller(),
        verb,
        search=None if named is not None else filters.search,
        ids=named or (),
        up_to=ids.parse_id(ids.JOB, given) if given else None,
    )
    return finish(_("It was asked for; a worker carries it out."), url_for("admin.show_act", act_id=show_bulk(act)))


def ask_cancel_act(act_id: str) -> Response:
    """The question. Raises NotFound."""
    bulk_acts.get_act(get_context(), get_caller(), ids.parse_id(ids.BULK, act_id))
    return ask(
        _("Stop this act?"),
        verb=_("Stop it"),
        text=_("What it has done so far stays done; the other jobs are left as they are."),
        danger=True,
        back=url_for("admin.show_act", act_id=act_id),
    )


def cancel_act(act_id: str) -> BaseResponse:
    """Stop it half way. Raises NotFound, Conflict, Forbidden."""
    bulk_acts.cancel_act(get_context(), get_caller(), ids.parse_id(ids.BULK, act_id))
    return finish(_("The act was stopped."), url_for("admin.show_act", act_id=act_id))


def show_bulk(act: BulkAct) -> str:
    """The id of an act as an address has it."""
    return ids.show_id(ids.BULK, act.id)


def _read_request() -> tuple[BulkVerb, Filters, list[Any] | None]:
    """What is to be done, and the jobs that were ticked; None for all that match the filter."""
    word = request.args.get("verb", "")
    if word not in [verb.value for verb in BulkVerb]:
        raise BadRequest(_("`verb` must be retry, cancel or delete."), param="verb")
    filters = read_filters()
    return BulkVerb(word), filters, None if request.args.get("reach") == "all" else read_job_ids()


def _ask(verb: BulkVerb, number: int) -> str:
    told = f"{number:,}"
    asked: dict[BulkVerb, str] = {
        BulkVerb.RETRY: ngettext("Try %(told)s job again?", "Try %(told)s jobs again?", number, told=told),
        BulkVerb.CANCEL: ngettext("Cancel %(told)s job?", "Cancel %(told)s jobs?", number, told=told),
        BulkVerb.DELETE: ngettext("Delete %(told)s job?", "Delete %(told)s jobs?", number, told=told),
    }
    return asked[verb]


def _press(verb: BulkVerb) -> str:
    words: dict[BulkVerb, str] = {
        BulkVerb.RETRY: _("Try them again"), BulkVerb.CANCEL: _("Cancel them"), BulkVerb.DELETE: _("Delete them"),
    }  # fmt: skip
    return words[verb]


def _explain(verb: BulkVerb, reach: Reach) -> str:
    what = {
        BulkVerb.RETRY: _(
            "Each is done again as a new job with the same prompt; the old ones stay as they ended. One that was tried "
            "again before is left out."
        ),
        BulkVerb.CANCEL: _("They end without an answer. One that ends by itself first is left as it is."),
        BulkVerb.DELETE: _(
            "Their prompts, pictures and answers are gone for good. Lines of a batch that has not ended are left out."
        ),
    }[verb]
    later = _("Jobs that are submitted from now on are not touched.")
    if not reach.others:
        return f"{what} {later}"
    told = f"{reach.others:,}"
    others = ngettext(
        "%(told)s more job matches and is left as it is: its state does not allow it.",
        "%(told)s more jobs match and are left as they are: their state does not allow it.",
        reach.others,
        told=told,
    )
    return f"{what} {others} {later}"


def _words() -> dict[str, Any]:
    """What templates of acts need: the verbs in words, and conditions told."""
    verbs = {BulkVerb.RETRY: _("Try again"), BulkVerb.CANCEL: _("Cancel"), BulkVerb.DELETE: _("Delete")}
    return {"verbs": verbs, "tell": lambda act: tell_search(JobSearch.of(act.search)), "show_bulk": show_bulk}
