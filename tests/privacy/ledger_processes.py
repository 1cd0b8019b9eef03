"""Processes that release from one ledger and die; run by test_ledger.py, away from its threads.

Usage: python ledger_processes.py MODE LEDGER. Prints one line of JSON.
"""

import functools
import hashlib
import json
import os
import random
import resource
import signal
import sys
import time

import numpy as np

from identitydp_jax.checks import UserError
from identitydp_jax.privacy.accounting import Budget, PureLoss
from identitydp_jax.privacy.ledger import Charge, Ledger, read

KEY = bytes(range(32))


def charge(policy="policy"):
    return Charge(policy, "laplace", "certified-l2", 1.0, PureLoss(1.0), "sha256:0")


def draw(places):
    """Codes that nobody can draw twice."""
    return np.frombuffer(os.urandom(len(places) * 2048), np.int32).reshape(len(places), 512)


def drawn_again(places):
    raise AssertionError(f"{len(places)} codes were not remembered")


def acknowledge(pipe, subject, release):
    digest = hashlib.sha256(release.code.tobytes()).hexdigest()
    os.write(pipe, json.dumps([subject, release.number, digest]).encode() + b"\n")


def fork(work):
    """Run `work(pipe)` in a child; return its process and the other end."""
    reading, writing = os.pipe()
    process = os.fork()
    if process:
        os.close(writing)
        return process, reading
    try:
        os.close(reading)
        work(writing)
        os._exit(0)
    except BaseException as error:
        print(repr(error), file=sys.stderr, flush=True)
        os._exit(1)


def collect(process, pipe):
    """Wait for a child; return its status and the releases that it had in hand."""
    with open(pipe, "rb") as file:
        lines = file.read().split(b"\n")[:-1]
    return os.waitpid(process, 0)[1], [tuple(json.loads(line)) for line in lines]


def check(path, acknowledged):
    """Every release that somebody had in hand is charged, and remembered as it was."""
    read(path, key=KEY)
    with Ledger(path, KEY) as ledger:
        for subject, number, digest in acknowledged:
            (release,) = ledger.release([subject], charge(), drawn_again)
            assert release.number == number
            assert hashlib.sha256(release.code.tobytes()).hexdigest() == digest


def release_forever(path, pipe):
    with Ledger(path, KEY) as ledger:
        while True:
            subjects = [f"person {random.randrange(10**6)}" for _ in range(random.randrange(1, 4))]
            for subject, release in zip(
                subjects, ledger.release(subjects, charge(), draw), strict=True
            ):
                acknowledge(pipe, subject, release)


def kill(path, rounds=25):
    """SIGKILL two processes at a time, at any moment from before there is a ledger."""
    total, longest = 0, 0.12
    for _ in range(rounds):
        children = [fork(lambda pipe: release_forever(path, pipe)) for _ in range(2)]
        time.sleep(random.uniform(0, longest))
        for process, _ in children:
            os.kill(process, signal.SIGKILL)
        done = [release for child in children for release in collect(*child)[1]]
        if os.path.exists(path):
            check(path, done)
        assert os.path.exists(path) or not done
        total += len(done)
        longest *= 1.0 if done else 1.3  # a machine with much else to do takes longer
    return {"acknowledged": total, "entries": len(read(path, key=KEY))}


def limit(path, handler):
    """Let no file grow, nor be written, beyond every byte in turn; the kernel enforces it."""

    def work(size, pipe):
        resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
        signal.signal(signal.SIGXFSZ, handler)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            with Ledger(path, KEY) as ledger:
                for number in range(3):
                    subject = f"{size} {number}"
                    acknowledge(pipe, subject, *ledger.release([subject], charge(), draw))
        except UserError as error:
            assert "check the file" in str(error) or "File too large" in str(error), error
            os._exit(3)

    with Ledger(path, KEY) as ledger:
        ledger.release(["before"], charge(), draw)
    statuses, acknowledged = [], 0
    for size in range(0, 33_000, 641):
        entries = read(path, key=KEY)
        status, done = collect(*fork(functools.partial(work, size)))
        check(path, done)
        assert read(path, key=KEY)[: len(entries)] == entries
        statuses.append(status)
        acknowledged += len(done)
        if len(entries) > 4:  # keep it as small as the limits
            os.unlink(path)
            with Ledger(path, KEY) as ledger:
                ledger.release(["before"], charge(), draw)
    return {"statuses": statuses, "acknowledged": acknowledged}


def race(path):
    """Four processes want codes of the same people, and the last of everybody's budget."""

    def work(pipe):
        with Ledger(path, KEY, budget=Budget(epsilon=2.0)) as ledger:
            for number in random.sample(range(12), 12):
                subject = f"person {number}"
                acknowledge(pipe, subject, *ledger.release([subject], charge(), draw))
            for number in random.sample(range(12), 12):
                subject, own = f"person {number}", charge(f"policy of {os.getpid()}")
                try:
                    acknowledge(pipe, f"own {number}", *ledger.release([subject], own, draw))
                except UserError as error:
                    assert "epsilon would be 3, above 2" in str(error)

    results = [collect(*child) for child in [fork(work) for _ in range(4)]]
    check(path, [done for _, all_done in results for done in all_done if "own" not in done[0]])
    return {
        "statuses": [status for status, _ in results],
        "shared": len(
            {done for _, all_done in results for done in all_done if "own" not in done[0]}
        ),
        "own": sorted(done[0] for _, all_done in results for done in all_done if "own" in done[0]),
        "entries": len(read(path, key=KEY)),
    }


MODES = {
    "kill": kill,
    "cut": lambda path: limit(path, signal.SIG_DFL),
    "full": lambda path: limit(path, signal.SIG_IGN),
    "race": race,
}

if __name__ == "__main__":
    print(json.dumps(MODES[sys.argv[1]](sys.argv[2])))
