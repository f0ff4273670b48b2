"""psycopg 3 through lockstep: what its users do, in both of its ways to send a query."""
import os
import threading

import psycopg
from psycopg import errors
from psycopg.rows import dict_row
from psycopg.types.json import Jsonb

URL = os.environ["DATABASE_URL"]


def expect(error, act):
    try:
        act()
    except error as e:
        return e
    raise AssertionError(f"{error.__name__} was due")


def basics(conn):
    cur = conn.cursor()
    cur.execute("create table psy_t(id serial primary key, v text, at timestamptz default now(), r float8 default random(),"
                " j jsonb, tags text[], amount numeric(10,2))")
    cur.execute("insert into psy_t(v, j, tags, amount) values (%s, %s, %s, %s) returning id, at, r",
                ("ä'\"\\", Jsonb({"a": [1, None]}), ["x", None, "y,z"], "12.50"))
    told = cur.fetchone()
    cur.execute("select id, at, r from psy_t")
    assert cur.fetchone() == told
    conn.commit()
    cur.executemany("insert into psy_t(v, amount) values (%s, %s)", [(f"many {i}", i) for i in range(200)])
    assert cur.rowcount == 200
    cur.executemany("insert into psy_t(v) values (%s) returning id", [("a",), ("b",)], returning=True)
    assert cur.fetchone()[0] and cur.nextset() and cur.fetchone()[0]
    conn.commit()
    with conn.cursor(row_factory=dict_row) as rows:
        rows.execute("select v, amount from psy_t where amount > %(least)s order by id", {"least": 197})
        assert [r["v"] for r in rows] == ["many 198", "many 199"]
    with conn.cursor(binary=True) as binary:
        binary.execute("select id, r, at, j, tags, amount from psy_t order by id limit 1")
        row = binary.fetchone()
        assert row[3] == {"a": [1, None]} and row[4] == ["x", None, "y,z"]
    conn.commit()


def prepared(conn):
    # After five runs psycopg prepares by itself; DDL in between must not confuse it.
    for i in range(20):
        conn.execute("insert into psy_t(v) values (%s)", (f"auto {i}",))
        if i == 10:
            conn.commit()
            conn.execute("alter table psy_t add column extra float8 default random()")
            conn.commit()
    conn.commit()
    for i in range(10):
        assert conn.execute("select count(*) from psy_t where v like %s", ("auto %",)).fetchone()[0] == 20
    conn.execute("update psy_t set r = random() where v like %s", ("auto %",), prepare=True)
    conn.commit()


def transactions(conn):
    with conn.transaction():
        conn.execute("insert into psy_t(v) values ('outer')")
        expect(errors.UniqueViolation, lambda: inner_failure(conn))
        conn.execute("insert into psy_t(v) values ('outer again')")
    assert conn.execute("select count(*) from psy_t where v like 'outer%'").fetchone()[0] == 2
    assert conn.execute("select count(*) from psy_t where v = 'inner'").fetchone()[0] == 0
    conn.commit()
    expect(errors.UndefinedTable, lambda: conn.execute("select * from psy_missing"))
    expect(errors.InFailedSqlTransaction, lambda: conn.execute("select 1"))
    conn.rollback()
    e = expect(errors.DivisionByZero, lambda: conn.execute("select 1/0"))
    assert e.sqlstate == "22012"
    conn.rollback()


def inner_failure(conn):
    with conn.transaction():
        conn.execute("insert into psy_t(v) values ('inner')")
        conn.execute("insert into psy_t(id) values (1)")


def pipelines(conn):
    with conn.pipeline():
        for i in range(100):
            conn.execute("insert into psy_t(v) values (%s)", (f"pipe {i}",))
        counted = conn.execute("select count(*) from psy_t where v like 'pipe%'")
    assert counted.fetchone()[0] == 100
    conn.commit()
    def broken():
        with conn.pipeline() as p:
            conn.execute("insert into psy_t(v) values ('lost')")
            conn.execute("insert into psy_t(id) values (1)")
            p.sync()
    expect(errors.UniqueViolation, broken)
    conn.rollback()
    assert conn.execute("select count(*) from psy_t where v = 'lost'").fetchone()[0] == 0
    conn.commit()


def copies(conn):
    cur = conn.cursor()
    with cur.copy("copy psy_t(v, amount) from stdin") as copy:
        for i in range(500):
            copy.write_row((f"copy {i}\t\n", i))
    conn.commit()
    with cur.copy("copy psy_t(v, tags) from stdin (format binary)") as copy:
        copy.set_types(["text", "text[]"])
        copy.write_row(("binary", ["a", "b"]))
    conn.commit()
    with cur.copy("copy (select v from psy_t where v like 'copy %' order by id) to stdout") as copy:
        assert len(list(copy.rows())) == 500
    def given_up():
        with cur.copy("copy psy_t(v) from stdin") as copy:
            copy.write_row(("never",))
            raise KeyError("given up")
    expect(KeyError, given_up)
    conn.rollback()
    assert conn.execute("select count(*) from psy_t where v = 'never'").fetchone()[0] == 0
    conn.commit()


def cursors(conn):
    with conn.cursor(name="server_side") as cur:
        cur.itersize = 50
        cur.execute("select id from psy_t order by id")
        ids = [r[0] for r in cur]
        assert ids == sorted(ids) and len(ids) > 500
    conn.commit()
    with conn.cursor(name="holding", withhold=True, scrollable=True) as cur:
        cur.execute("select id from psy_t order by id")
        conn.commit()
        first = cur.fetchmany(3)
        cur.scroll(0, mode="absolute")
        assert cur.fetchmany(3) == first


def cancels(conn):
    timer = threading.Timer(0.4, conn.cancel)
    timer.start()
    expect(errors.QueryCanceled, lambda: conn.execute("select pg_sleep(20)"))
    timer.join()
    conn.rollback()
    assert conn.execute("select 1").fetchone() == (1,)
    conn.commit()


def notifications():
    with psycopg.connect(URL, autocommit=True) as listener, psycopg.connect(URL, autocommit=True) as sender:
        listener.execute("listen psy")
        sender.execute("select pg_notify('psy', 'hello')")
        got = [n.payload for n in listener.notifies(timeout=5, stop_after=1)]
        assert got == ["hello"], got
        assert list(listener.notifies(timeout=0.3)) == []


def autocommit():
    with psycopg.connect(URL, autocommit=True) as conn:
        conn.execute("insert into psy_t(v) values ('auto')")
        conn.execute("vacuum psy_t")
        conn.isolation_level = psycopg.IsolationLevel.SERIALIZABLE
        with conn.transaction():
            conn.execute("update psy_t set v = 'serial' where v = 'auto'")
        conn.read_only = True
        expect(errors.ReadOnlySqlTransaction, lambda: read_only(conn))


def read_only(conn):
    with conn.transaction():
        conn.execute("insert into psy_t(v) values ('no')")


with psycopg.connect(URL) as connection:
    for part in (basics, prepared, transactions, pipelines, copies, cursors, cancels):
        print(part.__name__, flush=True)
        part(connection)
notifications()
autocommit()
print("done")
