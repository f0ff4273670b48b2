"""asyncpg through lockstep: binary everywhere, statement caches, pools that reset."""
import asyncio
import datetime
import decimal
import os
import uuid

import asyncpg

URL = os.environ["DATABASE_URL"]


async def expect(error, awaitable):
    try:
        await awaitable
    except error as e:
        return e
    raise AssertionError(f"{error.__name__} was due")


async def basics(conn):
    await conn.execute("""create table asy_t(id bigserial primary key, v text, u uuid default gen_random_uuid(), at timestamptz default clock_timestamp(),
                       n numeric, j jsonb, a int[], i interval, r float8 default random())""")
    u, at = uuid.uuid4(), datetime.datetime(2024, 2, 29, 12, 0, 0, 123456, datetime.timezone.utc)
    row = await conn.fetchrow("insert into asy_t(v, u, at, n, j, a, i) values ($1, $2, $3, $4, $5, $6, $7) returning *",
                              "é", u, at, decimal.Decimal("1.10"), '{"k": 1}', [1, None, 3], datetime.timedelta(days=2, seconds=5))
    assert row["u"] == u and row["at"] == at and row["a"] == [1, None, 3] and row["n"] == decimal.Decimal("1.10")
    assert await conn.fetchrow("select * from asy_t where id = $1", row["id"]) == row
    await conn.executemany("insert into asy_t(v) values ($1)", [(f"many {i}",) for i in range(300)])
    assert await conn.fetchval("select count(*) from asy_t") == 301
    e = await expect(asyncpg.UniqueViolationError, conn.executemany("insert into asy_t(id, v) values ($1, $2)", [(5000, "x"), (5000, "y")]))
    assert e.sqlstate == "23505"
    assert await conn.fetchval("select count(*) from asy_t where id = 5000") == 0
    assert await conn.execute("update asy_t set r = random() where v like 'many 1%'") == "UPDATE 111"
    assert await conn.execute("insert into asy_t(v) values ('one'); insert into asy_t(v) values ('two')") == "INSERT 0 1"


async def statements(conn):
    stmt = await conn.prepare("select v from asy_t where id = $1")
    assert stmt.get_parameters()[0].name == "int8" and stmt.get_attributes()[0].name == "v"
    assert await stmt.fetchval(1) == "é"
    insert = await conn.prepare("insert into asy_t(v) values ($1) returning id, r")
    ids = {(await insert.fetchrow(str(i)))["id"] for i in range(30)}
    assert len(ids) == 30
    # Cached statements and changed tables: asyncpg takes the error and prepares again.
    assert await conn.fetchrow("select * from asy_t where id = 1")
    await conn.execute("alter table asy_t add column extra int default 7")
    row = await conn.fetchrow("select * from asy_t where id = 1")
    assert row["extra"] == 7


async def transactions(conn):
    async with conn.transaction():
        await conn.execute("insert into asy_t(v) values ('outer')")
        try:
            async with conn.transaction():
                await conn.execute("insert into asy_t(v) values ('inner')")
                raise KeyError
        except KeyError:
            pass
        async for row in conn.cursor("select id from asy_t order by id", prefetch=20):
            assert row["id"]
    assert await conn.fetchval("select count(*) from asy_t where v in ('outer', 'inner')") == 1
    async with conn.transaction(isolation="repeatable_read", readonly=True):
        await conn.fetch("select * from asy_t")
        await expect(asyncpg.ReadOnlySQLTransactionError, conn.execute("delete from asy_t"))


async def copies(conn):
    records = [(f"copy {i}", decimal.Decimal(i)) for i in range(1000)]
    assert await conn.copy_records_to_table("asy_t", records=records, columns=["v", "n"]) == "COPY 1000"
    out = bytearray()
    async def collect(data):
        out.extend(data)
    assert await conn.copy_from_query("select v from asy_t where v like 'copy %'", output=collect) == "COPY 1000"
    assert out.count(b"\n") == 1000


async def pools():
    async with asyncpg.create_pool(URL, min_size=4, max_size=12) as pool:
        async def one(i):
            async with pool.acquire() as conn:
                await conn.execute(f"set application_name to 'worker {i}'")
                await conn.execute("create temp table asy_temp(v int) on commit drop" if i % 3 else "select 1")
                async with conn.transaction():
                    await conn.execute("insert into asy_t(v, n) values ('pool', $1)", decimal.Decimal(i))
                    await conn.execute("update asy_t set n = n + 0.5, at = clock_timestamp() where v = 'pool' and n = $1", decimal.Decimal(i))
                return await conn.fetchval("select count(*) from asy_t where v = 'pool' and n = $1", decimal.Decimal(i) + decimal.Decimal("0.5"))
        assert set(await asyncio.gather(*[one(i) for i in range(80)])) == {1}
        async with pool.acquire() as conn:
            assert not (await conn.fetchval("show application_name")).startswith("worker"), "the pool's reset did not reset"
        assert await pool.fetchval("select count(*) from asy_t where v = 'pool'") == 80


async def timeouts(conn):
    await expect(asyncio.TimeoutError, conn.fetch("select pg_sleep(20)", timeout=0.3))
    assert await conn.fetchval("select 1") == 1
    got = asyncio.Queue()
    await conn.add_listener("asy", lambda c, pid, channel, payload: got.put_nowait(payload))
    other = await asyncpg.connect(URL)
    await other.execute("notify asy, 'x'")
    assert await asyncio.wait_for(got.get(), 5) == "x"
    await conn.reset()
    await other.close()


async def main():
    conn = await asyncpg.connect(URL)
    for part in (basics, statements, transactions, copies, timeouts):
        print(part.__name__, flush=True)
        await part(conn)
    await conn.close()
    await pools()
    print("done")


asyncio.run(main())
