"""Routes: paths with labels, decoded part by part."""

import pytest

from core.http.entrance import LOCAL, Caller
from core.http.messages import HttpError, Request, Response
from core.http.routes import Labels, Routes


async def show(caller: Caller, request: Request, labels: Labels) -> Response:
    return Response(200, repr(dict(labels)).encode())


@pytest.fixture
def routes() -> Routes:
    routes = Routes()
    routes.add("POST", "/topics/{topic+}", show)
    routes.add("GET", "/things/{thing}/shadow", show)
    routes.add("DELETE", "/things/{thing}/shadow", show)
    routes.add("POST", "/", show)
    return routes


async def labels(routes: Routes, method: str, target: str) -> str:
    return (await routes.answer(LOCAL, Request(method, target, {}))).body.decode()


async def test_labels_are_decoded_after_the_path_was_taken_apart(routes: Routes) -> None:
    assert await labels(routes, "POST", "/topics/a%2Fb%20c?qos=1") == "{'topic': 'a/b c'}"
    assert await labels(routes, "POST", "/topics/a/b/") == "{'topic': 'a/b/'}"
    assert await labels(routes, "GET", "/things/press%2F7/shadow") == "{'thing': 'press/7'}"
    assert await labels(routes, "HEAD", "/things/%C3%A9/shadow/") == "{'thing': 'é'}"
    assert await labels(routes, "POST", "/") == "{}"


@pytest.mark.parametrize(
    ("method", "target", "status"),
    [
        ("GET", "/topics/a", 405),
        ("POST", "/topics/", 404),
        ("GET", "/things/a/b/shadow", 404),
        ("GET", "/things//shadow", 404),
        ("GET", "/things/a/shadow/x", 404),
        ("GET", "/things/%FF/shadow", 400),
        ("GET", "*", 404),
    ],
)
async def test_what_fits_nowhere_is_refused(routes: Routes, method: str, target: str, status: int) -> None:
    with pytest.raises(HttpError) as caught:
        await labels(routes, method, target)
    assert caught.value.status == status


async def test_a_wrong_method_is_told_the_right_ones(routes: Routes) -> None:
    with pytest.raises(HttpError) as caught:
        await labels(routes, "PUT", "/things/a/shadow")
    assert caught.value.headers == {"allow": "DELETE, GET"}
