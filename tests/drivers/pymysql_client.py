"""PyMySQL as applications use it: autocommit off by default, errors by number, placeholders."""
import os

import pymysql
from pymysql.constants import CLIENT
from pymysql.cursors import DictCursor, SSCursor


def connect(**more):
    return pymysql.connect(
        host="127.0.0.1",
        port=int(os.environ["MYSQL_PORT"]),
        user="app",
        password=os.environ["MYSQL_PWD"],
        database="app",
        **more,
    )


def refused(number, act):
    try:
        act()
    except pymysql.MySQLError as error:
        assert error.args[0] == number, error
    else:
        raise AssertionError(f"error {number} was expected")


db = connect()
with db.cursor() as cursor:
    cursor.execute("create table py (id int auto_increment primary key, name varchar(40) unique, n int)")
    cursor.execute("insert into py (name, n) values (%s, %s)", ("it's \\ \"quoted\" ünïcode 🐬", 1))
    assert cursor.lastrowid == 1 and cursor.rowcount == 1
    cursor.executemany("insert into py (name, n) values (%s, %s)", [(f"n{i}", i) for i in range(200)])
    assert cursor.rowcount == 200
db.rollback()
with db.cursor() as cursor:
    cursor.execute("select count(*) from py")
    assert cursor.fetchone() == (0,)
    cursor.execute("insert into py (name, n) values ('a', 1), ('b', 2)")
    first = cursor.lastrowid
    refused(1062, lambda: cursor.execute("insert into py (name, n) values ('a', 3)"))
    # An error undoes its own statement and no more.
    cursor.execute("select count(*) from py")
    assert cursor.fetchone() == (2,)
db.commit()

refused(1146, lambda: db.cursor().execute("select * from nowhere"))
refused(1064, lambda: db.cursor().execute("nonsense"))
refused(1064, lambda: db.cursor().execute("select 1; select 2"))
refused(1045, lambda: pymysql.connect(host="127.0.0.1", port=int(os.environ["MYSQL_PORT"]), user="app", password="no"))

with connect(autocommit=True, client_flag=CLIENT.MULTI_STATEMENTS, cursorclass=DictCursor) as other:
    with other.cursor() as cursor:
        cursor.execute("select name, n from py order by id")
        assert cursor.fetchall() == [{"name": "a", "n": 1}, {"name": "b", "n": 2}]
        cursor.execute("update py set n = n + 1 where id = %s; select n from py where id = %s", (first, first))
        assert cursor.rowcount == 1
        assert cursor.nextset() and cursor.fetchall() == [{"n": 2}]
        cursor.execute("set @answer = 42")
        cursor.execute("select @answer as answer, database() as db")
        assert cursor.fetchone() == {"answer": 42, "db": "app"}
    other.ping(reconnect=False)
    other.select_db("app")
    assert other.get_autocommit()

with connect(cursorclass=SSCursor) as streaming:
    with streaming.cursor() as cursor:
        cursor.execute("select n from py order by id")
        assert [n for (n,) in cursor] == [2, 2]

with connect(charset="latin1", autocommit=True) as western:
    with western.cursor() as cursor:
        cursor.execute("insert into py (name, n) values (%s, 9)", ("plain",))
    with db.cursor() as cursor:
        cursor.execute("select name from py where n = 9")
        assert cursor.fetchone() == ("plain",)

db.begin()
with db.cursor() as cursor:
    assert not db.get_autocommit()
    cursor.execute("delete from py where n = 9")
    cursor.execute("savepoint s")
    cursor.execute("delete from py")
    cursor.execute("rollback to savepoint s")
db.commit()
with db.cursor() as cursor:
    cursor.execute("select count(*) from py")
    assert cursor.fetchone() == (2,)
    cursor.execute("drop table py")
db.close()
print("done")
