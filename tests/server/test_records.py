"""Records: what is put can be got, by its owner alone, in order, until it expires or is deleted.

With OVERT_TEST_POSTGRES (the URL of an empty database, which is emptied again) on PostgreSQL too.
"""

import asyncio
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
import sqlalchemy
from hypothesis import given, settings
from hypothesis import strategies as st

from overt.errors import Failure, NotFound, OvertError, Refused, UsageError
from overt.server.records import RecordStore


@dataclass(frozen=True)
class Who:
    key: str = ""


ANNE, BEN = Who("anne"), Who("ben")


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def clock() -> Clock:
    return Clock()


POSTGRES = os.environ.get("OVERT_TEST_POSTGRES")


@pytest.fixture(params=["sqlite", *(["postgresql"] if POSTGRES else [])])
async def records(
    request: pytest.FixtureRequest, tmp_path: Path, clock: Clock
) -> AsyncIterator[RecordStore]:
    if request.param == "postgresql":
        assert POSTGRES is not None
        engine = sqlalchemy.create_engine(POSTGRES)
        with engine.begin() as connection:
            connection.exec_driver_sql("drop table if exists records, schema")
        engine.dispose()
        opened = RecordStore(POSTGRES, clock)
    else:
        opened = RecordStore(tmp_path / "deep/er/records.db", clock)
    yield opened
    await opened.close()


pytestmark = pytest.mark.anyio


async def _ids(records: RecordStore, kind: str = "k", owner: Who = ANNE, **options: object) -> str:
    return b"".join(await records.list(kind, owner, **options)).decode()  # type: ignore[arg-type]


async def test_put_get_replace_delete(records: RecordStore) -> None:
    assert await records.get("response", "a", ANNE) is None
    await records.put("response", "a", ANNE, b"\x00one\xff")
    assert await records.get("response", "a", ANNE) == b"\x00one\xff"
    await records.put("response", "a", ANNE, b"")
    assert await records.get("response", "a", ANNE) == b""
    assert await records.get("file", "a", ANNE) is None  # a kind is a world of its own
    assert await records.delete("response", "a", ANNE) is True
    assert await records.delete("response", "a", ANNE) is False
    assert await records.get("response", "a", ANNE) is None


async def test_nobody_sees_touches_or_takes_what_is_anothers(records: RecordStore) -> None:
    await records.put("response", "a", ANNE, b"secret")
    assert await records.get("response", "a", BEN) is None
    assert await records.get("response", "a", Who()) is None
    assert list(await records.list("response", BEN)) == []
    assert await records.delete("response", "a", BEN) is False
    with pytest.raises(Refused):
        await records.put("response", "a", BEN, b"mine now")
    with pytest.raises(NotFound):
        await records.list("response", BEN, after="a")
    assert await records.get("response", "a", ANNE) == b"secret"


async def test_an_id_may_be_asked_for_that_no_database_could_hold(records: RecordStore) -> None:
    assert await records.get("k", "a\0b", ANNE) is None
    assert await records.delete("k", "a\0b", ANNE) is False
    with pytest.raises(NotFound):
        await records.list("k", ANNE, after="a\0b")


async def test_lists_are_in_the_order_of_the_first_put(records: RecordStore) -> None:
    for name in "abcdef":
        await records.put("k", name, ANNE, name.encode())
        await records.put("k", name + "'", BEN, b"-")
    await records.put("k", "b", ANNE, b"B")  # changed, and not moved
    assert await _ids(records) == "fedcBa"
    assert await _ids(records, newest_first=False) == "aBcdef"
    assert await _ids(records, limit=2) == "fe"
    assert await _ids(records, limit=0) == ""
    assert await _ids(records, after="e", limit=2) == "dc"
    assert await _ids(records, after="a") == ""
    assert await _ids(records, before="c", limit=2) == "ed"  # the nearest, not the first
    assert await _ids(records, before="c", newest_first=False) == "aB"
    assert await _ids(records, after="b", before="e", newest_first=False) == "cd"
    with pytest.raises(NotFound, match="'z'"):
        await records.list("k", ANNE, after="z")


async def test_a_deleted_place_is_not_used_again(records: RecordStore) -> None:
    for name in "ab":
        await records.put("k", name, ANNE, name.encode())
    await records.delete("k", "b", ANNE)
    await records.put("k", "c", ANNE, b"c")
    await records.put("k", "b", ANNE, b"b")
    assert await _ids(records, newest_first=False) == "acb"


async def test_expired_records_are_unseen_at_once_and_purged_later(
    records: RecordStore, clock: Clock
) -> None:
    await records.put("k", "a", ANNE, b"a", expires=1010)
    await records.put("k", "b", ANNE, b"b")
    clock.now = 1009.9
    assert await _ids(records) == "ba"
    clock.now = 1010
    assert await records.get("k", "a", ANNE) is None
    assert await _ids(records) == "b"
    assert await records.delete("k", "a", ANNE) is False
    assert await _rows(records) == ["a", "b"]
    clock.now = 1100
    await records.put("k", "c", ANNE, b"c")
    assert await _rows(records) == ["b", "c"]


async def _rows(records: RecordStore) -> list[str]:
    """The ids that the table holds, expired or not."""

    def work(connection: sqlalchemy.Connection) -> list[str]:
        query = sqlalchemy.text("select id from records order by seq")
        return list(connection.execute(query).scalars())

    return await records._run(work)


async def test_an_expired_id_can_be_taken_again(records: RecordStore, clock: Clock) -> None:
    await records.put("k", "a", ANNE, b"a", expires=1010)
    clock.now = 1200
    await records.put("k", "a", BEN, b"b")
    assert await records.get("k", "a", BEN) == b"b"


async def test_calls_take_effect_in_the_order_made(records: RecordStore) -> None:
    puts = [records.put("k", "a", ANNE, str(n).encode()) for n in range(50)]
    await asyncio.gather(*puts)
    assert await records.get("k", "a", ANNE) == b"49"


async def test_what_was_kept_is_there_after_a_restart(tmp_path: Path) -> None:
    for round in range(3):
        records = RecordStore(tmp_path / "records.db")
        await records.put("k", str(round), ANNE, str(round).encode())
        assert await _ids(records, newest_first=False) == "012"[: round + 1]
        await records.close()
    assert (tmp_path / "records.db").stat().st_mode & 0o077 == 0


async def test_closed_records_say_so(tmp_path: Path) -> None:
    records = RecordStore(tmp_path / "records.db")
    await records.close()
    await records.close()
    with pytest.raises(Failure, match="closed"):
        await records.get("k", "a", ANNE)


async def test_a_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    (tmp_path / "records.db").write_bytes(b"not a database, and long enough to be read" * 100)
    with pytest.raises(Failure, match="not a database"):
        RecordStore(tmp_path / "records.db")


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    await RecordStore(tmp_path / "records.db").close()
    with sqlite3.connect(tmp_path / "records.db") as database:
        database.execute("update schema set version = 99")
    database.close()
    with pytest.raises(Failure, match=r"99.*update Overt"):
        RecordStore(tmp_path / "records.db")


@pytest.mark.parametrize("url", ["nonsense", "nonsense://here/there", ""])
async def test_a_url_that_is_none_is_a_usage_error(url: str) -> None:
    with pytest.raises(UsageError):
        RecordStore(url)


async def test_another_database_is_a_usage_error(monkeypatch: pytest.MonkeyPatch) -> None:
    made = sqlalchemy.create_mock_engine("mysql://", lambda *_: None)
    monkeypatch.setattr(sqlalchemy, "create_engine", lambda *_, **__: made)
    with pytest.raises(UsageError, match="the database is mysql"):
        RecordStore("mysql://here/there")


async def test_a_cancelled_caller_leaves_the_record_whole(records: RecordStore) -> None:
    task = asyncio.create_task(records.put("k", "a", ANNE, b"x" * 1_000_000))
    await asyncio.sleep(0)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert await records.get("k", "a", ANNE) in (None, b"x" * 1_000_000)


_WRITER = """
import asyncio, sys
from dataclasses import dataclass
from pathlib import Path
from overt.server.records import RecordStore

@dataclass(frozen=True)
class Who:
    key: str

async def main(path, who, count):
    records = RecordStore(Path(path))
    for n in range(count):
        await records.put("k", f"{who}{n}", Who(who), f"{n}".encode() * 1000)
        await records.put("state", who, Who(who), f"{n}".encode())
        print(n, flush=True)
    await records.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


def _writer(path: Path, who: str, count: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", _WRITER, str(path), who, str(count)], stdout=subprocess.PIPE
    )


async def test_several_processes_write_at_once_and_nothing_is_lost(tmp_path: Path) -> None:
    path = tmp_path / "records.db"
    writers = [_writer(path, who, 100) for who in ("anne", "ben", "cy")]
    for writer in writers:
        out, _ = writer.communicate(timeout=120)
        assert writer.returncode == 0
        assert len(out.split()) == 100
    records = RecordStore(path)
    for who in ("anne", "ben", "cy"):
        kept = await records.list("k", Who(who), limit=1000, newest_first=False)
        assert [body[: len(str(n))] for n, body in enumerate(kept)] == [
            str(n).encode() for n in range(100)
        ]
    await records.close()


@pytest.mark.parametrize("after", [1, 7, 40])
async def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path, after: int) -> None:
    path = tmp_path / "records.db"
    writer = _writer(path, "anne", 1_000_000)
    assert writer.stdout is not None
    last = -1
    while last < after:
        last = int(writer.stdout.readline())
    os.kill(writer.pid, signal.SIGKILL)
    rest = writer.stdout.read().split()
    writer.stdout.close()
    writer.wait()
    last = int(rest[-1]) if rest else last
    with sqlite3.connect(path) as database:
        assert database.execute("pragma integrity_check").fetchone() == ("ok",)
    database.close()
    records = RecordStore(path)
    kept = await records.list("k", ANNE, limit=10_000_000, newest_first=False)
    assert len(kept) in (last + 1, last + 2)  # one more may have been kept before it was told
    assert all(body == str(n).encode() * 1000 for n, body in enumerate(kept))
    state = int(await records.get("state", "anne", ANNE) or b"-1")
    assert state in (last, last + 1)
    await records.close()


_name = st.sampled_from(["a", "b", "c", "\N{SNOWMAN}", "' or 1=1 --"])
_step = st.one_of(
    st.tuples(st.just("put"), _name, st.sampled_from(["anne", "ben"]), st.binary(max_size=5)),
    st.tuples(st.just("delete"), _name, st.sampled_from(["anne", "ben"]), st.just(b"")),
)


@settings(max_examples=40)
@given(steps=st.lists(_step, max_size=30))
def test_it_behaves_as_a_dict_in_the_order_of_its_keys(steps: list[tuple[str, ...]]) -> None:
    """Against a plain dict: the model of the module's docstring."""
    asyncio.run(_compare(steps))


async def _compare(steps: list[tuple[str, ...]]) -> None:
    records = RecordStore("sqlite://")
    model: dict[str, tuple[str, bytes]] = {}
    for action, name, key, body in steps:
        mine = name not in model or model[name][0] == key
        if action == "put":
            try:
                await records.put("k", name, Who(key), body)  # type: ignore[arg-type]
            except OvertError:
                assert not mine
            else:
                assert mine
                model[name] = (key, body)  # type: ignore[assignment]
        else:
            assert await records.delete("k", name, Who(key)) is (name in model and mine)
            if mine:
                model.pop(name, None)
    for key in ("anne", "ben"):
        expected = [body for owner, body in model.values() if owner == key]
        assert list(await records.list("k", Who(key), newest_first=False)) == expected
    await records.close()
