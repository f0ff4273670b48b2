#!/usr/bin/env python3
"""lockstep beside a plain pass-through in front of MariaDB, in one run: direct, lockstep, HAProxy.

    make mysqlbench                       the whole comparison, about ten minutes
    make mysqlbench ARGS=--quick          one short round: does it work at all
    make mysqlbench ARGS='--only point_select --json result.json'

It needs MariaDB and sysbench; HAProxy takes part where it is installed. Servers and lockstep are
those of `lockstep demo --mysql`, with flushes on. The table goes to stdout as markdown, progress to
stderr. LOCKSTEP_BIN names another binary than target/release/lockstep.

The targets take turns (A B C, A B C, …), since a machine's speed changes from minute to minute:
trust the ratios before the rates. `direct` and HAProxy have a database of their own on the first of
the same servers, with the same data; `direct to 3` is three of them at once, one on each server.
"""

import argparse
import json
import os
import platform
import re
import signal
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.parse

from lab import ROOT, TICK, Failure, program, say, version

TABLES, ROWS = 4, 10000
BUFFER_POOL = 256 << 20  # bytes, for each server: all data of all targets, and the journal
WORKLOADS = [(script, threads) for script in ("point_select", "read_write", "write_only")
             for threads in (1, 8, 32)]
WRITES = ("read_write", "write_only")
HAPROXY = """
global
    nbthread {threads}
    maxconn 500
defaults
    mode tcp
    timeout connect 5s
    timeout client 1h
    timeout server 1h
listen mysql
    bind 127.0.0.1:{port}
    server one 127.0.0.1:{server}
"""


class Target:
    """What sysbench can be run against; several addresses are loaded at the same time."""

    def __init__(self, name, ports, database, user, password, pid=None):
        self.name, self.ports, self.pid = name, ports, pid
        self.database, self.user, self.password = database, user, password

    def sysbench(self, port, script, threads, seconds, action):
        """The command line for one address."""
        return [program("sysbench"), f"oltp_{script}", "--mysql-host=127.0.0.1",
                f"--mysql-port={port}", f"--mysql-user={self.user}",
                f"--mysql-password={self.password}", f"--mysql-db={self.database}",
                f"--tables={TABLES}", f"--table-size={ROWS}", f"--threads={threads}",
                f"--time={seconds}", "--percentile=99", "--rand-type=uniform",
                # A deadlock is run again, as applications do.
                "--mysql-ignore-errors=1213,1205,1020", action]


class Lab:
    """The demo's servers, what stands in front of them, and their end."""

    def __init__(self, binary):
        self.children = []
        self.folder = tempfile.TemporaryDirectory(prefix="lockstep-bench-")
        log = open(f"{self.folder.name}/log", "w", encoding="utf-8")
        demo = self.start([binary, "demo", "--mysql", "--json"], stdout=subprocess.PIPE,
                          stderr=log, text=True)
        line = demo.stdout.readline()
        if not line:
            raise Failure(f"the demo did not start; see {log.name}")
        told = json.loads(line)
        self.proxy_pid = demo.pid
        self.proxy = urllib.parse.urlparse(told["url"])
        self.servers = [urllib.parse.urlparse(backend["url"]) for backend in told["backends"]]
        self.pids = [backend["pid"] for backend in told["backends"]]

    def start(self, command, **how):
        """A child that ends with this process, whatever ends that."""
        child = subprocess.Popen(["setpriv", "--pdeathsig", "INT", *command], **how)
        self.children.append(child)
        return child

    def close(self):
        for child in reversed(self.children):
            child.send_signal(signal.SIGINT)
            try:
                child.wait(timeout=30)
            except subprocess.TimeoutExpired:
                child.kill()
                child.wait()
        self.folder.cleanup()

    def sql(self, server, text, *options):
        """Runs statements as a server's administrator."""
        return subprocess.run(
            [program("mariadb"), "--no-defaults", f"-h{server.hostname}", f"-P{server.port}",
             f"-u{server.username}", f"-p{server.password}", "-N", *options],
            input=text, text=True, check=True, capture_output=True).stdout

    def targets(self):
        """Every target, in the order of their turns, with its data."""
        for server in self.servers:
            # The demo's servers are small. Whose pages have to make room would be measured otherwise.
            self.sql(server, f"SET GLOBAL innodb_buffer_pool_size = {BUFFER_POOL}")
            self.sql(server, "CREATE DATABASE direct; CREATE USER direct@'%' IDENTIFIED BY 'x';"
                             "GRANT ALL ON direct.* TO direct@'%'")
        ports = [server.port for server in self.servers]
        several = Target("direct to 3", ports, "direct", "direct", "x")
        proxy = self.proxy
        through = Target("lockstep", [proxy.port], "app", proxy.username, proxy.password,
                         self.proxy_pid)
        found = [Target("direct", ports[:1], "direct", "direct", "x"), through]
        for target in (several, through):
            for port in target.ports:
                run_to_end(target.sysbench(port, "read_write", 1, 0, "prepare"))
        if program("haproxy"):
            found.append(self.haproxy(ports[0]))
        else:
            say("haproxy is not installed and is left out")
        return [*found, several]

    def haproxy(self, server):
        port = free_port()
        path = f"{self.folder.name}/haproxy.cfg"
        with open(path, "w", encoding="utf-8") as file:
            file.write(HAPROXY.format(port=port, server=server,
                                      threads=len(os.sched_getaffinity(0))))
        child = self.start([program("haproxy"), "-q", "-db", "-f", path])
        return Target("haproxy", [port], "direct", "direct", "x", child.pid)

    def agree(self):
        """Whether lockstep's servers hold the same rows."""
        ask = "".join(f"SELECT COUNT(*) FROM app.sbtest{n}; CHECKSUM TABLE app.sbtest{n};"
                      for n in range(1, TABLES + 1))
        return len({self.sql(server, ask) for server in self.servers}) == 1


def free_port():
    import socket
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def run_to_end(command):
    done = subprocess.run(command, text=True, capture_output=True)
    if done.returncode:
        raise Failure(f"{' '.join(command[:3])} …: {done.stdout[-500:]}{done.stderr[-500:]}")
    return done.stdout


def cpu_seconds(pids):
    """Processor time of processes without their children: the proxy's are the servers."""
    used = 0
    for pid in pids:
        with open(f"/proc/{pid}/stat", encoding="utf-8") as file:
            fields = file.read().rpartition(")")[2].split()
        used += int(fields[11]) + int(fields[12])
    return used / TICK


def load(lab, target, script, threads, seconds):
    """One round of one workload, on all of the target's addresses at once."""
    roots = [[target.pid] if target.pid else [], lab.pids]
    before = [cpu_seconds(pids) for pids in roots]
    children = [subprocess.Popen(target.sysbench(port, script, threads, seconds, "run"), text=True,
                                 stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
                for port in target.ports]
    try:
        outputs = [child.communicate(timeout=seconds + 30)[0] for child in children]
    except subprocess.TimeoutExpired:
        return {"tps": 0.0, "errors": threads, "said": "no end 30 s after its time"}
    finally:
        for child in children:
            child.kill()
            child.wait()
    used = [cpu_seconds(pids) - early for pids, early in zip(roots, before)]
    return judge(outputs, used)


def judge(outputs, used):
    """What sysbench said, in numbers. Of several at once the mean counts: each wrote everything."""
    def mean(pattern):
        found = [re.search(pattern, out) for out in outputs]
        return statistics.mean(float(f.group(1)) if f else 0.0 for f in found)

    queries = mean(r"queries:\s+(\d+)")
    fatal = [line for out in outputs for line in out.splitlines() if "FATAL" in line]
    return {
        "tps": mean(r"transactions:\s+\d+\s+\(([\d.]+)"),
        "avg_ms": mean(r"avg:\s+([\d.]+)"),
        "p99_ms": mean(r"99th percentile:\s+([\d.]+)"),
        "proxy_cpu_us": used[0] / queries * 1e6 if queries and used[0] else None,
        "servers_cpu_us": used[1] / queries * 1e6 if queries else None,
        # A deadlock that was run again is no failure.
        "retries": int(mean(r"ignored errors:\s+(\d+)")),
        "errors": len(fatal),
        "said": fatal[0] if fatal else "",
    }


def measure(lab, targets, options):
    """All workloads, the targets by turns; returns {workload: {target: [round, …]}}."""
    results = {}
    for script, threads in WORKLOADS:
        name = f"{script}, {threads} thread{'s' if threads > 1 else ''}"
        if not re.search(options.only, name):
            continue
        chosen = [t for t in targets if script in WRITES or len(t.ports) == 1]
        rounds = results[name] = {target.name: [] for target in chosen}
        for target in chosen:
            # Connections and caches first: the first target would pay for all of them.
            load(lab, target, script, threads, 1)
        for _ in range(options.rounds):
            for target in chosen:
                result = load(lab, target, script, threads, options.seconds)
                rounds[target.name].append(result)
                say(f"{name:26} {target.name:12} {result['tps']:9.0f} tps "
                    f"{result['errors']} errors {result['said']}")
    return results


def median(rows, key):
    values = [row[key] for row in rows if row.get(key) is not None]
    return statistics.median(values) if values else None


def table(results):
    """All figures, as markdown."""
    lines = ["| workload | target | tps | × direct | avg ms | p99 ms | proxy CPU µs / query | "
             "servers' CPU µs / query | run again | errors |",
             "|---|---|--:|--:|--:|--:|--:|--:|--:|--:|"]
    for name, by_target in results.items():
        base = median(by_target["direct"], "tps")
        for place, (target, rows) in enumerate(by_target.items()):
            def cell(key, digits):
                value = median(rows, key)
                return "" if value is None else f"{value:,.{digits}f}".replace(",", " ")
            ratio = f"{median(rows, 'tps') / base:.2f}" if base else ""
            lines.append(f"| {'' if place else name} | {target} | {cell('tps', 0)} | {ratio} | "
                         f"{cell('avg_ms', 2)} | {cell('p99_ms', 2)} | {cell('proxy_cpu_us', 0)} | "
                         f"{cell('servers_cpu_us', 0)} | {sum(r.get('retries', 0) for r in rows)} | "
                         f"{sum(r['errors'] for r in rows)} |")
    return lines


def conclusions(results):
    """The comparisons that matter, taken within rounds."""
    lines = []
    for name, by_target in results.items():
        for peer, key, what in (("haproxy", "proxy_cpu_us", "CPU per query of HAProxy"),
                                ("haproxy", "tps", "throughput of HAProxy"),
                                ("direct to 3", "tps", "throughput of three clients on 3 servers")):
            if peer not in by_target:
                continue
            pairs = [(mine[key], theirs[key]) for mine, theirs
                     in zip(by_target["lockstep"], by_target[peer])
                     if mine.get(key) and theirs.get(key)]
            if pairs and (key == "tps" or name.startswith("point_select")):
                ratio = statistics.median(mine / theirs for mine, theirs in pairs)
                lines.append(f"- {name}: {ratio:.2f} × the {what}")
    return lines


def compare(options, binary):
    """Sets up, measures, prints; whatever happens, nothing is left running."""
    lab = Lab(binary)
    try:
        say("three servers with identical data")
        results = measure(lab, lab.targets(), options)
        agree = lab.agree()
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        lab.close()
    said = [version(binary), *(version(program(name)) for name in
                               ("mariadbd", "sysbench", "haproxy") if program(name))]
    cores = len(os.sched_getaffinity(0))
    print("\n".join([
        f"{', '.join(said)}. {cores} cores, shared by servers, proxies and sysbench; Linux "
        f"{platform.release()}, flushes on. {options.rounds} × {options.seconds} s each, medians.",
        "", *table(results), "", *conclusions(results), "",
        f"- content of lockstep's three servers afterwards: {'agree' if agree else 'DIFFER'}"]))
    if options.json:
        with open(options.json, "w", encoding="utf-8") as file:
            json.dump({"versions": said, "cores": cores, "rounds": options.rounds,
                       "seconds": options.seconds, "results": results, "agree": agree}, file,
                      indent=1)
    errors = sum(row["errors"] for rows in results.values() for row in rows.get("lockstep", []))
    return 0 if agree and not errors else 1


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=6)
    parser.add_argument("--only", default="", help="workloads whose name matches")
    parser.add_argument("--quick", action="store_true", help="one round of 1 s")
    parser.add_argument("--json", help="all figures, into this file")
    options = parser.parse_args()
    if options.quick:
        options.rounds, options.seconds = 1, 1
    binary = os.environ.get("LOCKSTEP_BIN", f"{ROOT}/target/release/lockstep")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    started = time.monotonic()
    try:
        for needed in ("sysbench", "mariadb", "setpriv"):
            if not program(needed):
                raise Failure(f"{needed} is not installed")
        status = compare(options, binary)
        say(f"took {time.monotonic() - started:.0f} s")
        return status
    except Failure as failure:
        say(str(failure))
        return 1


if __name__ == "__main__":
    sys.exit(main())
