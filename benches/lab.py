"""Three PostgreSQL servers in a temporary folder, the proxies in front of them, and their end.

Everything listens on 127.0.0.1 only. Each program is started with a parent-death signal, so that
no way to end the comparison leaves one behind, and all of them end before the folder goes.
"""

import glob
import os
import random
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
ADMIN, USER = "postgres", "app"
# Servers refuse to run as root.
UNPRIVILEGED = "postgres"
SCALE = 10
# Enough for the largest workload with one connection for each client, on every pooler.
POOL = 40
# Above what the test with idle clients opens.
MOST_CLIENTS = 2000
TICK = os.sysconf("SC_CLK_TCK")
TABLES = ["pgbench_accounts", "pgbench_branches", "pgbench_tellers", "pgbench_history", "ins"]

SERVER = """
listen_addresses = '127.0.0.1'
unix_socket_directories = ''
max_connections = 300
shared_buffers = 256MB
fsync = on
synchronous_commit = on
# No checkpoint falls into one target's round and not into another's.
max_wal_size = 8GB
checkpoint_timeout = 1h
log_min_messages = warning
"""

LOCKSTEP = """
[cluster]
database = "{database}"
postgres_listen = "127.0.0.1:{port}"
state_dir = "{folder}/state"
auth = "trust"
[admin]
user = "{admin}"
password = "unused"
{backends}
[[user]]
name = "{user}"
password = "unused"
[pool]
size = {pool}
[reads]
balancer = "load"
[http]
listen = "off"
[log]
level = "warn"
"""

# A pooler has one server behind it: this is lockstep when it reads from one as well.
ONE_READER = "lockstep, one reader"

PGBOUNCER = """
[databases]
transaction = host=127.0.0.1 port={server} dbname={database}
prepared = host=127.0.0.1 port={server} dbname={database} pool_mode={prepared_mode}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = trust
auth_file = {folder}/users
pool_mode = transaction
{prepared_setting}
max_client_conn = {clients}
default_pool_size = {pool}
server_reset_query = DISCARD ALL
log_connections = 0
log_disconnections = 0
"""

PGPOOL = """
backend_clustering_mode = 'native_replication'
listen_addresses = '127.0.0.1'
port = {port}
socket_dir = '{folder}'
pcp_listen_addresses = '127.0.0.1'
pcp_port = {control}
pcp_socket_dir = '{folder}'
pid_file_name = '{folder}/pid'
logdir = '{folder}'
enable_pool_hba = off
pool_passwd = ''
num_init_children = {pool}
max_pool = 1
child_life_time = 0
load_balance_mode = on
replicate_select = off
insert_lock = on
memory_cache_enabled = off
sr_check_period = 0
health_check_period = 10
health_check_user = '{admin}'
health_check_database = 'postgres'
log_min_messages = warning
{backends}
"""


class Failure(Exception):
    """Something that was to run does not; the text says what and where its log is."""


def say(text):
    """Progress goes to stderr; stdout holds the result alone."""
    print(text, file=sys.stderr, flush=True)


def program(name):
    """The path of a program, also where PATH of an ordinary user does not look."""
    for folder in [os.environ.get("LOCKSTEP_PG_BIN"), *os.environ["PATH"].split(":"),
                   "/usr/sbin", *sorted(glob.glob("/usr/lib/postgresql/*/bin"), reverse=True)]:
        if folder and os.access(f"{folder}/{name}", os.X_OK):
            return f"{folder}/{name}"
    return None


def version(command):
    """The first line that a program says about its version, on whichever stream."""
    done = subprocess.run([command, "--version"], capture_output=True, text=True, check=False)
    return (done.stdout + done.stderr).strip().split("\n")[0]


def tree(root):
    """The process `root` and all that descend from it, as {pid: ticks used}."""
    parents, ticks = {}, {}
    for entry in os.listdir("/proc"):
        if not entry.isdigit():
            continue
        try:
            with open(f"/proc/{entry}/stat", encoding="utf-8", errors="replace") as file:
                rest = file.read().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(entry)] = int(rest[1])
        # Its own time, and that of children which ended and were waited for.
        ticks[int(entry)] = sum(int(value) for value in rest[11:15])
    mine, size = {root}, 0
    while len(mine) > size:
        size = len(mine)
        mine |= {pid for pid, parent in parents.items() if parent in mine}
    return {pid: ticks[pid] for pid in mine if pid in ticks}


def cpu_seconds(roots):
    """Processor time of whole process trees, in user and kernel mode."""
    return sum(sum(tree(root).values()) for root in roots) / TICK


def memory(root):
    """(RSS, PSS) of a process tree in MiB; PSS shares out what several processes share."""
    sums = {"Rss": 0, "Pss": 0}
    for pid in tree(root):
        with open(f"/proc/{pid}/smaps_rollup", encoding="utf-8") as file:
            for line in file:
                key = line.partition(":")[0]
                if key in sums:
                    sums[key] += int(line.split()[1])
    return sums["Rss"] / 1024, sums["Pss"] / 1024


@dataclass
class Target:
    """What a workload can be run against; several addresses are loaded at the same time."""

    name: str
    ports: list
    database: str
    servers: list
    pid: int = 0
    writes: bool = True
    # The database under which statements may be prepared, where that is another one.
    prepared: str = ""
    # Brings it into its state, where one process is several targets.
    ready: object = None


@dataclass
class Lab:
    """The temporary folder and every program that runs in it."""

    folder: str = field(default_factory=lambda: tempfile.mkdtemp(prefix="lockstep-bench-"))
    running: list = field(default_factory=list)
    taken: set = field(default_factory=set)
    ports: list = field(default_factory=list)
    servers: list = field(default_factory=list)

    def __post_init__(self):
        self.account = []
        if os.geteuid() == 0:
            self.account = [f"--reuid={UNPRIVILEGED}", f"--regid={UNPRIVILEGED}", "--init-groups"]
            shutil.chown(self.folder, UNPRIVILEGED, UNPRIVILEGED)
        os.chmod(self.folder, 0o755)

    def port(self):
        """A free port below the range of outgoing connections, which could sit on it later."""
        while True:
            port = random.randrange(20000, 30000)
            with socket.socket() as probe:
                try:
                    probe.bind(("127.0.0.1", port))
                except OSError:
                    continue
            if port not in self.taken:
                self.taken.add(port)
                return port

    def home(self, name):
        """A folder of its own for one program."""
        path = f"{self.folder}/{name}"
        os.mkdir(path, 0o700)
        if self.account:
            shutil.chown(path, UNPRIVILEGED, UNPRIVILEGED)
        return path

    def write(self, path, text):
        """Writes a configuration file that the unprivileged user can read."""
        with open(path, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(path, 0o600)
        if self.account:
            shutil.chown(path, UNPRIVILEGED, UNPRIVILEGED)
        return path

    def run(self, *command):
        """Runs a program to its end, as the unprivileged user."""
        done = subprocess.run(["setpriv", *self.account, "--", *command], cwd=self.folder,
                              capture_output=True, text=True, check=False)
        if done.returncode != 0:
            raise Failure(f"{' '.join(command)}: {(done.stderr or done.stdout).strip()}")
        return done.stdout

    def start(self, name, command, stop, port):
        """Starts a program in a session of its own (Ctrl-C is ours) and waits for its port."""
        log_path = f"{self.folder}/{name}.log"
        with open(log_path, "ab") as log:
            child = subprocess.Popen(
                ["setpriv", f"--pdeathsig={stop.name[3:]}", *self.account, "--", *command],
                cwd=self.folder, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                start_new_session=True)
        self.running.append((name, child, stop))
        for _ in range(600):
            if child.poll() is not None:
                break
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                return child.pid
            except OSError:
                time.sleep(0.1)
        with open(log_path, encoding="utf-8", errors="replace") as log:
            raise Failure(f"{name} does not start:\n{log.read()[-2000:]}")

    def close(self):
        """Ends everything, the last started first, and removes the folder."""
        for name, child, stop in reversed(self.running):
            members = tree(child.pid)
            if child.poll() is None:
                child.send_signal(stop)
                try:
                    child.wait(20)
                except subprocess.TimeoutExpired:
                    say(f"{name} does not end by itself, killing it")
                    child.kill()
                    child.wait()
            # A killed parent's children; the command line is looked at since ids are used again.
            for pid in members:
                if pid != child.pid and self.is_ours(pid):
                    os.kill(pid, signal.SIGKILL)
        self.running.clear()
        shutil.rmtree(self.folder, ignore_errors=True)

    def is_ours(self, pid):
        """Whether a process works in the temporary folder."""
        try:
            return os.readlink(f"/proc/{pid}/cwd").startswith(self.folder)
        except OSError:
            return False

    def sql(self, server, database, text):
        """Runs SQL on one server as the admin; returns the rows as text."""
        return self.psql(self.ports[server], ADMIN, database, text)

    def psql(self, port, user, database, text):
        """Runs SQL over a port; returns the rows as text."""
        return self.run(program("psql"), "-XAtq", "-v", "ON_ERROR_STOP=1", "-h", "127.0.0.1",
                        "-p", str(port), "-U", user, "-d", database, "-c", text).strip()

    def start_servers(self, databases):
        """Three clusters of their own, so that their identities differ, with the same data."""
        for number in range(3):
            data, port = f"{self.folder}/pg{number + 1}", self.port()
            self.run(program("initdb"), "-D", data, "-U", ADMIN, "-A", "trust", "-E", "UTF8",
                     "--locale=C", "--no-sync")
            with open(f"{data}/postgresql.conf", "a", encoding="utf-8") as file:
                file.write(f"{SERVER}\nport = {port}\n")
            command = [program("postgres"), "-D", data]
            self.servers.append(self.start(f"pg{number + 1}", command, signal.SIGINT, port))
            self.ports.append(port)
            self.load(number, databases)

    def load(self, server, databases):
        """Loads the first database with pgbench; the others are copies of it."""
        first, *others = databases
        for _ in range(100):
            try:
                self.sql(server, "postgres", f"create role {USER} login")
                break
            except Failure as failure:
                if "starting up" not in str(failure):
                    raise
                time.sleep(0.1)
        self.sql(server, "postgres", f"create database {first} owner {USER}")
        self.run(program("pgbench"), "-i", "-q", "-s", str(SCALE), "-h", "127.0.0.1",
                 "-p", str(self.ports[server]), "-U", USER, first)
        self.psql(self.ports[server], USER, first,
                  "create table ins(id bigint generated always as identity primary key,"
                  " k int not null, v text)")
        for other in others:
            self.sql(server, "postgres", f"create database {other} template {first} owner {USER}")
        self.sql(server, "postgres", "checkpoint")

    def answer(self, name, port, database):
        """Waits until a proxy answers a query; an open port alone says little."""
        problem = None
        for _ in range(300):
            try:
                return self.psql(port, USER, database, "select 1")
            except Failure as failure:
                problem = failure
                time.sleep(0.1)
        raise Failure(f"{name} does not answer: {problem}")

    def start_lockstep(self, binary, database):
        """`lockstep init`, then `lockstep proxy`, in front of all servers."""
        home, port = self.home("lockstep"), self.port()
        backends = "\n".join(f'[[backend]]\nname = "pg{n + 1}"\naddress = "127.0.0.1:{p}"'
                             for n, p in enumerate(self.ports))
        # A copy, so that a build that goes on meanwhile cannot change what is measured.
        own = shutil.copy(binary, f"{home}/bin")
        os.chmod(own, 0o755)
        file = self.write(f"{home}/lockstep.toml", LOCKSTEP.format(
            database=database, port=port, folder=home, admin=ADMIN, user=USER, pool=POOL,
            backends=backends))
        self.run(own, "init", "--config", file)
        pid = self.start("lockstep", [own, "proxy", "--config", file], signal.SIGTERM, port)
        self.answer("lockstep", port, database)
        def balance(balancer):
            """Reads go by this rule from now on."""
            with open(file, encoding="utf-8") as old:
                text = re.sub(r'balancer = ".*"', f'balancer = "{balancer}"', old.read())
            self.write(file, text)
            os.kill(pid, signal.SIGHUP)
            time.sleep(0.5)

        return [Target("lockstep", [port], database, [0, 1, 2], pid,
                       ready=lambda: balance("load")),
                Target(ONE_READER, [port], database, [0, 1, 2], pid, writes=False,
                       ready=lambda: balance("simple"))]

    def start_pgbouncer(self, database):
        """pgbouncer in front of the first server; only reads are compared with it."""
        home, port = self.home("pgbouncer"), self.port()
        self.write(f"{home}/users", f'"{USER}" ""\n')
        new = tuple(map(int, re.findall(r"\d+", version(program("pgbouncer")))[:2])) >= (1, 21)
        file = self.write(f"{home}/pgbouncer.ini", PGBOUNCER.format(
            server=self.ports[0], database=database, port=port, folder=home, pool=POOL,
            clients=MOST_CLIENTS, prepared_mode="transaction" if new else "session",
            prepared_setting="max_prepared_statements = 200" if new else ""))
        pid = self.start("pgbouncer", [program("pgbouncer"), file], signal.SIGTERM, port)
        self.answer("pgbouncer", port, "transaction")
        return Target("pgbouncer", [port], "transaction", [0], pid, False, "prepared")

    def start_pgpool(self, database):
        """pgpool-II in native replication, in front of all servers."""
        home, port = self.home("pgpool"), self.port()
        backends = "\n".join(
            f"backend_hostname{n} = '127.0.0.1'\nbackend_port{n} = {p}\nbackend_weight{n} = 1\n"
            f"backend_flag{n} = 'ALLOW_TO_FAILOVER'" for n, p in enumerate(self.ports))
        file = self.write(f"{home}/pgpool.conf", PGPOOL.format(
            port=port, control=self.port(), folder=home, pool=POOL, admin=ADMIN,
            backends=backends))
        empty = self.write(f"{home}/empty", "")
        command = [program("pgpool"), "-n", "-D", "-f", file, "-F", empty, "-a", empty]
        pid = self.start("pgpool", command, signal.SIGINT, port)
        self.answer("pgpool", port, database)
        return Target("pgpool", [port], database, [0, 1, 2], pid)

    def digests(self, target):
        """One line for each server: rows and an order-free hash of every table."""
        each = ", ".join(f"(select count(*) || ':' || coalesce(sum(hashtextextended(t::text, 0)"
                         f"::numeric), 0) from {table} t)" for table in TABLES)
        return [self.sql(server, target.database, f"select concat_ws(' ', {each})")
                for server in target.servers]
