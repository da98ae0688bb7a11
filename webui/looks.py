"""What the Explain page's routes share: questions to the engine, with limits, and their answers."""

from __future__ import annotations

import io
import threading
from collections import Counter, OrderedDict
from collections.abc import Hashable
from typing import TYPE_CHECKING, Any, TypeAlias

from fastapi.responses import Response

from core.engine.engine import DecodeLatents, Engine, Query
from webui.packing import Kind
from webui.stream import IMMUTABLE, Busy

if TYPE_CHECKING:
    from PIL.Image import Image
    from torch import Tensor

KEPT = 64
"""Answers that are kept, to be given again."""
AT_ONCE = 8
"""Questions one session may have open: more than a browser asks at a time, which is six."""
ALL_AT_ONCE = 24
"""Questions that may be open altogether: each holds a thread of the server."""
PATIENCE = 300
"""Seconds that a question waits for its answer."""

Arrays: TypeAlias = "dict[str, tuple[Kind, Tensor]]"
"""What goes into a packed answer, by name."""


class Looks:
    """Asks the engine, with limits, and keeps the last answers."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._kept: OrderedDict[Hashable, Any] = OrderedDict()
        self._open: Counter[str] = Counter()
        self._lock = threading.Lock()

    def asked(self, query: Query, owner: str, key: Hashable = None) -> Any:
        """The answer; with a `key` it is kept under it.

        Raises:
            Busy: too much is being asked at once, or the engine takes too long.
        """
        with self._lock:
            if key is not None and key in self._kept:
                self._kept.move_to_end(key)
                return self._kept[key]
            if self._open[owner] >= AT_ONCE or self._open.total() >= ALL_AT_ONCE:
                raise Busy("too much is being looked into at once; try again in a moment")
            self._open[owner] += 1
        future = self._engine.inspect(query, owner)
        try:
            answer = future.result(PATIENCE)
        except TimeoutError as error:
            future.cancel()
            raise Busy("the engine takes its time; ask again later") from error
        finally:
            with self._lock:
                self._open[owner] -= 1
        if key is not None:
            with self._lock:
                self._kept[key] = answer
                while len(self._kept) > KEPT:
                    self._kept.popitem(last=False)
        return answer

    def picture(self, query: DecodeLatents, owner: str) -> Response:
        return jpeg_of(self.asked(query, owner))


def png_of(picture: Image) -> Response:
    """Where pixels are compared, none may be lost."""
    stream = io.BytesIO()
    picture.save(stream, "PNG", compress_level=1)
    return Response(stream.getvalue(), media_type="image/png", headers=IMMUTABLE)


def jpeg_of(picture: Image) -> Response:
    from core.images.preview import jpeg

    data = jpeg(picture.convert("RGB"), quality=90)
    return Response(data, media_type="image/jpeg", headers=IMMUTABLE)
