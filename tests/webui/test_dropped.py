"""A connection that breaks in the middle of a run: the page comes back to it and misses nothing."""

from __future__ import annotations

from playwright.sync_api import BrowserContext, Route, WebSocketRoute, expect

STATUS = '[data-v="status"]'


def test_a_dropped_socket_is_opened_again_where_it_left_off(
    context: BrowserContext, fake_server: str
) -> None:
    page = context.new_page()
    opened: list[str] = []

    def passed_on(socket: WebSocketRoute) -> None:
        """The first connection breaks after the seventh message with a step in it."""
        opened.append(socket.url)
        server = socket.connect_to_server()
        steps = 0

        def heard(message: str | bytes) -> None:
            nonlocal steps
            steps += '"type": "step"' in message if isinstance(message, str) else 0
            if len(opened) == 1 and steps > 7:
                server.close()
                socket.close(code=1012)
            else:
                socket.send(message)

        server.on_message(heard)

    page.route_web_socket("**/api/jobs/*/events*", passed_on)
    page.goto(fake_server)
    page.wait_for_selector(".v-chip")
    page.fill("#txt2img_prompt textarea", "two ghosts in the snow, slowly")
    page.click("#txt2img_generate")
    expect(page.locator(STATUS)).to_contain_text("Done")
    assert len(opened) == 2 and int(opened[1].rpartition("after=")[2]) > 7
    scrub = page.locator('[data-v="scrub"]')
    expect(scrub).to_have_attribute("max", "20")
    scrub.focus()
    page.keyboard.press("Home")
    for step in range(21):
        expect(page.locator('[data-v="at"]')).to_have_text(f"{step} / 20")
        page.keyboard.press("ArrowRight")


def test_a_server_that_was_away_is_found_again(context: BrowserContext, fake_server: str) -> None:
    """The queue's connection comes back by itself, with what happened meanwhile."""
    page = context.new_page()
    sockets: list[WebSocketRoute] = []

    def passed_on(socket: WebSocketRoute) -> None:
        sockets.append(socket)
        socket.connect_to_server()

    page.route_web_socket("**/api/queue/events", passed_on)
    page.goto(fake_server)
    page.wait_for_selector(".v-chip")
    page.wait_for_function("() => document.querySelector('[data-v=\"queue-open\"]')")
    away = True

    def answered(route: Route) -> None:
        route.abort() if away else route.continue_()

    page.route("**/api/queue", answered)
    while not sockets:
        page.wait_for_timeout(50)
    sockets[0].close(code=1012)
    page.wait_for_timeout(1200)
    away = False
    page.request.post(f"{fake_server}api/queue/pause", data={"paused": True})
    expect(page.locator('[data-v="queue-open"]')).to_contain_text("paused")
    page.request.post(f"{fake_server}api/queue/pause", data={"paused": False})
    expect(page.locator('[data-v="queue-open"]')).to_be_hidden()
