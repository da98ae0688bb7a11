"""The house from a terminal, for the machine's own user: its queue, who is here, and the links.

    python3 launch.py house queue                 who waits for what
    python3 launch.py house queue up ID           before the one ahead of it; also: down
    python3 launch.py house queue discard ID …    without ids: all that wait
    python3 launch.py house queue pause           everybody's jobs; also: resume
    python3 launch.py house people                who is here
    python3 launch.py house links                 the links that let others in
    python3 launch.py house links add NAME        a new one; with --watch: to watch only
    python3 launch.py house links revoke NAME

It speaks to the server that runs on this machine, as the page does.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import Any

from core.errors import RequestError, VitrineError
from webui.codes import qr

LETTERS = 44
"""Of a prompt, in a line."""

Ask = Callable[..., Any]
"""(path, body) -> the answer; a body makes it a POST, `method` something else."""


def main(words: Sequence[str] | None = None) -> int:
    """Exit status: 0 done, 1 it can't be done."""
    parser = argparse.ArgumentParser(
        prog="launch.py house",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("what", choices=("queue", "people", "links"))
    parser.add_argument("does", nargs="?", default="")
    parser.add_argument("names", nargs="*")
    parser.add_argument("--port", type=int, default=7860, help="of the server (7860)")
    parser.add_argument("--token", default=os.environ.get("VITRINE_TOKEN"), help="of its start")
    parser.add_argument("--https", action="store_true", help="it was started with a certificate")
    parser.add_argument("--watch", action="store_true", help="a link for watching only")
    parser.add_argument("--json", action="store_true", help="as the server answers")
    given = parser.parse_args(words)
    scheme = "https" if given.https else "http"
    ask = asking(f"{scheme}://127.0.0.1:{given.port}", given.token)
    tell = {"queue": queue, "people": people, "links": links}[given.what]
    try:
        answer, lines = tell(ask, given.does, given.names, given.watch)
    except VitrineError as error:
        print(error, file=sys.stderr)
        return 1
    print(json.dumps(answer) if given.json else "\n".join(lines))
    return 0


def asking(base: str, token: str | None) -> Ask:
    """Calls of the server there, with its token."""

    def ask(path: str, body: Any = None, method: str | None = None) -> Any:
        headers = {"content-type": "application/json"}
        if token:
            headers["authorization"] = f"Bearer {token}"
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(base + path, data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=30) as answer:
                return json.load(answer)
        except urllib.error.HTTPError as error:
            said = json.loads(error.read() or b"{}").get("error", f"it answered {error.code}")
            hint = " Give it with --token, or in VITRINE_TOKEN." if error.code == 401 else ""
            raise RequestError(f"{said}{hint}") from error
        except (OSError, ValueError) as error:
            raise RequestError(f"no Vitrine answers at {base}: is it running there?") from error

    return ask


def queue(ask: Ask, does: str, ids: Sequence[str], watch: bool) -> tuple[Any, list[str]]:
    """Everybody's jobs, and what is done to them."""
    if does in ("up", "down"):
        _moved(ask, does, ids)
    elif does == "discard":
        jobs = {"jobs": [_meant(ask, id)["id"] for id in ids]} if ids else {}
        ask("/api/queue/cancel", {**jobs, "everybody": True})
    elif does in ("pause", "resume"):
        ask("/api/queue/pause", {"paused": does == "pause", "everybody": True})
    elif does:
        raise RequestError(f"there is no {does!r}; there are: up, down, discard, pause, resume")
    told = ask("/api/queue?everybody=true")
    lines = [_line(job) for job in told["jobs"]] or ["Nothing waits."]
    if told["everybody_paused"]:
        lines.append("All is paused; go on with: queue resume")
    return told, lines


def _line(job: dict[str, Any]) -> str:
    wait = "" if job["wait"] is None else f"in about {job['wait']:.0f} s"
    when = "running" if job["state"] == "running" else wait or f"{job['place']} before it"
    prompt = " ".join(job["prompt"].split())
    prompt = prompt if len(prompt) <= LETTERS else prompt[: LETTERS - 1] + "…"
    return f"{job['id']:18} {when:14} {job['images']} × {job['steps']} steps  {prompt}"


def _meant(ask: Ask, id: str) -> dict[str, Any]:
    """The job of that id, or of the one id that begins so."""
    jobs = ask("/api/queue?everybody=true")["jobs"]
    found = [job for job in jobs if id and job["id"].startswith(id)]
    if len(found) != 1:
        raise RequestError(f"{len(found) or 'no'} jobs in the queue begin with {id!r}")
    return dict(found[0])


def _moved(ask: Ask, does: str, ids: Sequence[str]) -> None:
    if len(ids) != 1:
        raise RequestError(f"queue {does} takes one job")
    job = _meant(ask, ids[0])
    jobs = ask("/api/queue?everybody=true")["jobs"]
    line = [one["id"] for one in jobs if one["state"] == "waiting" and one["owner"] == job["owner"]]
    at = line.index(job["id"]) if job["id"] in line else -1
    to = at - 1 if does == "up" else at + 1
    if at < 0 or not 0 <= to < len(line):
        raise RequestError(f"{job['id']} can't go {does} among its owner's jobs")
    line[at], line[to] = line[to], line[at]
    ask("/api/queue/order", {"jobs": line})


def people(ask: Ask, does: str, names: Sequence[str], watch: bool) -> tuple[Any, list[str]]:
    told = ask("/api/people")
    roles = {"house": "this machine's own user", "guest": "guest", "viewer": "watching only"}
    return told, [
        f"{one['name'] or '(no name)':24} {roles[one['role']]:26} {one.get('address', '')}"
        for one in told
        if not one["you"]
    ] or ["Nobody else is here."]


def links(ask: Ask, does: str, names: Sequence[str], watch: bool) -> tuple[Any, list[str]]:
    name = " ".join(names)
    if does == "add":
        made = ask("/api/links", {"name": name, "role": "viewer" if watch else "guest"})
        return made, [f"For {made['name']}, shown this once:", *made["urls"], qr(made["urls"][0])]
    there = ask("/api/links")
    if does == "revoke":
        found = [link for link in there["links"] if name in (link["name"], link["id"])]
        if not found:
            raise RequestError(f"there is no link for {name!r}")
        ask(f"/api/links/{found[0]['id']}", method="DELETE")
        there = ask("/api/links")
    elif does:
        raise RequestError(f"there is no {does!r}; there are: add, revoke")
    words = {"guest": "may make pictures", "viewer": "may watch"}
    lines = [f"{link['name']:24} {words[link['role']]}" for link in there["links"]]
    return there, lines or ["There are no links."]


if __name__ == "__main__":
    sys.exit(main())
