"""The page is drawn anew when it must be, and those that are open go on with what they have."""

from __future__ import annotations

import contextlib
from collections.abc import AsyncIterator, Iterator

import pytest
from fastapi import FastAPI, Request
from fastapi.testclient import TestClient

from webui.mounted import KEPT, Page


class Drawings:
    """Counts what is drawn; each drawing says which one it is, and where it thinks it lies."""

    def __init__(self) -> None:
        self.drawn = 0
        self.alive: list[int] = []
        self.fails = False

    def draw(self) -> FastAPI:
        if self.fails:
            raise RuntimeError("no page")
        self.drawn += 1
        number = self.drawn

        @contextlib.asynccontextmanager
        async def lifespan(app: FastAPI) -> AsyncIterator[None]:
            self.alive.append(number)
            yield
            self.alive.remove(number)

        app = FastAPI(lifespan=lifespan)

        @app.get("/")
        @app.get("/assets/a.js")
        @app.get("/gradio_api/call")
        def told(request: Request) -> dict[str, object]:
            return {"drawing": number, "root": request.scope.get("root_path", "")}

        return app


@pytest.fixture
def drawings() -> Drawings:
    return Drawings()


@pytest.fixture
def page(drawings: Drawings) -> Page:
    return Page(drawings.draw)


@pytest.fixture
def client(page: Page) -> Iterator[TestClient]:
    app = FastAPI(lifespan=lambda app: page.living())
    app.mount("/", page)
    with TestClient(app) as client:
        yield client


def test_a_page_is_drawn_once_until_something_changes(
    page: Page, drawings: Drawings, client: TestClient
) -> None:
    for _ in range(3):
        assert client.get("/").json() == {"drawing": 1, "root": ""}
    page.outdated()
    assert drawings.drawn == 1, "nobody has asked for it yet"
    for _ in range(3):
        assert client.get("/").json() == {"drawing": 2, "root": "/~2"}
    assert drawings.alive == [1, 2]


def test_each_page_calls_its_own_drawing(page: Page, client: TestClient) -> None:
    page.outdated()
    client.get("/")
    assert client.get("/gradio_api/call").json()["drawing"] == 1
    assert client.get("/~2/gradio_api/call").json() == {"drawing": 2, "root": "/~2"}
    assert client.get("/assets/a.js").json()["drawing"] == 2
    assert client.get("/~2/nothing").status_code == 404
    assert client.get("/~9/gradio_api/call").status_code == 404


def test_the_oldest_goes_and_says_so(page: Page, drawings: Drawings, client: TestClient) -> None:
    for _ in range(KEPT):
        page.outdated()
        client.get("/")
    assert drawings.drawn == KEPT + 1
    assert client.get("/~2/gradio_api/call").status_code == 200
    page.outdated()
    client.get("/")
    gone = client.get("/~2/gradio_api/call")
    assert gone.status_code == 404 and "load it again" in gone.json()["error"]
    assert drawings.alive == [3, 4, 5, 6], "what nobody can call does nothing any more"


def test_one_that_can_not_be_drawn_leaves_the_last_one(
    page: Page, drawings: Drawings, client: TestClient
) -> None:
    page.outdated()
    drawings.fails = True
    assert client.get("/").json()["drawing"] == 1
    drawings.fails = False
    page.outdated()
    assert client.get("/").json()["drawing"] == 2
