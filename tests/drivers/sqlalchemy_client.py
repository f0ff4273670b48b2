"""SQLAlchemy and Alembic's migrations through lockstep.

The one argument says in front of what: postgres (with two drivers) or mysql.
"""
import asyncio
import datetime
import os
import random
import sys
import threading
import uuid

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
import sqlalchemy as sa
from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.dialects import mysql, postgresql
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.ext.asyncio import async_sessionmaker, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.orm.exc import StaleDataError

MYSQL = sys.argv[1] == "mysql"
if MYSQL:
    URL = f"mariadb+pymysql://app:{os.environ['MYSQL_PWD']}@127.0.0.1:{os.environ['MYSQL_PORT']}/app"
else:
    URL = os.environ["DATABASE_URL"]
# What the servers tell of the clock: in one transaction it stands still, or goes on.
CLOCK = func.now() if MYSQL else func.clock_timestamp()
JSON = sa.JSON if MYSQL else postgresql.JSONB
WHEN = sa.DateTime(timezone=not MYSQL)


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_author"
    id: Mapped[int] = mapped_column(*([] if MYSQL else [sa.Identity()]), primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    token: Mapped[uuid.UUID] = mapped_column(
        default=uuid.uuid4, server_default=sa.text("(uuid())") if MYSQL else func.gen_random_uuid())
    created: Mapped[datetime.datetime] = mapped_column(WHEN, server_default=func.now())
    updated: Mapped[datetime.datetime | None] = mapped_column(WHEN, onupdate=CLOCK)
    version: Mapped[int] = mapped_column()
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Book(Base):
    __tablename__ = "sa_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("sa_author.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(100))
    tags: Mapped[list[str]] = mapped_column(sa.JSON if MYSQL else postgresql.ARRAY(String), default=list)
    meta: Mapped[dict] = mapped_column(JSON, default=dict)
    author: Mapped[Author] = relationship(back_populates="books")


def orm(engine):
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Author(name=f"author {i}", books=[Book(title=f"book {i}.{j}", tags=["a", str(j)], meta={"n": j})
                                                            for j in range(3)]) for i in range(40)])
        session.commit()
        first = session.scalars(select(Author).order_by(Author.id)).first()
        assert first.created is not None and len(first.books) == 3
        first.name = "renamed"
        first.books.pop()
        session.commit()
        assert first.updated is not None and first.version == 2
        session.delete(session.get(Author, first.id + 1))
        session.commit()
        assert session.scalar(select(func.count()).select_from(Book)) == 116
        session.add(Author(name="renamed"))
        try:
            session.commit()
            raise AssertionError("a duplicate was let in")
        except IntegrityError:
            session.rollback()
        with session.begin_nested():
            session.add(Author(name="nested"))
        session.commit()
        session.execute(upsert([{"name": "nested", "version": 1}, {"name": "upserted", "version": 1}]))
        made = func.json_object("r", func.rand()) if MYSQL else func.jsonb_build_object("r", func.random())
        session.execute(sa.update(Book).where(Book.title.like("book 1%")).values(meta=made))
        session.commit()
    stale(engine)


def upsert(rows):
    if MYSQL:
        return mysql.insert(Author).values(rows).on_duplicate_key_update(updated=func.now())
    insert = postgresql.insert(Author).values(rows)
    return insert.on_conflict_do_update(index_elements=["name"], set_={"updated": func.now()})


def stale(engine):
    with Session(engine) as one, Session(engine) as two:
        a = one.scalars(select(Author).where(Author.name == "renamed")).one()
        b = two.scalars(select(Author).where(Author.name == "renamed")).one()
        a.name = "by one"
        one.commit()
        b.name = "by two"
        try:
            two.commit()
            raise AssertionError("a stale version was written")
        except (StaleDataError, OperationalError) as error:
            assert MYSQL or isinstance(error, StaleDataError), error
            two.rollback()


def reflection(engine):
    inspector = sa.inspect(engine)
    assert {"sa_author", "sa_book"} <= set(inspector.get_table_names())
    assert inspector.get_foreign_keys("sa_book")[0]["options"]["ondelete"] == "CASCADE"
    # MariaDB has a key on the column as well as the constraint.
    unique = [key["column_names"] for key in inspector.get_unique_constraints("sa_author")]
    assert unique == [["name"]], unique
    reflected = sa.MetaData()
    reflected.reflect(engine)
    assert len(reflected.tables["sa_book"].columns) == 5


def migrations(engine):
    with engine.begin() as conn:
        op = Operations(MigrationContext.configure(conn))
        op.create_table("sa_shelf", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.Text, nullable=False))
        op.add_column("sa_book", sa.Column("shelf_id", sa.Integer, sa.ForeignKey("sa_shelf.id", name="sa_on_shelf")))
        op.add_column("sa_book", sa.Column("pages", sa.Integer, server_default="1", nullable=False))
        op.create_index("sa_book_title", "sa_book", ["title"])
        op.bulk_insert(sa.table("sa_shelf", sa.column("name", sa.Text)), [{"name": "top"}, {"name": "bottom"}])
        op.execute("update sa_book set shelf_id = 1 + id % 2")
        op.alter_column("sa_book", "pages", type_=sa.BigInteger, new_column_name="page_count", existing_type=sa.Integer,
                        existing_nullable=False, existing_server_default="1")
        op.create_check_constraint("sa_pages", "sa_book", "page_count > 0")
    with engine.connect() as conn:
        context = MigrationContext.configure(conn, opts={"include_name": lambda name, kind, parents: kind != "schema" or name is None})
        found = {d[0] for d in compare_metadata(context, Base.metadata) if isinstance(d, tuple)}
        assert "remove_column" in found or "remove_table" in found, found
    if not MYSQL:
        half_way(engine)
    with engine.begin() as conn:
        op = Operations(MigrationContext.configure(conn))
        op.drop_constraint("sa_pages", "sa_book", type_="check")
        op.drop_constraint("sa_on_shelf", "sa_book", type_="foreignkey")
        op.drop_column("sa_book", "shelf_id")
        op.drop_table("sa_shelf")
        op.rename_table("sa_book", "sa_volume")
        op.execute("insert into sa_volume(author_id, title, tags, meta) select id, 'by migration', '{}', '{}' from sa_author order by id")


def half_way(engine):
    """A migration that fails is taken back whole."""
    try:
        with engine.begin() as conn:
            op = Operations(MigrationContext.configure(conn))
            op.create_table("sa_never", sa.Column("id", sa.Integer, primary_key=True))
            op.execute("select 1/0")
        raise AssertionError("the error was swallowed")
    except sa.exc.DataError:
        pass
    assert not sa.inspect(engine).has_table("sa_never")


def threads(engine):
    def work(i):
        dice = random.Random(i)
        for n in range(6):
            for _ in range(20):
                try:
                    with Session(engine) as session, session.begin():
                        session.add(Author(name=f"thread {i}.{n}"))
                        session.flush()
                        session.execute(sa.update(Author).where(Author.name == f"author {dice.randint(10, 39)}")
                                        .values(updated=CLOCK))
                    break
                except OperationalError as error:
                    assert error.orig.args[0] in (1213, 1205), error
    workers = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [worker.start() for worker in workers]
    [worker.join() for worker in workers]
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Author).where(Author.name.like("thread%"))) == 48


async def concurrent(url):
    engine = create_async_engine(url, pool_size=8)
    make = async_sessionmaker(engine)
    async def work(i):
        dice = random.Random(i)
        for n in range(6):
            async with make() as session, session.begin():
                session.add(Author(name=f"async {i}.{n}"))
                await session.execute(sa.update(Author).where(Author.name == f"author {dice.randint(10, 39)}")
                                      .values(updated=CLOCK))
    await asyncio.gather(*[work(i) for i in range(12)])
    async with make() as session:
        assert await session.scalar(select(func.count()).select_from(Author).where(Author.name.like("async%"))) == 72
    await engine.dispose()


def main():
    engine = sa.create_engine(URL.replace("postgresql://", "postgresql+psycopg://"), pool_size=8, pool_pre_ping=True)
    for part in (orm, reflection, migrations, *([threads] if MYSQL else [])):
        print(part.__name__, flush=True)
        part(engine)
    engine.dispose()
    if not MYSQL:
        print("concurrent", flush=True)
        asyncio.run(concurrent(URL.replace("postgresql://", "postgresql+asyncpg://")))
    print("done")


main()
