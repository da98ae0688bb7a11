"""A reader of events that puts every saved picture into the gallery."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Iterator

from core.errors import VitrineError
from core.events import Event, ImageDone, Loaded
from core.gallery.gallery import Gallery


def indexed(
    events: Iterator[Event], gallery: Gallery, *, job: str = "", owner: str = "local"
) -> Iterator[Event]:
    """The same events; every picture that was saved is put into the gallery. To stand round
    `core.images.save.saved`. Closing this closes `events`."""
    checkpoint = ""
    try:
        for event in events:
            if isinstance(event, Loaded) and not checkpoint:
                checkpoint = event.checkpoint
            if isinstance(event, ImageDone) and event.path is not None:
                # A gallery that fails must not cost the picture; the next scan finds the file.
                with contextlib.suppress(VitrineError, sqlite3.Error):
                    gallery.add(
                        event.path,
                        event.request,
                        event.image.size,
                        checkpoint=checkpoint,
                        job=job,
                        image=event.index,
                        owner=owner,
                    )
            yield event
    finally:
        if (close := getattr(events, "close", None)) is not None:
            close()
