"""Django through lockstep: its own migrations, models of ours, transactions and its constraint handling.

The one argument says in front of what: postgres or mysql.
"""
import os
import sys
import threading

import django
from django.conf import settings

MYSQL = sys.argv[1] == "mysql"
if MYSQL:
    # Without the tables of time zones a server knows UTC only.
    ZONE = "UTC"
    DATABASE = {
        "ENGINE": "django.db.backends.mysql", "HOST": "127.0.0.1", "PORT": os.environ["MYSQL_PORT"],
        "USER": "app", "PASSWORD": os.environ["MYSQL_PWD"], "NAME": "app", "OPTIONS": {"charset": "utf8mb4"}}
else:
    ZONE = "Europe/Berlin"
    DATABASE = {
        "ENGINE": "django.db.backends.postgresql", "HOST": os.environ["PGHOST"], "PORT": os.environ["PGPORT"],
        "USER": os.environ["PGUSER"], "PASSWORD": os.environ["PGPASSWORD"], "NAME": os.environ["PGDATABASE"],
        "OPTIONS": {"server_side_binding": True} if os.environ.get("SERVER_SIDE") else {}}
settings.configure(
    INSTALLED_APPS=["django.contrib.contenttypes", "django.contrib.auth", "django.contrib.sessions"],
    DATABASES={"default": DATABASE}, USE_TZ=True, TIME_ZONE=ZONE, SECRET_KEY="x", DEFAULT_AUTO_FIELD="django.db.models.BigAutoField",
    PASSWORD_HASHERS=["django.contrib.auth.hashers.MD5PasswordHasher"])
django.setup()

from django.contrib.auth.models import Group, Permission, User  # noqa: E402
from django.core.management import call_command  # noqa: E402
from django.db import IntegrityError, OperationalError, connection, models, transaction  # noqa: E402
from django.db.models import Count, F, Q  # noqa: E402
from django.db.models.functions import Now  # noqa: E402


class Item(models.Model):
    name = models.CharField(max_length=40, unique=True)
    stock = models.IntegerField(default=0)
    data = models.JSONField(default=dict)
    created = models.DateTimeField(auto_now_add=True)
    seen = models.DateTimeField(null=True)
    owner = models.ForeignKey(User, null=True, on_delete=models.CASCADE)
    groups = models.ManyToManyField(Group)

    class Meta:
        app_label = "shop"
        constraints = [models.CheckConstraint(condition=Q(stock__gte=0), name="stock_positive")]


def migrate():
    call_command("migrate", verbosity=0)
    call_command("migrate", "auth", "zero", verbosity=0)
    call_command("migrate", verbosity=0)
    assert Permission.objects.count() == 20, Permission.objects.count()
    with connection.schema_editor() as editor:
        editor.create_model(Item)
    with connection.schema_editor() as editor:
        field = models.CharField(max_length=10, default="new", db_index=True)
        field.set_attributes_from_name("state")
        editor.add_field(Item, field)
    with connection.schema_editor() as editor:
        editor.remove_field(Item, field)


def orm():
    users = [User.objects.create_user(f"user{i}", password="pw") for i in range(5)]
    Item.objects.bulk_create([Item(name=f"item {i}", stock=i, owner=users[i % 5], data={"n": i}) for i in range(50)])
    assert Item.objects.get(name="item 49").id == Item.objects.get(name="item 0").id + 49
    # MariaDB cannot be told which key.
    key = {} if MYSQL else {"unique_fields": ["name"]}
    Item.objects.bulk_create([Item(name="item 1", stock=100), Item(name="fresh", stock=1)], update_conflicts=True,
                             update_fields=["stock"], **key)
    assert Item.objects.get(name="item 1").stock == 100
    Item.objects.filter(stock__gt=10).update(stock=F("stock") - 1, seen=Now())
    item, made = Item.objects.get_or_create(name="item 7", defaults={"stock": 9})
    assert not made
    item.groups.add(Group.objects.create(name="g1"), Group.objects.create(name="g2"))
    item.stock = F("stock") + 5
    item.save()
    item.refresh_from_db()
    assert item.stock == 12
    assert Item.objects.filter(data__n__gte=40).aggregate(n=Count("id"))["n"] == 10
    for error in (lambda: Item.objects.create(name="item 7"), lambda: Item.objects.filter(name="item 3").update(stock=-1)):
        try:
            with transaction.atomic():
                error()
            raise AssertionError("a constraint did not hold")
        except IntegrityError:
            pass
        except OperationalError as broken:
            # So MariaDB calls a CHECK that does not hold.
            assert MYSQL and broken.args[0] == 4025, broken
    # The shop is not an installed app, so Django does not look there by itself.
    Item.objects.filter(owner=users[0]).delete()
    users[0].delete()
    assert not Item.objects.filter(owner__username="user0").exists()
    rows = sum(1 for _ in Item.objects.order_by("id").iterator(chunk_size=7))
    assert rows == Item.objects.count()


def atomic():
    before = Item.objects.count()
    with transaction.atomic():
        Item.objects.create(name="kept")
        try:
            with transaction.atomic():
                Item.objects.create(name="dropped")
                raise KeyError
        except KeyError:
            pass
        locked = Item.objects.select_for_update(skip_locked=True).filter(stock__gt=0).order_by("id").first()
        locked.stock += 1
        locked.save(update_fields=["stock"])
    assert Item.objects.count() == before + 1


def together():
    def work():
        try:
            for _ in range(8):
                with transaction.atomic():
                    item = Item.objects.select_for_update().get(name="kept")
                    item.stock += 1
                    item.save()
        finally:
            connection.close()
    threads = [threading.Thread(target=work) for _ in range(6)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert Item.objects.get(name="kept").stock == 48, Item.objects.get(name="kept").stock


for part in (migrate, orm, atomic, together):
    print(part.__name__, flush=True)
    part()
connection.close()
print("done")
