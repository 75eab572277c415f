"""What SQLAlchemy sends to the server, as an onlooker sees it."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sqlalchemy import event
from sqlalchemy.ext.asyncio import AsyncEngine


@contextmanager
def said(engine: AsyncEngine) -> Iterator[list[str]]:
    """The statements that the engine's connections execute meanwhile. COPY goes past SQLAlchemy, and is not seen."""
    heard: list[str] = []

    def hear(*given: Any) -> None:
        heard.append(given[2])

    event.listen(engine.sync_engine, "before_cursor_execute", hear)
    try:
        yield heard
    finally:
        event.remove(engine.sync_engine, "before_cursor_execute", hear)
