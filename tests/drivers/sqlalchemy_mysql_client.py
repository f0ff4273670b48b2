"""SQLAlchemy and Alembic's migrations through lockstep in front of MariaDB."""
import datetime
import os
import random
import threading

from alembic.autogenerate import compare_metadata
from alembic.migration import MigrationContext
from alembic.operations import Operations
import sqlalchemy as sa
from sqlalchemy import ForeignKey, String, func, select
from sqlalchemy.dialects.mysql import insert
from sqlalchemy.exc import IntegrityError, OperationalError
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.orm.exc import StaleDataError

URL = f"mariadb+pymysql://app:{os.environ['MYSQL_PWD']}@127.0.0.1:{os.environ['MYSQL_PORT']}/app"


class Base(DeclarativeBase):
    pass


class Author(Base):
    __tablename__ = "sa_author"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(String(50), unique=True)
    created: Mapped[datetime.datetime] = mapped_column(sa.DateTime, server_default=func.now())
    updated: Mapped[datetime.datetime | None] = mapped_column(sa.DateTime, onupdate=func.now())
    version: Mapped[int] = mapped_column()
    books: Mapped[list["Book"]] = relationship(back_populates="author", cascade="all, delete-orphan")
    __mapper_args__ = {"version_id_col": version}


class Book(Base):
    __tablename__ = "sa_book"
    id: Mapped[int] = mapped_column(primary_key=True)
    author_id: Mapped[int] = mapped_column(ForeignKey("sa_author.id", ondelete="CASCADE"))
    title: Mapped[str] = mapped_column(String(100))
    meta: Mapped[dict] = mapped_column(sa.JSON, default=dict)
    author: Mapped[Author] = relationship(back_populates="books")


def orm(engine):
    Base.metadata.create_all(engine)
    with Session(engine) as session:
        session.add_all([Author(name=f"author {i}", books=[Book(title=f"book {i}.{j}", meta={"n": j}) for j in range(3)])
                         for i in range(40)])
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
        for name in ("nested", "upserted"):
            session.execute(insert(Author).values(name=name, version=1).on_duplicate_key_update(updated=func.now()))
        session.execute(sa.update(Book).where(Book.title.like("book 1%")).values(meta=func.json_object("r", 1)))
        session.commit()
    with Session(engine) as one, Session(engine) as two:
        a = one.scalars(select(Author).where(Author.name == "renamed")).one()
        b = two.scalars(select(Author).where(Author.name == "renamed")).one()
        a.name = "by one"
        one.commit()
        b.name = "by two"
        try:
            two.commit()
            raise AssertionError("a stale version was written")
        except (StaleDataError, OperationalError):
            two.rollback()


def migrations(engine):
    with engine.begin() as conn:
        op = Operations(MigrationContext.configure(conn))
        op.create_table("sa_shelf", sa.Column("id", sa.Integer, primary_key=True), sa.Column("name", sa.String(20), nullable=False))
        op.add_column("sa_book", sa.Column("shelf_id", sa.Integer, sa.ForeignKey("sa_shelf.id", name="sa_on_shelf")))
        op.add_column("sa_book", sa.Column("pages", sa.Integer, server_default="1", nullable=False))
        op.create_index("sa_book_title", "sa_book", ["title"])
        op.bulk_insert(sa.table("sa_shelf", sa.column("name", sa.String)), [{"name": "top"}, {"name": "bottom"}])
        op.execute("update sa_book set shelf_id = 1 + id % 2")
        op.alter_column("sa_book", "pages", type_=sa.BigInteger, new_column_name="page_count", existing_type=sa.Integer,
                        existing_nullable=False, existing_server_default="1")
        op.create_check_constraint("sa_pages", "sa_book", "page_count > 0")
    with engine.connect() as conn:
        found = {d[0] for d in compare_metadata(MigrationContext.configure(conn), Base.metadata) if isinstance(d, tuple)}
        assert "remove_column" in found or "remove_table" in found, found
    inspector = sa.inspect(engine)
    assert inspector.get_foreign_keys("sa_book")[0]["referred_table"] in ("sa_author", "sa_shelf")
    with engine.begin() as conn:
        op = Operations(MigrationContext.configure(conn))
        op.drop_constraint("sa_pages", "sa_book", type_="check")
        op.drop_constraint("sa_on_shelf", "sa_book", type_="foreignkey")
        op.drop_column("sa_book", "shelf_id")
        op.drop_table("sa_shelf")
        op.rename_table("sa_book", "sa_volume")
        op.execute("insert into sa_volume(author_id, title, meta) select id, 'by migration', '{}' from sa_author order by id")


def concurrent(engine):
    def work(i):
        dice = random.Random(i)
        for n in range(6):
            for _ in range(20):
                try:
                    with Session(engine) as session, session.begin():
                        session.add(Author(name=f"thread {i}.{n}"))
                        session.flush()
                        session.execute(sa.update(Author).where(Author.name == f"author {dice.randint(10, 39)}").values(updated=func.now()))
                    break
                except OperationalError as error:
                    assert error.orig.args[0] in (1213, 1205), error
    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    with Session(engine) as session:
        assert session.scalar(select(func.count()).select_from(Author).where(Author.name.like("thread%"))) == 48


engine = sa.create_engine(URL, pool_size=8, pool_pre_ping=True)
for part in (orm, migrations, concurrent):
    print(part.__name__, flush=True)
    part(engine)
engine.dispose()
print("done")
