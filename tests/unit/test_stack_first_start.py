"""What a start declares before any process of it runs: the model that is wanted, and on which servers."""

from __future__ import annotations

from typing import TYPE_CHECKING

from batchinfer.services import models
from batchinfer.stack.first_start import prepare_model
from batchinfer.stack.home import Home
from batchinfer.stack.models import find_model
from batchinfer.stack.programs import Fleet
from batchinfer.stack.servers import Servers

if TYPE_CHECKING:
    from batchinfer.services.context import Caller, Context
    from batchinfer.settings import Settings


def list_wanted(ctx: Context) -> set[str]:
    return {wanted.model for wanted in models.list_deployments(ctx)}


def test_another_model_takes_the_place_of_the_one_of_the_last_start_and_of_no_other(
    context: Context, caller: Caller
) -> None:
    home = Home(context.settings.home)
    home.open()
    try:

        def begin(model: str | None) -> None:
            folder = find_model(model, context.settings.home, fake=True)
            prepare_model(context, Fleet(folder, "fake", ["cpu"], 1), home)

        begin(None)
        models.register_model(context, "beside", "", "r1")
        models.ensure_deployment(context, "beside", engine="fake", device="cpu")
        assert list_wanted(context) == {"docreader", "beside"}
        begin("another")
        assert list_wanted(context) == {"another", "beside"}
        begin("another")
        assert list_wanted(context) == {"another", "beside"}
        begin("beside")
        assert list_wanted(context) == {"beside"}
    finally:
        home.close()


def test_servers_that_are_named_are_taken_and_none_is_started(settings: Settings) -> None:
    servers = Servers(settings)
    servers.start()
    try:
        assert servers.settings_in_force() == settings
        assert servers.places() == []
        assert not (settings.home / "pg").exists()
    finally:
        servers.stop()
