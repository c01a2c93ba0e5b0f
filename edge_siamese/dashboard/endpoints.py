"""Endpoints of the API: turns functions into endpoints and describes them as OpenAPI 3.1.

An endpoint is a function whose annotations define its parameters and its response. Parameters named in the path come from
the path; `state` is the `AppState`, `request` the Starlette request, `identity` its sender, `body` the JSON body; all others
come from the query. Plain functions run in a thread pool, coroutine functions on the event loop.
"""

from __future__ import annotations

import asyncio
import inspect
import re
import types
from collections.abc import AsyncIterable, Callable, Mapping, Sequence
from functools import partial
from http import HTTPStatus
from typing import Annotated, Any, Union, cast, get_args, get_origin, get_type_hints
from urllib.parse import parse_qs

import msgspec
from starlette.requests import ClientDisconnect, Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from edge_siamese import __version__
from edge_siamese.dashboard.auth import NOBODY
from edge_siamese.dashboard.limits import JSON_SECONDS, MAX_JSON_BYTES, read_body, unless_disconnected
from edge_siamese.dashboard.schemas import ApiError, Failure, to_json
from edge_siamese.dashboard.state import AppState
from edge_siamese.validation import (
    MAX_MESSAGE_VALUES,
    Record,
    SchemaError,
    convert,
    convert_texts,
    json_schema,
    parse_json,
)

PREFIX = "/api/v1"
JSON = "application/json"
MAX_QUERY_FIELDS = 20

DESCRIPTION = """\
The API of the dashboard's page, for programs. Changes need the header `X-CSRF-Token` with the token of
`GET /api/v1/session`, or `Authorization: Bearer TOKEN` with a token of `sudo edge-siamese dashboard token NAME`. A dashboard
on loopback without password and tokens needs no login. Fields and endpoints may be added; incompatible changes get another
version in the path."""


class ApiResponse(JSONResponse):
    """A JSON response. Lone surrogates, which file names may contain, are replaced."""

    def render(self, content: Any) -> bytes:
        """Encode the body."""
        return to_json(content)


class BoundedStreamingResponse(StreamingResponse):
    """A streaming response that ends when the client disconnects, even while there is nothing to send.

    From ASGI 2.4 on, Starlette's own notices a disconnect only when it sends.
    """

    def __init__(
        self,
        content: AsyncIterable[bytes],
        *,
        media_type: str,
        headers: Mapping[str, str],
        on_end: Callable[[], object],
        seconds: float | None = None,
    ) -> None:
        """Stream content.

        Args:
            content: the body.
            media_type: media type of the body.
            headers: more headers.
            on_end: always called at the end.
            seconds: time limit; None: there is none.
        """
        super().__init__(content, media_type=media_type, headers=headers)
        self._on_end, self._seconds = on_end, seconds

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send; raises `ClientDisconnect` if the client disconnects or is too slow."""
        try:
            async with asyncio.timeout(self._seconds):
                await unless_disconnected(self.stream_response(send), receive)
        except TimeoutError:
            raise ClientDisconnect from None
        finally:
            self._on_end()


def error_response(error: ApiError) -> Response:
    """Return the response for an error."""
    return ApiResponse(error.body, error.status, error.headers)


class Endpoint:
    """One method of one path."""

    def __init__(
        self,
        method: str,
        path: str,
        tag: str,
        function: Callable[..., Any],
        *,
        status: int = 200,
        returns: Any = None,
        public: bool = False,
        accepts: Sequence[str] = (),
        media_type: str = "",
        headers: Mapping[str, str] | None = None,
        responses: Mapping[int, str | type[Record]] | None = None,
    ) -> None:
        """Declare an endpoint.

        Args:
            method: HTTP method.
            path: below `PREFIX`, with `{name}` for parameters.
            tag: the subject under which it is described.
            function: handles requests; its name is the `operationId` and its docstring's first line the summary.
            status: status of a successful response.
            returns: type of the JSON body, if the function's annotation does not say it.
            public: whether it needs no login.
            accepts: media types of a body that the function itself reads from the request.
            media_type: media type of a response that is not JSON.
            headers: headers of a successful response, with their descriptions.
            responses: other statuses, with a description or the type of their body.
        """
        self.method, self.path, self.tag, self.function = method, path, tag, function
        self.status, self.public, self.accepts, self.media_type = status, public, tuple(accepts), media_type
        self.headers, self.responses = dict(headers or {}), dict(responses or {})
        hints = get_type_hints(function, include_extras=True)
        returned = hints.pop("return")
        self.returns = returned if returns is None else returns
        self.body = hints.pop("body", None)
        self._injected = hints.keys() & {"state", "request", "identity"}
        defaults = {
            name: parameter.default for name, parameter in inspect.signature(function).parameters.items()
        }
        in_path = re.findall(r"{(\w+)}", path)
        in_query = [name for name in hints if name not in self._injected and name not in in_path]
        self.path_parameters = _parameters(in_path, hints, defaults)
        self.query_parameters = _parameters(in_query, hints, defaults)
        self.is_async = inspect.iscoroutinefunction(function)

    @property
    def full_path(self) -> str:
        """The path with `PREFIX`."""
        return PREFIX + self.path

    @property
    def name(self) -> str:
        """The `operationId`."""
        return self.function.__name__.rstrip("_")

    @property
    def summary(self) -> str:
        """One line."""
        return (self.function.__doc__ or "").split("\n")[0]

    async def handle(self, request: Request) -> Response:
        """Check, call the function, and return its response.

        Raises:
            EdgeSiameseError: the function's error, or `ApiError` for an invalid request.
        """
        if request.method == "HEAD" and self.is_async:
            raise ApiError(405, "HEAD is not available here", headers={"Allow": self.method})
        state: AppState = request.app.state.dashboard
        state.authenticator.check_origin(request)
        identity = NOBODY if self.public else state.authenticator.authorize(request)
        injected = {"state": state, "request": request, "identity": identity}
        arguments = {name: injected[name] for name in self._injected} | self._read_parameters(request)
        if self.body is not None or self.accepts:
            self._check_media_type(request)
        if self.body is not None:
            arguments["body"] = _parse(await read_body(request, MAX_JSON_BYTES, JSON_SECONDS), self.body)
        if self.is_async:
            result = await self.function(**arguments)
        else:
            pool = state.public_pool if self.public else state.pool
            loop = asyncio.get_running_loop()
            result = await loop.run_in_executor(pool, partial(self.function, **arguments))
        if isinstance(result, Response):
            return result
        return Response(status_code=204) if result is None else ApiResponse(result, self.status)

    def _read_parameters(self, request: Request) -> dict[str, Any]:
        try:
            values = convert_texts(request.path_params, self.path_parameters)
        except SchemaError as error:
            raise ApiError(404, f"there is nothing at this URL: {error}") from error
        arguments = msgspec.structs.asdict(values)
        if not self.query_parameters.__struct_fields__:
            return arguments  # a query is ignored: the page adds one to the URLs of pictures that change
        try:
            text = request.scope["query_string"].decode("ascii")
            fields = parse_qs(text, keep_blank_values=True, max_num_fields=MAX_QUERY_FIELDS, errors="strict")
            for name, texts in fields.items():
                if len(texts) != 1:
                    raise SchemaError(name, "given more than once")
            query = convert_texts({name: texts[0] for name, texts in fields.items()}, self.query_parameters)
        except ValueError as error:  # includes invalid UTF-8, and `SchemaError`
            raise ApiError(422, f"invalid query: {error}") from error
        return arguments | msgspec.structs.asdict(query)

    def _check_media_type(self, request: Request) -> None:
        accepted = self.accepts or (JSON,)
        media_type = request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if media_type not in accepted:
            raise ApiError(
                415, f"the body must be {' or '.join(accepted)}, not {media_type or 'without a Content-Type'}"
            )


def _parameters(names: Sequence[str], hints: Mapping[str, Any], defaults: Mapping[str, Any]) -> type[Record]:
    """Return a `Record` of parameters. URLs have no null: an optional parameter is left out instead."""
    fields: list[Any] = []
    for name in names:
        hint = _without_none(hints[name])
        required = defaults[name] is inspect.Parameter.empty
        fields.append((name, hint) if required else (name, hint, defaults[name]))
    record: Any = msgspec.defstruct("Parameters", fields, bases=(Record,), frozen=True)
    return cast("type[Record]", record)


def _without_none(hint: Any) -> Any:
    if get_origin(hint) is Annotated:
        inner, *metadata = get_args(hint)
        return Annotated[(_without_none(inner), *metadata)]
    if get_origin(hint) in (Union, types.UnionType):
        arms = [arm for arm in get_args(hint) if arm is not type(None)]
        return Union[tuple(arms)]  # noqa: UP007
    return hint


def _parse(data: bytes, body: type[Record]) -> Any:
    try:
        value = parse_json(data, max_values=MAX_MESSAGE_VALUES)
    except SchemaError as error:
        raise ApiError(400, f"the body is not JSON: {error}") from error
    try:
        return convert(value, body)
    except SchemaError as error:
        raise ApiError(422, str(error)) from error


class Endpoints(list[Endpoint]):
    """The endpoints of one subject."""

    def __init__(self, tag: str) -> None:
        """Start empty. `tag` names the subject."""
        super().__init__()
        self.tag = tag

    def add(
        self, method: str, path: str, **options: Any
    ) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
        """Return a decorator that adds a function; `options` are those of `Endpoint`."""

        def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
            self.append(Endpoint(method, path, self.tag, function, **options))
            return function

        return decorate


_RETRY_AFTER = {"Retry-After": "Seconds to wait."}
_COMMON_FAILURES = {
    400: "The request cannot be read.",
    403: "The request comes from another website or lacks the CSRF token.",
    429: "Too many requests without a login.",
    503: "The daemon cannot do that now.",
}
_BODY_FAILURES = {
    408: "The body took too long.",
    413: "The body is too large.",
    415: "The body has another media type.",
}


def describe(endpoints: Sequence[Endpoint], device: str, cookie: str, server: str = "") -> dict[str, Any]:
    """Return the OpenAPI document, as JSON values.

    Args:
        endpoints: all of them.
        device: name of this device.
        cookie: name of the session cookie.
        server: URL below which the paths are; empty: that of the document's host.
    """
    described: list[Any] = [Failure]
    for endpoint in endpoints:
        described += [endpoint.path_parameters, endpoint.query_parameters]
        described += [endpoint.body] if endpoint.body is not None else []
        described += [endpoint.returns] if _is_json(endpoint.returns) else []
        described += [body for body in endpoint.responses.values() if not isinstance(body, str)]
    paths: dict[str, dict[str, Any]] = {}
    for endpoint in endpoints:
        paths.setdefault(endpoint.full_path, {})[endpoint.method.lower()] = _operation(endpoint)
    records = [kind for kind in described if getattr(kind, "__name__", "") != "Parameters"]
    _, components = json_schema(records, "#/components/schemas/{name}")
    return {
        "openapi": "3.1.0",
        "info": {"title": f"edge-siamese on {device}", "version": __version__, "description": DESCRIPTION},
        **({"servers": [{"url": server.rstrip("/")}]} if server else {}),
        "paths": paths,
        "components": {
            "schemas": dict(sorted(components.items())),
            "securitySchemes": {
                "token": {"type": "http", "scheme": "bearer"},
                "session": {"type": "apiKey", "in": "cookie", "name": cookie},
                "csrf": {"type": "apiKey", "in": "header", "name": "X-CSRF-Token"},
            },
        },
    }


def _operation(endpoint: Endpoint) -> dict[str, Any]:
    operation: dict[str, Any] = {
        "operationId": endpoint.name,
        "tags": [endpoint.tag],
        "summary": endpoint.summary,
        "responses": _responses(endpoint),
    }
    parameters = [
        *_described_parameters(endpoint.path_parameters, "path"),
        *_described_parameters(endpoint.query_parameters, "query"),
    ]
    if parameters:
        operation["parameters"] = parameters
    if endpoint.body is not None:
        operation["requestBody"] = {"required": True, "content": {JSON: {"schema": _schema(endpoint.body)}}}
    elif endpoint.accepts:
        content: dict[str, Any] = {media_type: {"schema": {}} for media_type in endpoint.accepts}
        operation["requestBody"] = {"required": True, "content": content}
    if not endpoint.public:
        csrf: dict[str, Any] = {} if endpoint.method == "GET" else {"csrf": []}
        operation["security"] = [{"token": []}, {"session": [], **csrf}]
    return operation


def _described_parameters(record: type[Record], place: str) -> list[dict[str, Any]]:
    parameters = []
    for field in msgspec.structs.fields(record):
        schema = _schema(field.type)
        description = schema.pop("description", "")
        if not field.required and field.default is not None:
            schema["default"] = field.default
        parameters.append(
            {
                "name": field.name,
                "in": place,
                "required": field.required,
                "schema": schema,
                **({"description": description} if description else {}),
            }
        )
    return parameters


def _responses(endpoint: Endpoint) -> dict[str, Any]:
    failures: dict[int, str | type[Record]] = dict(endpoint.responses)
    more = dict(_COMMON_FAILURES)
    if not endpoint.public:
        more |= {401: "Not logged in.", 409: "Not possible in the current state."}
    if endpoint.path_parameters.__struct_fields__:
        more[404] = "There is nothing at this URL."
    takes_body = endpoint.body is not None or endpoint.accepts
    if takes_body or endpoint.query_parameters.__struct_fields__:
        more[422] = "A value is invalid."
    if takes_body:
        more |= _BODY_FAILURES
    result = {str(endpoint.status): _success(endpoint)}
    for status, body in sorted({**more, **failures}.items()):
        text = body if isinstance(body, str) else HTTPStatus(status).phrase + "."
        response: dict[str, Any] = {"description": text}
        if status >= 400:
            schema = _schema(Failure if isinstance(body, str) else body)
            response["content"] = {JSON: {"schema": schema}}
        if status in (429, 503):
            response["headers"] = _described_headers(_RETRY_AFTER)
        result[str(status)] = response
    return dict(sorted(result.items()))


def _success(endpoint: Endpoint) -> dict[str, Any]:
    response: dict[str, Any] = {"description": HTTPStatus(endpoint.status).phrase + "."}
    if endpoint.headers:
        response["headers"] = _described_headers(endpoint.headers)
    if endpoint.media_type:
        response["content"] = {endpoint.media_type: {}}
    elif _is_json(endpoint.returns):
        response["content"] = {JSON: {"schema": _schema(endpoint.returns)}}
    return response


def _described_headers(headers: Mapping[str, str]) -> dict[str, Any]:
    return {name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()}


def _schema(kind: Any) -> dict[str, Any]:
    (schema,), _ = json_schema([kind], "#/components/schemas/{name}")
    return dict(schema)


def _is_json(returns: Any) -> bool:
    return not (
        returns in (None, type(None)) or (isinstance(returns, type) and issubclass(returns, Response))
    )
