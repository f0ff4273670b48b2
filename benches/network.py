#!/usr/bin/env python3
"""What a write of one client costs where the databases are on other machines.

    make latency                          about two minutes
    make latency ARGS='--trips 1 10'      round trips of 1 ms and 10 ms

Between lockstep and each of three servers stands a relay that holds every piece back for half a round trip, and the
direct client goes by way of one of them, too. The unit is the round trip as it is measured, not as it was asked for.
On one machine without relays the servers share its processors, and what is measured is mostly their work.
"""

import argparse
import collections
import os
import signal
import socket
import statistics
import sys
import threading
import time

import compare
import lab as labs
from lab import Failure, Lab, Target, say

INSERT = ["-f", "insert.sql", "-M", "prepared"]
ASK = ["-f", "one.sql", "-M", "prepared"]


class Relay:
    """Carries bytes to a port and back, each piece later by the same time."""

    def __init__(self, target):
        self.target = target
        self.delay = 0.0
        self.door = socket.create_server(("127.0.0.1", 0))
        self.port = self.door.getsockname()[1]
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        """Takes connections for as long as the program runs."""
        while True:
            near, _ = self.door.accept()
            far = socket.create_connection(("127.0.0.1", self.target))
            for one, other in ((near, far), (far, near)):
                one.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
                self.carry(one, other)

    def carry(self, source, sink):
        """One direction: what is read is due a delay later, and nothing waits for what is on its way."""
        pieces, ready = collections.deque(), threading.Semaphore(0)

        def read():
            piece = b"-"
            while piece:
                try:
                    piece = source.recv(65536)
                except OSError:
                    piece = b""
                pieces.append((time.monotonic() + self.delay, piece))
                ready.release()

        def write():
            while True:
                ready.acquire()
                due, piece = pieces.popleft()
                time.sleep(max(0.0, due - time.monotonic()))
                try:
                    if not piece:
                        sink.shutdown(socket.SHUT_WR)
                        return
                    sink.sendall(piece)
                except OSError:
                    return

        for work in (read, write):
            threading.Thread(target=work, daemon=True).start()


def p50(lab, target, arguments, options, options_of_server=""):
    """The median latency over the rounds, in ms."""
    rounds = [compare.load(lab, target, arguments, 1, options.seconds, options_of_server)
              for _ in range(options.rounds)]
    for row in rounds:
        if row["errors"] or row["p50_ms"] is None:
            raise Failure(f"{target.name}: {row['said'] or 'nothing was measured'}")
    return statistics.median(row["p50_ms"] for row in rounds)


def rows(lab, relays, targets, options):
    """One row of the table for each round trip that was asked for."""
    direct, through = targets
    for trip in options.trips:
        for relay in relays:
            relay.delay = trip / 2000
        # Connections that were opened with another delay are no hindrance; plans and caches come first.
        compare.load(lab, through, INSERT, 1, 1)
        measured = p50(lab, direct, ASK, options)
        plain = p50(lab, direct, INSERT, options)
        flush = max(0.0, plain - p50(lab, direct, INSERT, options, "-c synchronous_commit=off"))
        own = p50(lab, through, INSERT, options)
        added, most = own - plain, 3 * measured + flush
        say(f"{trip} ms: added {added:.2f} ms")
        yield (f"| {trip:g} | {measured:.2f} | {flush:.2f} | {plain:.2f} | {own:.2f} | {added:.2f} "
               f"| {added / measured:.2f} | {most:.2f} |")


def run(options, binary):
    """Sets up, measures, prints; whatever happens, nothing is left running."""
    lab = Lab()
    try:
        lab.start_servers(["bench_direct", "bench_lockstep"])
        servers, relays = lab.ports, [Relay(port) for port in lab.ports]
        lab.ports = [relay.port for relay in relays]
        through = lab.start_lockstep(binary, "bench_lockstep")[0]
        direct = Target("direct", lab.ports[:1], "bench_direct", [0])
        lines = list(rows(lab, relays, (direct, through), options))
        lab.ports = servers
        same = len(set(lab.digests(through))) == 1
    finally:
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_IGN)
        lab.close()
    print("\n".join([
        "| round trip asked for, ms | measured | flush | direct | lockstep | added | in round trips | three and a flush |",
        "|--:|--:|--:|--:|--:|--:|--:|--:|", *lines, "",
        f"- autocommit INSERT of one client, medians of {options.rounds} × {options.seconds} s; the three servers "
        f"{'agree' if same else 'DIFFER'} afterwards"]))
    return 0 if same else 1


def main():
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__,
                                     formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trips", type=float, nargs="+", default=[1, 2, 5], metavar="MS")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--seconds", type=int, default=4)
    options = parser.parse_args()
    binary = os.environ.get("LOCKSTEP_BIN") or f"{labs.ROOT}/target/release/lockstep"
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    try:
        return run(options, binary)
    except Failure as failure:
        say(str(failure))
        return 1


if __name__ == "__main__":
    sys.exit(main())
