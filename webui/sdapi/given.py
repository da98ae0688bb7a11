"""A client's JSON, read with A1111's tolerance: null is unset, numbers and truths may be text."""

from __future__ import annotations

import base64
import binascii
import math
import re
from collections.abc import Collection, Mapping
from typing import Any

from core.errors import RequestError

TRUTHS = {"true": True, "1": True, "yes": True, "on": True, "": False, "false": False}
TRUTHS |= {"0": False, "no": False, "off": False, "none": False}


class ApiError(RequestError):
    """An answer with a status of A1111's."""

    def __init__(self, status: int, message: str, field: str | None = None) -> None:
        super().__init__(message, field)
        self.status = status


class Given:
    """One JSON object. What is read by name counts as known; see `unread`."""

    def __init__(self, body: Any) -> None:
        if not isinstance(body, Mapping):
            raise ApiError(422, "the body must be a JSON object")
        self.body: Mapping[str, Any] = body
        self._read: set[str] = set()

    def value(self, name: str) -> Any:
        self._read.add(name)
        return self.body.get(name)

    def unread(self, known: Collection[str] = ()) -> list[str]:
        """Names of fields that were given and that nobody asked for."""
        return sorted(str(name) for name in self.body.keys() - self._read - set(known))

    def text(self, name: str) -> str | None:
        value = self.value(name)
        if value is None or isinstance(value, str):
            return value
        if isinstance(value, int | float):
            return str(value)
        raise ApiError(422, f"{name} must be text, not {_shown(value)}", name)

    def chosen(self, name: str) -> str | None:
        """Text, where "" and "None" mean that nothing was chosen."""
        text = (self.text(name) or "").strip()
        return None if text.casefold() in ("", "none") else text

    def number(self, name: str) -> float | None:
        """Raises ApiError for what is no finite number."""
        value = self.value(name)
        if value is None or (isinstance(value, str) and not value.strip()):
            return None
        try:
            found = float(value) if isinstance(value, int | float | str) else math.nan
        except (ValueError, OverflowError):
            found = math.nan
        if not math.isfinite(found):
            raise ApiError(422, f"{name} must be a finite number, not {_shown(value)}", name)
        return found

    def whole(self, name: str) -> int | None:
        value = self.value(name)
        if isinstance(value, int):
            return int(value)
        if isinstance(value, str) and re.fullmatch(r"\s*[+-]?[0-9]{1,30}\s*", value):
            return int(value)
        number = self.number(name)
        if number is None:
            return None
        if not number.is_integer():
            raise ApiError(422, f"{name} must be a whole number, not {_shown(value)}", name)
        return int(number)

    def truth(self, name: str) -> bool:
        """Unset is false."""
        value = self.value(name)
        if isinstance(value, str):
            if (text := value.strip().casefold()) in TRUTHS:
                return TRUTHS[text]
            raise ApiError(422, f"{name} must be true or false, not {_shown(value)}", name)
        if value is None or isinstance(value, int | float):
            return bool(value)
        raise ApiError(422, f"{name} must be true or false, not {_shown(value)}", name)

    def list(self, name: str) -> list[Any]:
        value = self.value(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise ApiError(422, f"{name} must be a list, not {_shown(value)}", name)
        return value

    def object(self, name: str) -> Mapping[str, Any]:
        value = self.value(name)
        if value is None:
            return {}
        if not isinstance(value, Mapping):
            raise ApiError(422, f"{name} must be a JSON object, not {_shown(value)}", name)
        return value


def picture_bytes(value: Any, name: str) -> bytes:
    """A picture as clients send it: base64, with or without a `data:` address before it.

    Raises:
        ApiError: it is something else; addresses are never fetched.
    """
    if not isinstance(value, str) or not value.strip():
        raise ApiError(422, f"{name} must be a picture in base64, not {_shown(value)}", name)
    if re.match(r"\s*https?:", value, re.IGNORECASE):
        raise ApiError(
            422, f"{name}: pictures are not fetched from addresses; send the picture itself", name
        )
    if value.startswith("data:"):
        value = value.partition(",")[2]
    try:
        return base64.b64decode(value, validate=False)
    except (binascii.Error, ValueError) as error:
        raise ApiError(422, f"{name} is no base64: {error}", name) from error


def _shown(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "..."
