"""mysqlclient (libmariadb) as applications use it: its C API, text and errors, changing users, batches,
and a transaction that goes on while a server dies."""
import datetime
import decimal
import os
import sys

import MySQLdb
from MySQLdb.constants import CLIENT
from MySQLdb.cursors import DictCursor, SSCursor

PORT = int(os.environ["MYSQL_PORT"])


def connect(**more):
    return MySQLdb.connect(
        host="127.0.0.1", port=PORT, user="app", password=os.environ["MYSQL_PWD"], database="app", charset="utf8mb4",
        # Bytes are written as bytes: what is no text is refused elsewhere.
        binary_prefix=True, **more)


def refused(number, act):
    try:
        act()
    except MySQLdb.MySQLError as error:
        assert error.args[0] == number, error
    else:
        raise AssertionError(f"error {number} was expected")


db = connect()
cursor = db.cursor()
cursor.execute(
    "create table mc (id int auto_increment primary key, name varchar(40) unique, n int, d decimal(10,2), f double, "
    "at datetime(6), day date, t time, b blob, flag bit(1), j json)")
at = datetime.datetime(2024, 2, 29, 23, 59, 59, 123456)
row = ("it's \\ \"q\" ü 🐬", -7, decimal.Decimal("1.50"), 0.1, at, at.date(), datetime.timedelta(hours=30), b"\x00\xff'\\")
insert = "insert into mc (name, n, d, f, at, day, t, b) values (%s, %s, %s, %s, %s, %s, %s, %s)"
cursor.execute(insert, row)
assert cursor.lastrowid == 1 and cursor.rowcount == 1 and db.insert_id() == 1
cursor.execute("select name, n, d, f, at, day, t, b, flag from mc")
assert cursor.fetchone() == row + (None,), cursor.fetchone()
assert cursor.executemany("insert into mc (name, n) values (%s, %s)", [(f"n{i}", i) for i in range(100)]) == 100
db.rollback()
cursor.execute("select count(*) from mc")
assert cursor.fetchone() == (0,)
cursor.execute("insert into mc (name, n) values ('a', 1), ('b', 2)")
assert db.info() == b"Records: 2  Duplicates: 0  Warnings: 0" or db.info() == "Records: 2  Duplicates: 0  Warnings: 0", db.info()
refused(1062, lambda: cursor.execute("insert into mc (name) values ('a')"))
db.commit()
refused(1146, lambda: cursor.execute("select * from nowhere"))
refused(1064, lambda: cursor.execute("nonsense"))
assert cursor.execute("update mc set n = n") == 0
db.commit()
with connect(client_flag=CLIENT.FOUND_ROWS) as found:
    assert found.cursor().execute("update mc set n = n") == 2
    found.commit()

# Quotes are written as the session reads them.
cursor.execute("set sql_mode = 'NO_BACKSLASH_ESCAPES'")
assert db.string_literal("a'\\b") in (b"'a''\\b'", "'a''\\b'"), db.string_literal("a'\\b")
db.commit()
assert db.string_literal("a'\\b") in (b"'a''\\b'", "'a''\\b'"), "after an answer of the proxy's own"
cursor.execute("set sql_mode = default")

with connect(client_flag=CLIENT.MULTI_STATEMENTS, cursorclass=DictCursor) as other:
    with other.cursor() as c:
        c.execute("select 1 as x; update mc set n = 5 where name = 'a'; select n from mc where name = 'a'")
        assert c.fetchall() == ({"x": 1},)
        assert c.nextset() == 1 and c.rowcount == 1
        assert c.nextset() == 1 and c.fetchall() == ({"n": 5},)
        assert c.nextset() is None
    other.commit()

streaming = connect(cursorclass=SSCursor)
c = streaming.cursor()
c.execute("select n from mc order by id")
assert [n for (n,) in c] == [5, 2]
c.close()
streaming.close()

cursor.execute("create procedure mp(in a int, out b int) begin set b = a + 1; select a; select b; end")
cursor.callproc("mp", (41, 0))
assert cursor.fetchall() == ((41,),) and cursor.nextset() == 1 and cursor.fetchall() == ((42,),)
while cursor.nextset():
    pass

cursor.execute("set @mine = 1")
db.change_user("guest", "welcome", "app")
cursor = db.cursor()
cursor.execute("select user(), @mine")
assert cursor.fetchone() == ("guest@localhost", None)
refused(1142, lambda: cursor.execute("delete from mc"))
refused(1045, lambda: db.change_user("app", "wrong", "app"))
db.change_user("app", os.environ["MYSQL_PWD"], "app")
db.ping()
db.select_db("app")
assert "Uptime" in str(db.stat())
killer = connect()
killer.kill(db.thread_id())
try:
    db.cursor().execute("select 1")
    raise AssertionError("a killed connection answers")
except MySQLdb.OperationalError as error:
    assert error.args[0] in (1927, 2006, 2013), error
db = killer

# A server dies in the middle: the transaction goes on, or says that it has to be run again.
cursor = db.cursor()
cursor.execute("set session transaction isolation level read committed")
cursor.execute("insert into mc (name, n) values ('before', 10)")
print("kill", flush=True)
sys.stdin.readline()
cursor.execute("update mc set n = n + 1 where name = 'before'")
db.commit()
cursor.execute("select n from mc where name = 'before'")
assert cursor.fetchone() == (11,)
db.rollback()
cursor.execute("drop procedure mp")
cursor.execute("drop table mc")
print("done")
