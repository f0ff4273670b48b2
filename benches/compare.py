#!/usr/bin/env python3
"""lockstep beside its peers, in one run: direct, lockstep, pgbouncer, pgpool-II.

    make bench                            the whole comparison, about a quarter of an hour
    make bench ARGS='--quick'             one short round: does it work at all
    make bench ARGS='--only insert --json result.json'

The table goes to stdout as markdown, progress to stderr. LOCKSTEP_BIN names another binary than
target/release/lockstep, LOCKSTEP_PG_BIN the folder of PostgreSQL's programs. Peers that are not
installed are left out.

The targets take turns (A B C, A B C, …), since a machine's speed changes from minute to minute:
trust the ratios, which are taken within a round, before the rates. Every target that writes has a
database of its own on the same servers, with the same data.
"""

import argparse
import glob
import json
import os
import platform
import re
import resource
import signal
import socket
import statistics
import struct
import subprocess
import sys
import tempfile
import time

import lab as labs
from lab import Failure, Lab, Target, program, say, version

INSERT = "\\set k random(1, 1000000)\ninsert into ins(k, v) values (:k, 'x');\n"
# name, what pgbench is given, clients, writes
WORKLOADS = [
    ("select, prepared, 8 clients", ["-S", "-M", "prepared"], 8, False),
    ("select, simple, 8 clients", ["-S", "-M", "simple"], 8, False),
    ("TPC-B, prepared, 8 clients", ["-M", "prepared"], 8, True),
    ("TPC-B, prepared, 32 clients", ["-M", "prepared"], 32, True),
    ("insert, prepared, 8 clients", ["-f", "insert.sql", "-M", "prepared"], 8, True),
    ("insert, prepared, 32 clients", ["-f", "insert.sql", "-M", "prepared"], 32, True),
    ("select, prepared, 1 client", ["-S", "-M", "prepared"], 1, False),
    ("insert, prepared, 1 client", ["-f", "insert.sql", "-M", "prepared"], 1, True),
]
# Against one server, and three at once: what a round trip and a flush cost on this machine.
ROUND_TRIP, UNFLUSHED = "round trip", "insert without its flush"
MEASURES = [
    (ROUND_TRIP, ["-f", "one.sql", "-M", "prepared"], ""),
    (UNFLUSHED, ["-f", "insert.sql", "-M", "prepared"], "-c synchronous_commit=off"),
]
SCRIPTS = {"insert.sql": INSERT, "one.sql": "select 1;\n"}
IDLE = [1, 100, 1000]


def command_of(target, port, arguments, clients, seconds, folder):
    """pgbench's command line; its log goes to a folder of its own."""
    database = target.database
    if target.prepared and "prepared" in arguments:
        database = target.prepared
    # Logging every one of many short transactions would cost more than running them.
    sampling = "0.05" if "-S" in arguments and clients > 1 else "1"
    paths = [f"{folder}/{a}" if a in SCRIPTS else a for a in arguments]
    return [program("pgbench"), "-n", "-c", str(clients), "-j", str(min(2, clients)),
            "-T", str(seconds), "-l", "--log-prefix", f"{folder}/log", "--sampling-rate", sampling,
            *paths, "-h", "127.0.0.1", "-p", str(port), "-U", labs.USER, database]


def latencies(folder):
    """The sampled latencies in ms, sorted; the log files are removed."""
    values = []
    for path in glob.glob(f"{folder}/log*"):
        with open(path, encoding="utf-8") as file:
            values += [int(f[2]) / 1000 for f in map(str.split, file)
                       if len(f) > 2 and f[2].isdigit()]
        os.unlink(path)
    return sorted(values)


def load(lab, target, arguments, clients, seconds, options=""):
    """One round of one workload; on several ports at once where the target has them."""
    if target.ready:
        target.ready()
    with tempfile.TemporaryDirectory(prefix="load-", dir=lab.folder) as folder:
        for name, text in SCRIPTS.items():
            lab.write(f"{folder}/{name}", text)
        roots = [[target.pid] if target.pid else [], [lab.servers[s] for s in target.servers]]
        before = [labs.cpu_seconds(pids) for pids in roots]
        around = {**os.environ, "PGOPTIONS": options}
        children = [subprocess.Popen(
            command_of(target, port, arguments, clients, seconds, folder), text=True, env=around,
            stdout=subprocess.PIPE, stderr=subprocess.PIPE) for port in target.ports]
        try:
            outputs = [child.communicate(timeout=seconds + 30) for child in children]
        except subprocess.TimeoutExpired:
            return {"tps": 0.0, "errors": clients, "said": ["no end 30 s after its time"]}
        finally:
            for child in children:
                child.kill()
                child.wait()
        # A server's process that is just ending is found neither alive nor in its parent's sum.
        time.sleep(0.2)
        after = [labs.cpu_seconds(pids) for pids in roots]
        used = [late - early for late, early in zip(after, before)]
        return judge(outputs, latencies(folder), used)


def judge(outputs, times, used):
    """What pgbench said, in numbers. Of several at once the mean counts: each wrote everything."""
    def number(pattern, text):
        found = re.search(pattern, text)
        return float(found.group(1)) if found else 0.0

    rates = [number(r"tps = ([\d.]+)", out) for out, _ in outputs]
    done = sum(number(r"actually processed: (\d+)", out) for out, _ in outputs)
    failed = sum(number(r"failed transactions: (\d+)", out) for out, _ in outputs)
    aborted = sum(len(re.findall(r"client \d+ .*aborted", err)) for _, err in outputs)
    refused = sum(1 for out, err in outputs if "tps = " not in out and not aborted)
    each = done / len(outputs)
    return {
        "tps": statistics.mean(rates),
        "p50_ms": times[len(times) // 2] if times else None,
        "p99_ms": times[int(len(times) * 0.99)] if times else None,
        "proxy_cpu_us": used[0] / each * 1e6 if each else None,
        "servers_cpu_us": used[1] / each * 1e6 if each else None,
        "errors": int(failed + aborted + refused),
        "said": [line for _, err in outputs for line in err.splitlines() if "error" in line][:3],
    }


def measure(lab, targets, rounds, seconds, only):
    """All workloads, the targets by turns; returns {workload: {target: [round, …]}}."""
    results = {}
    for name, arguments, clients, writes in WORKLOADS:
        if not re.search(only, name):
            continue
        chosen = [t for t in targets if (t.writes if writes else len(t.ports) == 1)]
        by_target = results[name] = {t.name: [] for t in chosen}
        for target in chosen:
            # Connections, plans and caches first: the first target would pay for all of them.
            load(lab, target, arguments, clients, 1)
        for _ in range(rounds):
            for target in chosen:
                if writes:
                    vacuum(lab, target)
                result = load(lab, target, arguments, clients, seconds)
                by_target[target.name].append(result)
                say(f"{name:30} {target.name:10} {result['tps']:9.0f} tps "
                    f"{result['errors']} errors {' | '.join(result['said'])}")
        if writes and clients == 1:
            for extra, given, options in MEASURES:
                results[extra] = {target.name: [
                    load(lab, target, given, 1, min(3, seconds), options)
                    for _ in range(rounds)] for target in targets if "direct" in target.name}
    return results


def vacuum(lab, target):
    """The ten rows that TPC-B updates all the time start every round without dead versions."""
    for server in target.servers:
        lab.sql(server, target.database, "vacuum pgbench_branches")
        lab.sql(server, target.database, "vacuum pgbench_tellers")


class Idle:
    """A client that logs in, runs one query, and then keeps still. Trust only."""

    def __init__(self, port, database):
        self.socket = socket.create_connection(("127.0.0.1", port), 10)
        self.rest = b""
        body = struct.pack("!I", 196608) + b"".join(
            word.encode() + b"\0" for word in ("user", labs.USER, "database", database, ""))
        self.socket.sendall(struct.pack("!I", len(body) + 4) + body)
        self.until_ready()
        query = b"select abalance from pgbench_accounts where aid = 1\0"
        self.socket.sendall(b"Q" + struct.pack("!I", len(query) + 4) + query)
        self.until_ready()

    def until_ready(self):
        """Reads to the next ReadyForQuery."""
        while True:
            head = self.take(5)
            body = self.take(struct.unpack("!I", head[1:])[0] - 4)
            if head[:1] == b"E":
                raise Failure(f"an idle client is refused: {body.decode(errors='replace')}")
            if head[:1] == b"Z":
                return

    def take(self, count):
        """The next bytes, as many as said."""
        while len(self.rest) < count:
            part = self.socket.recv(65536)
            if not part:
                raise Failure("an idle client is disconnected")
            self.rest += part
        taken, self.rest = self.rest[:count], self.rest[count:]
        return taken


def idle_memory(target):
    """Memory of a proxy that has just started, with more and more idle clients."""
    rows, clients = {}, []
    try:
        for count in IDLE:
            while len(clients) < count:
                clients.append(Idle(target.ports[0], target.database))
            time.sleep(1)
            rows[count] = dict(zip(("rss", "pss"), labs.memory(target.pid)))
    except (OSError, Failure) as problem:
        say(f"{target.name}: {len(clients)} idle clients, then: {problem}")
    finally:
        for client in clients:
            client.socket.close()
    say(f"{target.name}: {rows}")
    return rows


def median(rows, key):
    """The median of a figure over the rounds that have it."""
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def ratio(rows, base, key="tps"):
    """The median of a figure's ratio within a round."""
    values = [row[key] / other[key] for row, other in zip(rows, base)
              if row.get(key) and other.get(key)]
    return statistics.median(values) if values else None


def show(value, digits=0):
    """A number for the table; nothing where there is none."""
    return "" if value is None else f"{value:,.{digits}f}".replace(",", " ")


def table(results):
    """The markdown table."""
    lines = ["| workload | target | tps | × direct | p50 ms | p99 ms | proxy CPU µs | "
             "servers' CPU µs | errors |", "|---|---|--:|--:|--:|--:|--:|--:|--:|"]
    for name, by_target in results.items():
        if name in (ROUND_TRIP, UNFLUSHED):
            continue
        base = next(iter(by_target.values()))
        for target, rows in by_target.items():
            proxy = "" if "direct" in target else show(median(rows, "proxy_cpu_us"))
            lines.append(
                f"| {name} | {target} | {show(median(rows, 'tps'))} | {show(ratio(rows, base), 2)}"
                f" | {show(median(rows, 'p50_ms'), 2)} | {show(median(rows, 'p99_ms'), 2)}"
                f" | {proxy} | {show(median(rows, 'servers_cpu_us'))}"
                f" | {sum(row['errors'] for row in rows)} |")
            name = ""
    return lines


def conclusions(results):
    """lockstep against each peer, and its latency against what a round trip and a flush cost."""
    lines = []
    for name, by_target in results.items():
        for own, peer in (("lockstep", "pgbouncer"), (labs.ONE_READER, "pgbouncer"),
                          ("lockstep", "pgpool")):
            mine, theirs = by_target.get(own), by_target.get(peer)
            faster = ratio(mine, theirs) if mine and theirs else None
            if faster:
                cpu = ratio(mine, theirs, "proxy_cpu_us")
                lines.append(f"- {name}: {own} has {faster:.2f} × the throughput of {peer}, "
                             f"{show(cpu, 2)} × its CPU")
    return lines + added(results)


def added(results):
    """What lockstep adds to an insert of one client, beside the round trips and the flush that it needs.
    Two of the three trips, and the flush, are to three servers at once."""
    single = results.get("insert, prepared, 1 client", {})
    if "lockstep" not in single or ROUND_TRIP not in results:
        return []
    plain, through = (median(single[t], "p50_ms") for t in ("direct", "lockstep"))
    line = (f"- added by lockstep to an autocommit insert of one client: {through - plain:.2f} ms; ")
    for target, place in (("direct", "one server"), ("direct to 3", "three servers at once")):
        trip, bare = (median(results[extra][target], "p50_ms") for extra in (ROUND_TRIP, UNFLUSHED))
        flush = median(single[target], "p50_ms") - bare
        line += (f"three round trips of {trip:.3f} ms and a flush of {flush:.2f} ms, on {place}: "
                 f"{3 * trip + flush:.2f} ms; ")
    return [line.rstrip("; ")]


def memory_table(rows):
    """Memory with idle clients, as markdown."""
    lines = ["| idle clients | " + " | ".join(f"{name}, RSS / PSS MiB" for name in rows) + " |",
             "|--:|" + "--:|" * len(rows)]
    for count in IDLE:
        cells = [f"{by[count]['rss']:.1f} / {by[count]['pss']:.1f}" if count in by else "failed"
                 for by in rows.values()]
        lines.append(f"| {count} | " + " | ".join(cells) + " |")
    return lines


def environment(lab, binary, rounds, seconds):
    """What was measured, with what, and on what."""
    with open("/proc/mounts", encoding="utf-8") as file:
        mounts = [line.split()[1:3] for line in file]
    kind = max((m for m in mounts if lab.folder.startswith(m[0])), key=lambda m: len(m[0]))[1]
    said = [version(binary), *(version(program(name)) for name in
            ("postgres", "pgbouncer", "pgpool") if program(name))]
    return {
        "versions": said, "cores": len(os.sched_getaffinity(0)), "kernel": platform.release(),
        "filesystem": kind, "rounds": rounds, "seconds": seconds,
        "load_before": os.getloadavg()[0],
    }


def start_targets(lab, binary):
    """Every target that is installed, in the order of their turns."""
    lab.start_servers(["bench_direct", "bench_lockstep", "bench_pgpool"])
    targets = [Target("direct", lab.ports[:1], "bench_direct", [0]),
               *lab.start_lockstep(binary, "bench_lockstep")]
    for peer, start, database in (("pgbouncer", lab.start_pgbouncer, "bench_direct"),
                                  ("pgpool", lab.start_pgpool, "bench_pgpool")):
        if program(peer):
            targets.append(start(database))
        else:
            say(f"{peer} is not installed and is left out")
    # The ceiling of whoever writes everything three times on this machine.
    targets.append(Target("direct to 3", lab.ports, "bench_direct", [0, 1, 2]))
    return targets


def compare(options, binary):
    """Sets up, measures, prints; whatever happens, nothing is left running."""
    lab = Lab()
    try:
        about = environment(lab, binary, options.rounds, options.seconds)
        say("setting up three servers with identical data")
        targets = start_targets(lab, binary)
        memories = {t.name: idle_memory(t) for t in targets if t.name in ("lockstep", "pgbouncer")}
        results = measure(lab, targets, options.rounds, options.seconds, options.only)
        agree = {}
        for target in targets:
            if target.name in ("lockstep", "pgpool"):
                digests = lab.digests(target)
                agree[target.name] = len(set(digests)) == 1
                if not agree[target.name]:
                    say("\n".join([f"{target.name}: the servers differ", *digests]))
    finally:
        # A second Ctrl-C must not stop the cleaning.
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        lab.close()
    word = {True: "agree", False: "DIFFER"}
    print("\n".join([
        f"{', '.join(about['versions'])}. {about['cores']} cores, shared by servers, proxies and "
        f"pgbench; Linux {about['kernel']}, {about['filesystem']}, flushes on. "
        f"{about['rounds']} × {about['seconds']} s each, medians.", "", *table(results), "",
        *conclusions(results), "", *memory_table(memories), "",
        *(f"- content of {name}'s three servers afterwards: {word[same]}"
          for name, same in agree.items())]))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"environment": about, "results": results, "memory": memories,
                       "agree": agree}, file, indent=1)
    return 0 if agree["lockstep"] else 1


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="one round of 3 s")
    parser.add_argument("--rounds", type=int, help="rounds of each workload [3]")
    parser.add_argument("--seconds", type=int, help="length of a round [8]")
    parser.add_argument("--only", default="", metavar="REGEX", help="workloads by name")
    parser.add_argument("--json", metavar="FILE", help="every round's figures, too")
    options = parser.parse_args()
    options.rounds = options.rounds or (1 if options.quick else 3)
    options.seconds = options.seconds or (3 if options.quick else 8)
    binary = os.environ.get("LOCKSTEP_BIN") or f"{labs.ROOT}/target/release/lockstep"
    for name in (binary, *filter(None, map(program, ("initdb", "postgres", "psql", "pgbench")))):
        if not os.access(name, os.X_OK):
            raise Failure(f"{name} is missing; `make build` makes lockstep")
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.default_int_handler)
    most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return compare(options, binary)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Failure as failure:
        sys.exit(f"compare.py: {failure}")
    except KeyboardInterrupt:
        sys.exit("compare.py: interrupted; everything is stopped and removed")
