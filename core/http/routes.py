"""Which handler a request is for, by method and path.

A pattern is a path with labels: `{name}` is one part of the path, `{name+}` the rest of it. Labels are decoded after
the path was taken apart, so an encoded slash belongs to its part.
"""

import re
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from urllib.parse import unquote

from core.http.entrance import Caller
from core.http.messages import HttpError, Request, Response

Labels = Mapping[str, str]
Routed = Callable[[Caller, Request, Labels], Awaitable[Response]]

_LABEL = re.compile(r"\\{(\w+)(\\\+)?\\}")


@dataclass(frozen=True, slots=True)
class _Route:
    method: str
    pattern: re.Pattern[str]
    handler: Routed


class Routes:
    """Handlers in the order in which they were added; the first that fits takes the request."""

    def __init__(self) -> None:
        self._routes: list[_Route] = []

    def add(self, method: str, pattern: str, handler: Routed) -> None:
        """Give requests of a method whose path fits a pattern to `handler`; those of HEAD go where GET's do."""
        expression = _LABEL.sub(_group, re.escape(pattern))
        self._routes.append(_Route(method, re.compile(f"{expression}/?"), handler))

    async def answer(self, caller: Caller, request: Request) -> Response:
        """Have a request answered; raises as `find` and the handlers do."""
        handler, labels = self.find(request)
        return await handler(caller, request, labels)

    def find(self, request: Request) -> tuple[Routed, Labels]:
        """The handler and its labels. Raises HttpError 404 or 405, or 400 for a path that is no UTF-8."""
        method = "GET" if request.method == "HEAD" else request.method
        others: set[str] = set()
        for route in self._routes:
            found = route.pattern.fullmatch(request.raw_path)
            if found is None:
                continue
            if route.method != method:
                others.add(route.method)
                continue
            try:
                return route.handler, {name: unquote(raw, errors="strict") for name, raw in found.groupdict().items()}
            except UnicodeDecodeError:
                raise HttpError(400, "BadRequest", "the path is no UTF-8") from None
        if others:
            message, allowed = f"{request.method} is not for this path", {"allow": ", ".join(sorted(others))}
            raise HttpError(405, "MethodNotAllowedException", message, allowed)
        raise HttpError(404, "UnknownOperationException", f"there is nothing at {request.raw_path[:200]}")


def _group(label: re.Match[str]) -> str:
    return f"(?P<{label[1]}>.+)" if label[2] else f"(?P<{label[1]}>[^/]+)"
