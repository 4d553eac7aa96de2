"""What the server keeps between requests: one table, in SQLite or PostgreSQL.

A record is bytes under a kind and an id, and belongs to the key that wrote it. The protocols decide
what the bytes mean; nothing here looks into them. Every call is one transaction in the one thread
that owns the connection, so calls take effect in the order they were made, and a process that is
killed at any moment leaves each record as it was before or after a call, never between.

SQLite runs in write-ahead mode with ``synchronous=NORMAL``: a killed process loses nothing; a
machine that loses its power may lose the last moments, but never the file.
"""

import asyncio
import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

import sqlalchemy as sql
from sqlalchemy.exc import DBAPIError, SQLAlchemyError

from overt.errors import Busy, Failure, NotFound, OvertError, Refused, UsageError

T = TypeVar("T")

VERSION = 1
_PURGE_SECONDS = 60.0
_LOCK_SECONDS = 10.0

_tables = sql.MetaData()

_number = sql.BigInteger().with_variant(sql.Integer, "sqlite")

_records = sql.Table(
    "records",
    _tables,
    sql.Column("seq", _number, primary_key=True, autoincrement=True),
    sql.Column("kind", sql.String(64), nullable=False),
    sql.Column("id", sql.String(255), nullable=False),
    sql.Column("owner", sql.String(255), nullable=False),
    sql.Column("body", sql.LargeBinary, nullable=False),
    sql.Column("created", sql.Double, nullable=False),
    sql.Column("expires", sql.Double),
    sql.UniqueConstraint("kind", "id", name="records_id"),
    sql.Index("records_list", "kind", "owner", "seq"),
    sql.Index("records_expires", "expires"),
    sqlite_autoincrement=True,  # a number is never used twice, or a deleted record's place would be
)

_schema = sql.Table("schema", _tables, sql.Column("version", sql.Integer, nullable=False))


class Owner(Protocol):
    """Whoever a record belongs to; `key` tells owners apart, "" where the server has no keys."""

    @property
    def key(self) -> str: ...


class RecordStore:
    """The records of one server. Several processes may use the same database.

    Calls may be made from any task of one event loop. An id is unique within its kind; whoever does
    not own a record is told that it does not exist.
    """

    def __init__(self, where: Path | str, clock: Callable[[], float] = time.time) -> None:
        """Open, making the file or the tables where they are missing.

        Args:
            where: the path of an SQLite file, or a database URL as SQLAlchemy reads it
                (``postgresql+psycopg://host/name``).
            clock: Unix seconds.

        Raises:
            UsageError: a URL that SQLAlchemy cannot read, or whose driver is missing.
            Failure: the database cannot be opened, or a newer Overt made it.
        """
        self._clock = clock
        self._purged = 0.0
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="records")
        try:
            self._engine = self._thread.submit(_open, where).result()
        except BaseException:
            self._thread.shutdown()
            raise

    async def put(
        self, kind: str, id: str, owner: Owner, body: bytes, *, expires: float | None = None
    ) -> None:
        """Keep `body`, in place of what was kept under `kind` and `id`; its place in lists stays.

        Args:
            expires: Unix seconds after which the record is gone; None is never.

        Raises:
            Refused: the id is taken by another owner.
        """
        now = self._clock()

        def work(connection: sql.Connection) -> bool:
            if now - self._purged > _PURGE_SECONDS:
                self._purged = now
                connection.execute(sql.delete(_records).where(_records.c.expires <= now))
            values = {"kind": kind, "id": id, "owner": owner.key, "body": body}
            upsert = _upsert(
                connection.dialect.name, {**values, "created": now, "expires": expires}
            )
            # Not the count of rows, which not every driver tells.
            return connection.execute(upsert.returning(_records.c.seq)).first() is not None

        if not await self._run(work):
            raise Refused(f"the {kind} {id!r} belongs to another key", "choose another id")

    async def get(self, kind: str, id: str, owner: Owner) -> bytes | None:
        """What is kept, or None where there is none, or none of this owner's."""
        if "\0" in id:  # a character that PostgreSQL has no text with
            return None
        query = sql.select(_records.c.body).where(*self._seen(kind, owner), _records.c.id == id)

        def work(connection: sql.Connection) -> bytes | None:
            return connection.execute(query).scalar()

        return await self._run(work)

    async def delete(self, kind: str, id: str, owner: Owner) -> bool:
        """Whether there was such a record of this owner's; now there is none."""
        if "\0" in id:
            return False
        command = sql.delete(_records).where(*self._seen(kind, owner), _records.c.id == id)

        def work(connection: sql.Connection) -> bool:
            return connection.execute(command).rowcount > 0

        return await self._run(work)

    async def list(
        self,
        kind: str,
        owner: Owner,
        *,
        limit: int = 100,
        after: str | None = None,
        before: str | None = None,
        newest_first: bool = True,
    ) -> Sequence[bytes]:
        """Up to `limit` records of this owner's, in the order they were first put.

        `after` and `before` are ids: only what follows the one and precedes the other in the order
        asked for; with `before` alone, the nearest `limit` records ahead of it.

        Raises:
            NotFound: `after` or `before` names no record of this owner's.
        """

        def work(connection: sql.Connection) -> Sequence[bytes]:
            def place(id: str) -> int:
                at = sql.select(_records.c.seq).where(*self._seen(kind, owner), _records.c.id == id)
                rowid = connection.execute(at).scalar()
                if rowid is None:
                    raise NotFound(f"there is no {kind} {id!r} to list from")
                return int(rowid)

            seq = _records.c.seq
            query = sql.select(_records.c.body).where(*self._seen(kind, owner))
            if after is not None:
                query = query.where(seq < place(after) if newest_first else seq > place(after))
            if before is not None:
                query = query.where(seq > place(before) if newest_first else seq < place(before))
            backwards = before is not None and after is None
            down = newest_first != backwards
            query = query.order_by(seq.desc() if down else seq.asc()).limit(max(limit, 0))
            rows = list(connection.execute(query).scalars())
            return rows[::-1] if backwards else rows

        return await self._run(work)

    async def close(self) -> None:
        """Close the database after the calls already made. Later calls fail."""
        with contextlib.suppress(RuntimeError):  # closed before
            await asyncio.wrap_future(self._thread.submit(self._engine.dispose))
        self._thread.shutdown()

    def _seen(self, kind: str, owner: Owner) -> tuple[sql.ColumnElement[bool], ...]:
        """What `owner` may see of a kind now."""
        columns = _records.c
        return (
            columns.kind == kind,
            columns.owner == owner.key,
            sql.or_(columns.expires.is_(None), columns.expires > self._clock()),
        )

    async def _run(self, work: Callable[[sql.Connection], T]) -> T:
        def transaction() -> T:
            try:
                with self._engine.begin() as connection:
                    return work(connection)
            except SQLAlchemyError as error:
                raise _explained(error) from None

        try:
            future = self._thread.submit(transaction)
        except RuntimeError:
            raise Failure("the records are closed", "the server is ending") from None
        # A task that is cancelled while it waits leaves the transaction to end by itself.
        return await asyncio.wrap_future(future)


def _open(where: Path | str) -> sql.Engine:
    try:
        if isinstance(where, Path):
            where.parent.mkdir(parents=True, exist_ok=True)
            where.touch(mode=0o600)  # what people asked and were told is nobody else's to read
            url: sql.URL = sql.URL.create("sqlite", database=str(where))
        else:
            url = sql.make_url(where)
        # One thread uses it, so one connection is enough, and is kept.
        engine = sql.create_engine(url, poolclass=sql.pool.StaticPool, connect_args=_options(url))
    except (SQLAlchemyError, ImportError) as error:
        raise UsageError(f"the database cannot be used: {error}", "write its URL anew") from None
    except OSError as error:
        raise Failure(f"the records cannot be opened: {error}") from None
    if engine.dialect.name not in ("sqlite", "postgresql"):
        raise UsageError(
            f"the database is {engine.dialect.name}", "give a URL of SQLite or PostgreSQL"
        )
    if engine.dialect.name == "sqlite":
        sql.event.listen(engine, "connect", _configure)
        sql.event.listen(engine, "begin", _begin)
    try:
        _prepare(engine)
    except SQLAlchemyError as error:
        engine.dispose()
        raise _explained(error) from None
    except BaseException:
        engine.dispose()
        raise
    return engine


def _options(url: sql.URL) -> dict[str, Any]:
    if url.get_backend_name() != "sqlite":
        return {}
    return {"timeout": _LOCK_SECONDS, "isolation_level": None}


def _configure(connection: Any, _record: Any) -> None:
    cursor = connection.cursor()
    for pragma in ("journal_mode=WAL", "synchronous=NORMAL", "wal_autocheckpoint=1000"):
        cursor.execute(f"PRAGMA {pragma}")
    cursor.close()


def _begin(connection: sql.Connection) -> None:
    # Taking the write lock at once: a transaction that reads first and then writes would fail
    # without waiting where another process wrote in between.
    connection.exec_driver_sql("BEGIN IMMEDIATE")


def _prepare(engine: sql.Engine) -> None:
    """Make what is missing.

    Raises:
        Failure: the schema is newer than this Overt.
    """
    with engine.begin() as connection:
        _tables.create_all(connection)
        version = connection.execute(sql.select(_schema.c.version)).scalar()
        if version is None:
            connection.execute(sql.insert(_schema).values(version=VERSION))
        elif version > VERSION:
            raise Failure(
                f"the records are of version {version} and this Overt knows {VERSION}",
                "update Overt, or give it another home",
            )


def _upsert(dialect: str, values: dict[str, Any]) -> sql.Insert:
    if dialect == "postgresql":
        from sqlalchemy.dialects.postgresql import insert as insert_postgresql

        made: Any = insert_postgresql(_records).values(values)
    else:
        from sqlalchemy.dialects.sqlite import insert as insert_sqlite

        made = insert_sqlite(_records).values(values)
    upsert: sql.Insert = made.on_conflict_do_update(
        index_elements=["kind", "id"],
        set_={"body": made.excluded.body, "expires": made.excluded.expires},
        where=_records.c.owner == made.excluded.owner,
    )
    return upsert


def _explained(error: SQLAlchemyError) -> OvertError:
    cause = getattr(error, "orig", None) or error
    if isinstance(error, DBAPIError) and "locked" in str(cause):
        return Busy(
            f"the records were locked by another process for {_LOCK_SECONDS:.0f} s", "try again"
        )
    return Failure(f"the records failed: {cause}")
