"""The index of what was made: one row per saved picture, in SQLite, found again by its words.

The files are the truth, and the index follows them.
"""

from __future__ import annotations

import contextlib
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from core.errors import FileError, RequestError
from core.gallery.files import described, files
from core.gallery.files import moved as moved_file
from core.gallery.picture import Page, Picture, Scan, of_request, stored
from core.gallery.tables import (
    COLUMNS,
    KEEP,
    REFRESH,
    REPLACE,
    WRITTEN,
    as_picture,
    cursor,
    literal,
    prepare,
)
from core.gallery.thumbs import Thumbs
from core.request import GenerationRequest

if TYPE_CHECKING:
    from core.registry import Registry

LONGEST_PAGE = 500
BATCH = 100
"""Files of a scan that are put into the index at a time."""


class Gallery:
    """The index. Thread-safe: one connection behind one lock, held for milliseconds."""

    def __init__(self, path: Path, thumbs: Path | None = None) -> None:
        """
        Args:
            path: the SQLite file, made if it is not there.
            thumbs: folder of thumbnails; None: `thumbs` beside the file.

        Raises:
            FileError: the file can't be opened or written.
        """
        self._lock = threading.RLock()
        self._thumbs = Thumbs(path.parent / "thumbs" if thumbs is None else thumbs)
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._base = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
            self._has_words = prepare(self._base)
        except (OSError, sqlite3.Error) as error:
            reason = getattr(error, "strerror", None) or error
            raise FileError(f"the gallery's index {path} can't be written ({reason})") from error

    def close(self) -> None:
        with self._lock:
            self._base.close()

    # Putting in

    def add(
        self,
        path: Path,
        request: GenerationRequest,
        size: tuple[int, int],
        *,
        checkpoint: str = "",
        job: str = "",
        image: int = 0,
        owner: str = "local",
        made: float | None = None,
    ) -> Picture:
        """A picture that was just saved. A file that a scan found meanwhile gets its owner.

        Raises:
            FileError: the file is not there.
        """
        path = path.resolve()
        try:
            stat = path.stat()
        except OSError as error:
            raise FileError(f"{path.name} can't be put into the gallery: {error}") from error
        picture = Picture(
            id=0,
            path=path,
            made=time.time() if made is None else made,
            width=size[0],
            height=size[1],
            checkpoint=checkpoint or request.checkpoint or "",
            job=job,
            image=image,
            owner=owner,
            **of_request(request),
        )
        with self._transaction():
            self._insert(picture, stat, REPLACE)
            row = self._base.execute(
                "SELECT id FROM pictures WHERE path = ? AND deleted IS NULL", (str(path),)
            )
            return replace(picture, id=row.fetchone()[0])

    def _insert(self, picture: Picture, stat: os.stat_result, conflict: str) -> int:
        values = (
            *(str(picture.path), picture.made, picture.width, picture.height, picture.prompt),
            *(picture.negative_prompt, picture.checkpoint, picture.seed, picture.job),
            *(picture.image, picture.owner, picture.parent, stat.st_mtime_ns, stat.st_size),
        )
        marks = ", ".join("?" * len(values))
        done = self._base.execute(
            f"INSERT INTO pictures ({WRITTEN}) VALUES ({marks}) {conflict}", values
        )
        return done.rowcount

    # Finding again

    def page(
        self,
        owner: str | None = None,
        before: str | None = None,
        limit: int = 60,
        *,
        words: str = "",
        model: str = "",
        since: float | None = None,
        until: float | None = None,
        starred: bool = False,
        binned: bool = False,
    ) -> Page:
        """Pictures newest first; all conditions hold at once.

        Args:
            owner: whose; None: everybody's, for the machine's own user.
            before: `more` of the page before; None: the first page.
            words: all of them begin a word of the prompt, in any order and case.
            model: the checkpoint's name, or a part of it.
            since, until: seconds since 1970; `until` itself is not within.
            binned: those in the bin instead of those that are there.

        Raises:
            RequestError: the cursor is none, or the limit is out of bounds.
        """
        if not 1 <= limit <= LONGEST_PAGE:
            raise RequestError(f"a page has 1 to {LONGEST_PAGE} pictures, not {limit}", "limit")
        where, values = ["deleted IS NOT NULL" if binned else "deleted IS NULL"], list[Any]()
        for text, value in (
            ("owner = ?", owner),
            ("made >= ?", since),
            ("made < ?", until),
        ):
            if value is not None:
                where.append(text)
                values.append(value)
        if before is not None:
            where.append("(made, id) < (?, ?)")
            values += cursor(before)
        if starred:
            where.append("starred = 1")
        if model:
            where.append(r"checkpoint LIKE ? ESCAPE '\'")
            values.append(f"%{literal(model)}%")
        for text, value in self._conditions(words):
            where.append(text)
            values.append(value)
        found = self._read(
            f"{' AND '.join(where)} ORDER BY made DESC, id DESC LIMIT ?", (*values, limit + 1)
        )
        pictures = tuple(found[:limit])
        more = f"{pictures[-1].made!r}_{pictures[-1].id}" if len(found) > limit else None
        return Page(pictures, more)

    def picture(self, id: int, owner: str | None = None) -> Picture:
        """Raises RequestError where there is none of that number, or it is somebody else's."""
        if 0 < id < 2**63:  # SQLite's whole numbers
            found = self._read("id = ? AND (? IS NULL OR owner = ?)", (id, owner, owner))
            if found:
                return found[0]
        raise RequestError(f"there is no picture {str(id)[:40]} in the gallery", "picture")

    def models(self, owner: str | None = None) -> list[str]:
        """Names of the checkpoints that made what is there, in order."""
        with self._lock:
            rows = self._base.execute(
                "SELECT DISTINCT checkpoint FROM pictures WHERE deleted IS NULL AND checkpoint "
                "<> '' AND (? IS NULL OR owner = ?) ORDER BY checkpoint COLLATE NOCASE",
                (owner, owner),
            ).fetchall()
        return [name for (name,) in rows]

    def count(self, owner: str | None = None) -> int:
        """Pictures that are there."""
        with self._lock:
            row = self._base.execute(
                "SELECT COUNT(*) FROM pictures WHERE deleted IS NULL AND (? IS NULL OR owner = ?)",
                (owner, owner),
            ).fetchone()
        return int(row[0])

    def thumbnail(self, picture: Picture, edge: int = 256) -> bytes:
        """A WebP whose longer side is at most `edge` pixels; kept for the next time.

        Raises:
            FileError: the picture can't be read.
            RequestError: an edge out of bounds.
        """
        return self._thumbs.of(picture.file, edge)

    # Changing

    def star(self, ids: Iterable[int], starred: bool = True, owner: str | None = None) -> int:
        """How many were found and marked so."""
        with self._transaction():
            return sum(
                self._base.execute(
                    "UPDATE pictures SET starred = ? WHERE id = ? AND (? IS NULL OR owner = ?)",
                    (int(starred), id, owner, owner),
                ).rowcount
                for id in ids
                if 0 < id < 2**63
            )

    def starred_jobs(self) -> frozenset[str]:
        """The jobs whose pictures somebody starred: their recordings are to stay."""
        with self._lock:
            rows = self._base.execute(
                "SELECT DISTINCT job FROM pictures WHERE starred AND job <> ''"
            ).fetchall()
        return frozenset(job for (job,) in rows)

    def bin(self, ids: Iterable[int], owner: str | None = None) -> list[Picture]:
        """Moves pictures into the bin beside them; `restore` brings them back.

        Raises:
            RequestError: one is not there; those before it are in the bin.
            FileError: a file can't be moved; it stays where it is.
        """
        return [self._move(self.picture(id, owner), time.time()) for id in ids]

    def restore(self, ids: Iterable[int], owner: str | None = None) -> list[Picture]:
        """Out of the bin again; a name that was taken meanwhile gets a number. See `bin`."""
        return [self._move(self.picture(id, owner), None) for id in ids]

    def _move(self, picture: Picture, deleted: float | None) -> Picture:
        """The row follows the file: it changes once the file has moved."""
        if (picture.deleted is None) == (deleted is None):
            return picture
        moved = replace(picture, deleted=deleted)
        with self._transaction():
            try:
                moved.file.parent.mkdir(exist_ok=True)
                target = moved_file(picture.file, moved.file)
            except OSError as error:
                raise FileError(
                    f"{picture.path.name} can't be moved: {error.strerror or error}"
                ) from error
            if deleted is None:
                moved = replace(moved, path=target)
                with contextlib.suppress(OSError):
                    picture.file.parent.rmdir()  # the bin, if it was the last
            self._base.execute(
                "UPDATE pictures SET deleted = ?, path = ? WHERE id = ?",
                (deleted, str(moved.path), picture.id),
            )
        return moved

    def empty_bin(self, owner: str | None = None, before: float | None = None) -> int:
        """Deletes what is in the bin for good; how many files.

        Args:
            before: seconds since 1970; only what was deleted earlier.

        Raises:
            FileError: a file can't be deleted; it and those after it stay.
        """
        gone = self._read(
            "deleted IS NOT NULL AND (? IS NULL OR owner = ?) AND (? IS NULL OR deleted < ?)",
            (owner, owner, before, before),
        )
        for picture in gone:
            try:
                picture.file.unlink(missing_ok=True)
            except OSError as error:
                raise FileError(
                    f"{picture.path.name} can't be deleted: {error.strerror or error}"
                ) from error
            with contextlib.suppress(OSError):
                picture.file.parent.rmdir()
            with self._transaction():
                self._base.execute("DELETE FROM pictures WHERE id = ?", (picture.id,))
        return len(gone)

    # Following the files

    def scan(
        self,
        folder: Path,
        registry: Registry,
        *,
        owner: str = "local",
        stop: Callable[[], bool] = lambda: False,
    ) -> Scan:
        """Takes in every picture below `folder` that is new or has changed; drops what is gone.

        Reads what A1111, Forge, ComfyUI and ours wrote into their files. Hidden files, folders
        and symbolic links are left out.

        Args:
            owner: whose the new ones are.
            stop: asked between files; what was done until then stays.
        """
        folder = folder.resolve()
        known = self._known(folder)
        done = Scan()
        batch: list[tuple[Picture, os.stat_result]] = []
        seen: set[str] = set()
        for path, stat in files(folder):
            if stop():
                return self._taken_in(batch, known, done)
            seen.add(str(path))
            if known.get(str(path)) == (stat.st_mtime_ns, stat.st_size):
                continue
            try:
                batch.append((described(path, stat, registry, owner), stat))
            except FileError:
                done = replace(done, unreadable=done.unreadable + 1)
            if len(batch) >= BATCH:
                done = self._taken_in(batch, known, done)
                batch = []
        done = self._taken_in(batch, known, done)
        return replace(done, dropped=self._drop(path for path in known if path not in seen))

    def scan_in_background(
        self,
        folder: Path,
        registry: Registry,
        *,
        owner: str = "local",
        stop: Callable[[], bool] = lambda: False,
    ) -> threading.Thread:
        """`scan` on a thread of its own, already started."""
        thread = threading.Thread(
            target=self.scan,
            args=(folder, registry),
            kwargs={"owner": owner, "stop": stop},
            name="gallery",
            daemon=True,
        )
        thread.start()
        return thread

    def _known(self, folder: Path) -> dict[str, tuple[int, int]]:
        """Path -> (time of change, size) of what is there below a folder."""
        start = f"{folder}{os.sep}"
        with self._lock:
            rows = self._base.execute(
                "SELECT path, changed, size FROM pictures WHERE deleted IS NULL "
                "AND substr(path, 1, ?) = ?",
                (len(start), start),
            ).fetchall()
        return {path: (changed, size) for path, changed, size in rows}

    def _taken_in(
        self,
        batch: list[tuple[Picture, os.stat_result]],
        known: dict[str, tuple[int, int]],
        done: Scan,
    ) -> Scan:
        with self._transaction():
            for picture, stat in batch:
                if str(picture.path) in known:
                    self._insert(picture, stat, REFRESH)
                    done = replace(done, changed=done.changed + 1)
                else:
                    added = self._insert(picture, stat, KEEP)
                    done = replace(done, added=done.added + added)
        return done

    def _drop(self, paths: Iterable[str]) -> int:
        """Rows whose files are gone; what a crash left in the bin is marked as deleted."""
        dropped = 0
        for path in paths:
            if Path(path).exists():  # saved since it was looked for
                continue
            for picture in self._read("path = ? AND deleted IS NULL", (path,)):
                binned = replace(picture, deleted=time.time())
                with self._transaction():
                    if binned.file.exists():
                        self._base.execute(
                            "UPDATE pictures SET deleted = ? WHERE id = ?",
                            (binned.deleted, picture.id),
                        )
                        continue
                    self._base.execute("DELETE FROM pictures WHERE id = ?", (picture.id,))
                    dropped += 1
        return dropped

    # The tables

    def _conditions(self, words: str) -> Iterator[tuple[str, str]]:
        """SQL and value for each word that is asked for."""
        for word in stored(words).split()[:32]:
            # FTS5 cuts at spaces and signs; scripts without spaces are looked for letter by letter.
            if self._has_words and word.isalnum() and max(word) < "\u2e80":
                yield "id IN (SELECT rowid FROM words WHERE words MATCH ?)", f'"{word}"*'
            else:
                yield r"prompt LIKE ? ESCAPE '\'", f"%{literal(word)}%"

    def _read(self, where: str, values: tuple[Any, ...] = ()) -> list[Picture]:
        with self._lock:
            rows = self._base.execute(
                f"SELECT {COLUMNS} FROM pictures WHERE {where}", values
            ).fetchall()
        return [as_picture(row) for row in rows]

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._lock:
            self._base.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._base.execute("ROLLBACK")
                raise
            self._base.execute("COMMIT")
