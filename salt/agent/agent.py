"""
The agent: JSON lines over one exec's stdin and stdout (src/host/protocol.ts). Requests run one
after the other in the main thread; a second thread reads stdin, so that `cancel`, the end of stdin
and signals reach an apply that is under way. After the end of stdin nothing new starts; what runs
is undone, then we exit.
"""

import json
import os
import pwd
import queue
import select
import signal
import sys
import threading

import common
import machine
from common import Failure, Stop

PROTOCOL = 1
MAX_LINE = 16 * 1024 * 1024


# What each request but `snapshot` and `apply` must hold.
OPS = {
    "apply": {},
    "reboot": {"id": str, "holder": str},
    "resume": {"id": str, "holder": str, "start": (str, type(None)), "verify": list},
    "confirm": {"id": str, "holder": str, "snapshot": dict},
    "abort": {"id": str, "why": str},
    "release": {"id": str},
    "check": {"verify": list},
}


class Session:
    def __init__(self, digest, bundle, rest):
        self.digest, self.bundle, self.rest = digest, bundle, rest
        self.requests = queue.SimpleQueue()
        self.stops = {}  # id → Stop, of requests that wait or run
        self.confirming = set()  # ids of requests
        self.guard = threading.Lock()  # over `stops`
        self.output = threading.Lock()
        self.since = machine.here.boottime()
        self.trial = None  # the trial that is undone when our controller goes away
        self.restart = False

    # -- writing

    def send(self, message):
        """One line. A controller that is gone is no error here: the reading side notices it."""
        line = json.dumps(message).encode() + b"\n"
        if len(line) > MAX_LINE:
            text = "the answer has %d bytes, more than a line may have" % len(line)
            line = (
                json.dumps(
                    {"id": message["id"], "error": {"code": "internal", "message": text}}
                ).encode()
                + b"\n"
            )
        with self.output:
            try:
                while line:
                    line = line[os.write(1, line) :]
            except OSError:
                pass

    # -- reading, in its own thread

    def read(self, wake):
        data = bytearray(self.rest)
        while True:
            while b"\n" in data:
                line, _, data = data.partition(b"\n")
                self.accept(line)
            if len(data) > MAX_LINE or wake in select.select([0, wake], [], [])[0]:
                break
            chunk = os.read(0, 1 << 16)
            if not chunk:
                break
            data += chunk
        with self.guard:
            for number, stop in self.stops.items():
                # To have come with it was the point: a confirmation is carried out to its end.
                if number not in self.confirming:
                    stop.set()
        self.requests.put(None)

    def accept(self, line):
        request = None
        try:
            request = json.loads(line)
            number, op, args = request["id"], request["op"], request.get("args", {})
            if not isinstance(number, int) or not isinstance(args, dict):
                raise TypeError("id must be a number, args an object")
        except (ValueError, KeyError, TypeError) as error:
            number = request.get("id") if isinstance(request, dict) else None
            failure = Failure("bad-request", "not a request: %s" % error)
            self.send({"id": number if isinstance(number, int) else 0, "error": failure.body()})
            return
        with self.guard:
            if op == "cancel":
                stop = self.stops.get(args.get("id"))
                if stop:
                    stop.set()
            else:
                stop = self.stops[number] = Stop()
                if op == "confirm":
                    self.confirming.add(number)
        if op == "cancel":
            self.send({"id": number, "ok": {"cancelled": stop is not None}})
        else:
            self.requests.put((number, op, args, stop))

    # -- working, in the main thread

    def work(self):
        while True:
            request = self.requests.get()
            if request is None:
                return
            number, op, args, stop = request
            self.restart = False
            try:
                stop.check()
                reply = {"ok": self.answer(number, op, args, stop)}
            except Failure as failure:
                reply = {"error": failure.body()}
                self.restart = bool(failure.more.get("rebooting"))
            except Exception as error:
                reply = {"error": unexpected(error).body()}
            with self.guard:
                if self.stops.get(number) is stop:
                    del self.stops[number]
                stop.close()
            self.send(dict(reply, id=number))
            if self.restart:
                machine.here.reboot()

    def end(self):
        """Whoever is gone cannot confirm."""
        if self.trial:
            import apply

            apply.abandon(self.trial)

    def answer(self, number, op, args, stop):
        def emit(stage, text):
            self.send({"id": number, "event": {"stage": stage, "text": common.clean(text, 500)}})

        if op == "snapshot":
            import snapshot  # what a request does not need is not even compiled

            for part in ("packages", "usb"):
                names = args.get(part, [] if part == "usb" else None)
                if not isinstance(names, list) or not all(isinstance(n, str) for n in names):
                    raise Failure("bad-request", "snapshot: %s must be a list of names" % part)
            check_user()
            return snapshot.snapshot(args)
        if op in OPS:
            import apply

            for name, kind in OPS[op].items():
                if not isinstance(args.get(name), kind):
                    raise Failure("bad-request", "%s: %s is missing or wrong" % (op, name))
            if op == "confirm":
                return apply.confirm(args, emit, stop, self.since, self.digest, self.bundle)
            if op == "apply":
                result = apply.apply(args, emit, stop, self.bundle)
                self.trial = result["id"]
                return result
            if op == "release":
                self.trial = None
                return {}
            result = getattr(apply, op)(args, emit, stop)
            if op in ("abort", "reboot"):
                self.trial = None
            self.restart = op == "reboot" or op == "abort" and result["rebooting"]
            return result
        raise Failure("bad-request", "unknown operation: %s" % common.clean(str(op), 100))


def check_user():
    import domains

    if os.geteuid() != 0 and domains.platform() != "none":
        raise Failure("unsupported-user", "reading a host needs root in dom0, not %s" % user())


def unexpected(error):
    import domains

    if isinstance(error, domains.AdminError):
        return Failure("admin-api", str(error))
    where = error.__traceback__
    while where.tb_next:
        where = where.tb_next
    place = "%s line %d" % (where.tb_frame.f_code.co_filename, where.tb_lineno)
    return Failure("internal", "%s: %s (%s)" % (type(error).__name__, error, place))


def user():
    try:
        return pwd.getpwuid(os.geteuid()).pw_name
    except KeyError:
        return str(os.geteuid())


def main(digest, bundle, rest):
    wake, ring = os.pipe()
    os.set_blocking(ring, False)
    signal.set_wakeup_fd(ring)
    # Signals end the session as the end of stdin does; they never end an undo.
    for number in (signal.SIGHUP, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    os.umask(0o022)
    # A login without a shell may come without the sbin folders.
    os.environ["PATH"] = os.environ.get("PATH", "") + ":/usr/sbin:/usr/bin:/sbin:/bin"
    session = Session(digest, bundle, rest)
    session.send(
        {
            "agent": digest,
            "protocol": PROTOCOL,
            "python": "%d.%d.%d" % sys.version_info[:3],
            "user": user(),
        }
    )
    threading.Thread(target=session.read, args=(wake,), daemon=True).start()
    session.work()
    session.end()
    os._exit(0)  # a call to qubesd that a cancelled apply gave up may still wait in its thread
