"""The checks on the running result (Verification of src/host/protocol.ts); each one leaves
evidence."""

import threading
import time

import common
import domains as admin
from common import Failure

PAUSE = 1  # seconds


def verify(checks, run, emit, stop):
    """Runs all checks and returns their evidence; Failure verify-failed when one did not pass."""
    evidence, dead = [], set()
    for check in checks:
        stop.check()
        emit("verify", check["id"])
        begun = time.monotonic()
        if check["kind"] == "start":
            ok, output = start(check["qube"], check["timeout"], stop)
            if not ok:
                dead.add(check["qube"])
        elif check["kind"] == "guest" and check["qube"] in dead:
            ok, output = False, "not run: %s did not start" % check["qube"]
        else:
            argv = check.get("argv") or [
                "qvm-run",
                "-p",
                "--no-gui",
                "-u",
                "root",
                check["qube"],
                check["command"],
            ]
            ok, output = _command(argv, check["timeout"], run, stop)
            # What comes by itself a moment later is waited for, where the check says so; not after
            # something has failed that it rests on.
            waits = check.get("until") and all(entry["ok"] for entry in evidence)
            while not ok and waits and time.monotonic() - begun < check["timeout"] - PAUSE:
                time.sleep(PAUSE)
                left = max(PAUSE, check["timeout"] - (time.monotonic() - begun))
                ok, output = _command(argv, left, run, stop)
        seconds = round(time.monotonic() - begun, 3)
        evidence.append(
            {"id": check["id"], "ok": ok, "seconds": seconds, "output": common.clean(output)}
        )
    failed = [entry for entry in evidence if not entry["ok"]]
    if failed:
        text = "; ".join(
            "%s: %s" % (e["id"], e["output"].splitlines()[-1] if e["output"] else "no output")
            for e in failed
        )
        raise Failure("verify-failed", "the result does not work: %s" % text, evidence=evidence)
    return evidence


def start(qube, timeout, stop, tick=lambda seconds: None):
    """Starts a qube if need be and waits until its agent answers. (ok, what was seen). `tick(seconds)` is
    called about every 5 s."""
    begun, problem, ticks = time.monotonic(), [], 0

    def call():
        try:
            admin.start(qube, timeout)
        except admin.AdminError as error:
            problem.append(error.message)

    # In a thread: qubesd answers only when the qube is up, and a cancelled apply does not wait for
    # that.
    thread = threading.Thread(target=call, daemon=True)
    thread.start()
    while True:
        thread.join(0.02)
        stop.check()
        seconds = time.monotonic() - begun
        if seconds // 5 > ticks:
            ticks = seconds // 5
            tick(seconds)
        if problem:
            return False, "%s does not start: %s" % (qube, problem[0])
        if not thread.is_alive() and admin.power_state(qube) == "Running":
            return True, "%s is running" % qube
        if seconds > timeout:
            return False, "%s is %s after %d s" % (qube, admin.power_state(qube), timeout)


def _command(argv, timeout, run, stop):
    ended = run(argv, timeout, stop=stop)
    stop.check()
    output = common.clean(ended.out + b"\n" + ended.err)
    if ended.why == "timeout":
        return False, (output + "\nno end within %g s" % timeout).strip()
    return ended.code == 0, output if ended.code == 0 else (
        output + "\nexit %d" % ended.code
    ).strip()
