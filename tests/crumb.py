"""A WSGI micro-framework made up for docs/adapters.md: it knows nothing of sessions."""

import re
from collections.abc import Callable, Iterable
from contextvars import ContextVar
from typing import Any, TypeAlias
from urllib.parse import parse_qsl
from wsgiref.headers import Headers

__all__ = ["App", "Request", "Response", "current_request"]

View: TypeAlias = Callable[["Request"], "Response | str"]

current_request: ContextVar["Request"] = ContextVar("crumb_request")


class Request:
    def __init__(self, environ: dict[str, Any]) -> None:
        self.environ = environ
        self.method: str = environ["REQUEST_METHOD"]
        self.path: str = environ["PATH_INFO"]
        self.view: View | None = None

    def form(self) -> dict[str, str]:
        body: bytes = self.environ["wsgi.input"].read(int(self.environ.get("CONTENT_LENGTH") or 0))
        return dict(parse_qsl(body.decode()))


class Response:
    def __init__(self, body: str | Iterable[bytes] = "", status: str = "200 OK") -> None:
        self.is_streamed = not isinstance(body, str)
        self.body: Iterable[bytes] = [body.encode()] if isinstance(body, str) else body
        self.status = status
        self.headers = Headers([("Content-Type", "text/html; charset=utf-8")])


class App:
    def __init__(self) -> None:
        self.views: dict[tuple[str, str], View] = {}
        self.pages: dict[int, Callable[[Request, str], Response]] = {}
        self.catches: dict[type[Exception], Callable[[Request, Any], Response]] = {}
        self.before: list[Callable[[Request], Response | None]] = []
        self.after: list[Callable[[Request, Response], Response]] = []
        self.template_functions: dict[str, Callable[..., str]] = {}

    def route(self, path: str, *methods: str) -> Callable[[View], View]:
        def add(view: View) -> View:
            self.views.update({(method, path): view for method in methods or ("GET",)})
            return view

        return add

    def error_page(self, request: Request, code: int, phrase: str) -> Response:
        page = self.pages.get(code)
        return Response(phrase, f"{code} {phrase}") if page is None else page(request, phrase)

    def render(self, template: str) -> str:
        return re.sub(r"{{ (\w+)\(\) }}", lambda found: self.template_functions[found[1]](), template)

    def __call__(self, environ: dict[str, Any], start_response: Callable[..., Any]) -> Iterable[bytes]:
        request = Request(environ)
        token = current_request.set(request)
        try:
            response = self._respond(request)
            for hook in self.after:
                response = hook(request, response)
        finally:
            current_request.reset(token)
        start_response(response.status, response.headers.items())
        return response.body

    def _respond(self, request: Request) -> Response:
        request.view = self.views.get((request.method, request.path))
        try:
            for hook in self.before:
                if (early := hook(request)) is not None:
                    return early
            if request.view is None:
                return self.error_page(request, 404, "Not Found")
            made = request.view(request)
            return Response(made) if isinstance(made, str) else made
        except tuple(self.catches) as error:
            caught = next(catch for kind, catch in self.catches.items() if isinstance(error, kind))
            return caught(request, error)
