"""The three endpoints, asked over a real socket."""

import asyncio
import socket
import time
from collections.abc import Iterator

import pytest
from prometheus_client import CollectorRegistry, Gauge, make_wsgi_app

from jobs.background import alongside
from tests.eventually import eventually
from tests.http import answers, asked, get
from worker.http import application, listening
from worker.monitor import Monitor
from worker.pulse import LOOP, OLDEST_S, Pulse
from worker.settings import WrongSettings

ANYWHERE = "127.0.0.1:0"
PATIENCE_S = 10


@pytest.fixture
def monitor() -> Monitor:
    monitor = Monitor()
    monitor.pulse = Pulse({**OLDEST_S, LOOP: 1.0})
    return monitor


@pytest.fixture
def url(monitor: Monitor) -> Iterator[str]:
    registry = CollectorRegistry()
    Gauge("answer", "To everything.", registry=registry).set(42)
    with listening(ANYWHERE, application(monitor.pulse, make_wsgi_app(registry))) as url:
        yield url


async def test_a_blocked_event_loop_is_told_while_it_is_blocked_and_not_after(monitor: Monitor, url: str) -> None:
    """Seen to fail without the beat's age in the answer: then /live says 200 for ever."""
    async with alongside(monitor.beat()):
        assert await eventually(lambda: answers(f"{url}/live", 200)) == "ok\n"

        deadline = time.monotonic() + PATIENCE_S
        while (answer := get(f"{url}/live"))[0] == 200:  # without an await: nothing else runs on this loop
            assert time.monotonic() < deadline
        assert answer[0] == 503
        assert answer[1].startswith("event loop: the last sign of it is ")

        assert await eventually(lambda: answers(f"{url}/live", 200)) == "ok\n"


async def test_what_is_not_ready_says_why_in_one_line(url: str) -> None:
    assert await asked(f"{url}/ready") == (503, "the worker is starting\n")


async def test_metrics_are_in_the_text_format(url: str) -> None:
    status, body = await asked(f"{url}/metrics")
    assert (status, "answer 42.0" in body) == (200, True)


@pytest.mark.parametrize("path", ["", "/", "/live/", "/nothing", "/%ff"])
async def test_another_path_is_not_found_and_the_three_are_named(url: str, path: str) -> None:
    assert await asked(url + path) == (404, "there are /live, /ready and /metrics\n")


@pytest.mark.parametrize(("method", "expected"), [("HEAD", (200, "")), ("POST", (405, "GET and HEAD are answered\n"))])
async def test_a_probe_is_only_read(url: str, method: str, expected: tuple[int, str]) -> None:
    assert await asyncio.to_thread(get, f"{url}/live", method=method) == expected


async def test_a_client_that_says_nothing_keeps_no_other_waiting(url: str) -> None:
    host, _, port = url.removeprefix("http://").rpartition(":")
    with socket.create_connection((host, int(port))):
        assert (await asked(f"{url}/live"))[0] == 200


async def test_an_open_request_does_not_keep_the_server_from_ending(monitor: Monitor) -> None:
    with listening(ANYWHERE, application(monitor.pulse, make_wsgi_app(CollectorRegistry()))) as url:
        host, _, port = url.removeprefix("http://").rpartition(":")
        client = socket.create_connection((host, int(port)))
        await asked(f"{url}/live")  # so the connection before it was taken
        begun = time.monotonic()
    with client:
        assert time.monotonic() - begun < 2, "it waited for the client, which has 5 s"


def test_a_port_that_is_taken_is_told_with_its_address(monitor: Monitor) -> None:
    with socket.create_server(("127.0.0.1", 0)) as other:
        address = f"127.0.0.1:{other.getsockname()[1]}"
        with (
            pytest.raises(WrongSettings, match=f"^LOWTIDE_HTTP: can't listen on {address}: Address already in use$"),
            listening(address, application(monitor.pulse, make_wsgi_app(CollectorRegistry()))),
        ):
            pass


def test_a_host_that_is_not_ours_is_told() -> None:
    with (
        pytest.raises(WrongSettings, match=r"^LOWTIDE_HTTP: can't listen on nowhere.invalid:9187: "),
        listening("nowhere.invalid:9187", make_wsgi_app(CollectorRegistry())),
    ):
        pass
