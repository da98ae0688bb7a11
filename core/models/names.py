"""How people call a model, and which one is meant."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping

from core.errors import RequestError

SHOWN = 20
"""So many names of what there is are told."""


def chosen(there: Mapping[str, Iterable[str]], asked: str, kind: str, field: str | None) -> str:
    """The name that is meant by `asked`: itself, then its last part, then an alias, in any case.

    Args:
        there: name → what else it may be called.
        asked: may end as A1111's titles do: "anime/style.safetensors [0123456789]".

    Raises:
        RequestError: none is meant, or several are: all of them are named.
    """
    plain = re.sub(r"\s*\[[0-9a-fA-F]{6,64}\]$", "", asked).replace("\\", "/").strip()
    marked = re.search(r"\[([0-9a-fA-F]{6,64})\]$", asked)
    bare = re.sub(r"\.(safetensors|ckpt|pt|pth|bin)$", "", plain)
    ways: tuple[Callable[[str], Iterable[str]], ...] = (
        lambda name: (name,),
        lambda name: (name.rpartition("/")[2],),
        lambda name: there[name],
    )
    for way in ways:
        for same in (str, str.casefold):
            wanted = {same(plain), same(bare)}
            found = [n for n in there if wanted & {same(called) for called in way(n)}]
            if len(found) > 1 and marked:
                hashed = [n for n in found if marked[1].lower() in there[n]]
                found = hashed or found
            if len(found) > 1:
                raise RequestError(
                    f"{asked!r} may be {' or '.join(repr(n) for n in found)}; use the whole name",
                    field,
                )
            if found:
                return found[0]
    names = sorted(there)
    rest = f" and {len(names) - SHOWN} more" if len(names) > SHOWN else ""
    listed = ", ".join(names[:SHOWN]) + rest or "none"
    raise RequestError(f"no {kind} named {asked!r}; there are: {listed}", field)
