"""Endpoints of the daemon's commands, generated from its table of commands."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Annotated, Any, get_type_hints

import msgspec
from msgspec import Meta

from edge_siamese.daemon import api
from edge_siamese.daemon.commands import Argument, Command, arguments_of, commands_for
from edge_siamese.daemon.surroundings import SurroundingsReport
from edge_siamese.dashboard.endpoints import Endpoint
from edge_siamese.dashboard.schemas import (
    ApiError,
    Decision,
    JsonObject,
    Message,
    Object,
    Time,
    UploadIds,
    ViewId,
)
from edge_siamese.dashboard.state import AppState
from edge_siamese.store.records import StoredView
from edge_siamese.validation import Record, SchemaError

SOURCE = "dashboard"
"""Source of registrations in events."""


class Changed(Record):
    """The outcome of a change."""

    text: Annotated[str, Meta(description="The outcome in one line.")]
    object: Annotated[
        Object, Meta(description="The object after the change; for a forgotten one, as it was before.")
    ]


class ObjectList(Record):
    """All registered objects."""

    model_id: Annotated[str, Meta(description="Id of the current model.")]
    objects: tuple[Object, ...]


class View(Record):
    """A view, or a negative: an example of what the object is not."""

    id: ViewId
    uid: str
    kind: Annotated[str, Meta(description="view or negative")]
    created: Time
    source: str
    crops: Annotated[int, Meta(description="Number of pictures that are kept.")]


class ViewList(Record):
    """Views and negatives of an object."""

    views: tuple[View, ...]


class DecisionList(Record):
    """The decisions on pictures."""

    decisions: tuple[Decision, ...]


RESULTS: tuple[tuple[Any, Any, Callable[[AppState, Any], Any]], ...] = (
    (api.Change, Changed, lambda s, r: Changed(text=r.text, object=s.describe_object(r.object))),
    (api.Line, Message, lambda _, r: Message(text=r.text)),
    (
        api.ObjectList,
        ObjectList,
        lambda s, r: ObjectList(model_id=r.model_id, objects=tuple(map(s.describe_object, r.objects))),
    ),
    (list[StoredView], ViewList, lambda _, r: ViewList(views=tuple(map(_view, r)))),
    (SurroundingsReport, SurroundingsReport, lambda _, r: r),
    (list[dict[str, Any]], DecisionList, lambda _, r: {"decisions": r}),
    (dict[str, Any], JsonObject, lambda _, r: r),
)
"""Type of a method's result, type of the response's body, and the conversion."""


def _view(stored: StoredView) -> View:
    return View(**{name: getattr(stored, name) for name in View.__struct_fields__})


def endpoint_of(command: Command) -> Endpoint:
    """Return the endpoint of a command."""
    assert command.http is not None
    method, path = command.http.split(" ")
    arguments = arguments_of(command)
    in_path = [argument for argument in arguments if f"{{{argument.name}}}" in path]
    others = [argument for argument in arguments if argument not in in_path]
    pictures = [argument.name for argument in others if argument.is_picture]
    returned = get_type_hints(getattr(api.DaemonApi, command.method))["return"]
    body_type, convert_result = next((body, convert) for kind, body, convert in RESULTS if kind == returned)

    def run(state: AppState, body: Any = None, **keywords: Any) -> Any:
        if body is not None:
            keywords |= msgspec.structs.asdict(body)
        uploads = {name: keywords[name] for name in pictures}
        keywords |= {name: state.uploads.get(ids) for name, ids in uploads.items()}
        try:
            command.arguments(**keywords)  # checks across fields
        except SchemaError as error:
            raise ApiError(422, str(error)) from error
        if command.needs_client:
            keywords["client"] = api.SilentClient(SOURCE)
        result = getattr(state.api, command.method)(**keywords)
        if isinstance(result, api.Change):
            for ids in uploads.values():
                state.uploads.drop(ids)
        return convert_result(state, result)

    annotations: dict[str, Any] = {"state": AppState} | {a.name: a.annotation for a in in_path}
    if others and method != "GET":
        annotations["body"] = _body(command, others)
    parameters = [inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY) for name in annotations]
    run.__name__, run.__doc__ = command.name.replace("-", "_"), command.help
    run.__annotations__ = {**annotations, "return": body_type}
    run.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    responses: dict[int, str | type[Record]] = {404: "There is no such object or picture."}
    if pictures and returned is api.Change:
        responses[409] = Refusal
    return Endpoint(method, path, "commands", run, responses=responses)


class Refusal(Record):
    """Why nothing was registered."""

    error: str
    kind: str
    reason: Annotated[
        str, Meta(description="Reason of a refusal, such as blurred, already known, failed, ended.")
    ] = ""
    collides: Annotated[str | None, Meta(description="The registered object that the new one resembles.")] = (
        None
    )


def _body(command: Command, arguments: list[Argument]) -> type[Record]:
    """Return the type of a JSON body. Pictures are uploaded beforehand and referenced by their ids."""
    fields: list[Any] = []
    for argument in arguments:
        kind = UploadIds if argument.is_picture else argument.annotation
        fields.append((argument.name, kind) if argument.required else (argument.name, kind, argument.default))
    body: Any = msgspec.defstruct(
        command.arguments.__name__,
        fields,
        bases=(Record,),
        namespace={"__doc__": command.arguments.__doc__},
        frozen=True,
    )
    checked: type[Record] = body
    return checked


ENDPOINTS = [endpoint_of(command) for command in commands_for("http") if command.http is not None]
