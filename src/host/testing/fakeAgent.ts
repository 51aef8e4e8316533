/** An agent for protocol tests: the real loader, and behind it a Python program that misbehaves on request. */
import { readFileSync } from "node:fs";
import { type Bundle, bundleOf } from "../bundle.ts";
import type { Applied } from "../session.ts";

const SOURCE = `
import json, os, signal, sys, threading, time

output = threading.Lock()

def send(message):
    with output:
        os.write(1, json.dumps(message).encode() + b"\\n")

def empty(count, packages):
    return {
        "facts": {"qubesRelease": None, "kernel": "6", "bootId": "b", "cmdline": "", "now": count, "freeBytes": 1,
                  "xen": {"version": "4", "virtCaps": [], "totalMemory": 1, "freeMemory": 1, "iommu": None,
                          "interruptRemapping": None}, "pci": [],
                  "boot": {"oneShot": None, "oneShotWhy": "", "unattended": None, "unattendedWhy": "", "hidePaths": None,
                           "args": [], "watchdog": None, "rescue": False},
                  "firmware": {"vendor": None, "product": None, "bios": None}, "cpu": None, "keyboards": None,
                  "lightdm": None},
        "qubes": {}, "globals": {}, "labels": [], "files": {}, "packages": {name: None for name in packages},
        "ledger": {}, "lock": None, "unfinished": None, "trial": None, "outcome": None, "watch": None}

count = 0
cancelled = set()
wake = threading.Condition()

def answer(number, op, args):
    global count
    behaviour = args.get("sls", op)
    if behaviour == "echo":
        send({"id": number, "ok": args})
    elif behaviour == "snapshot":
        count += 1
        time.sleep(0.05)
        send({"id": number, "ok": empty(count, args["packages"])})
    elif behaviour == "good":
        send({"id": number, "event": {"stage": "salt", "text": "\\u001b[1m1 state\\u001b[0m " + args["holder"]}})
        time.sleep(0.05)
        send({"id": number, "ok": {"phase": "verified", "id": "trial-1", "states": [], "evidence": [], "restarted": [],
                                   "watchdog": None}})
    elif behaviour == "confirm":
        count += 1
        send({"id": number, "ok": {"states": [], "evidence": [], "restarted": [], "left": {},
                                   "snapshot": empty(count, args["snapshot"]["packages"])}})
    elif behaviour == "release":
        send({"id": number, "ok": {}})
    elif behaviour == "abort":
        send({"id": number, "ok": {"changed": [], "undone": [], "left": {}, "rebooting": False}})
    elif behaviour == "bad":
        send({"id": number, "error": {"code": "salt-failed", "message": "no\\u0007: " + args["holder"],
                                      "changed": ["a"], "undone": ["a"]}})
    elif behaviour == "long":
        send({"id": number, "event": {"stage": "salt", "text": "at work"}})
        with wake:
            wake.wait_for(lambda: number in cancelled)
        send({"id": number, "error": {"code": "cancelled", "message": "cancelled", "changed": [], "undone": []}})
    elif behaviour == "die":
        send({"id": number, "event": {"stage": "salt", "text": "2 of 5"}})
        sys.stderr.write("\\u001b[31mtraceback: %s\\n" % args.get("holder"))
        sys.stderr.flush()
        os._exit(3)
    elif behaviour == "killed":
        send({"id": number, "event": {"stage": "salt", "text": "2 of 5"}})
        os.kill(os.getpid(), signal.SIGKILL)
    elif behaviour == "big":
        send({"id": number, "ok": "x" * args["size"]})
    elif behaviour == "endless":
        try:
            while True:
                os.write(1, b"x" * 65536)
        except OSError:
            os._exit(0)
    elif behaviour == "text":
        os.write(1, b"Welcome!\\n")
    elif behaviour == "stranger":
        send({"id": 99, "ok": None})
    elif behaviour == "wrong":
        send({"id": number, "ok": {"facts": "none"}})
    elif behaviour == "twice":
        with output:
            os.write(1, b"".join(json.dumps(m).encode() + b"\\n" for m in (
                {"id": number, "event": {"stage": "a", "text": "1"}}, {"id": number, "event": {"stage": "b", "text": "2"}},
                {"id": number, "ok": 1})))
    else:
        send({"id": number, "error": {"code": "bad-request", "message": "unknown operation"}})

def main(digest, bundle, rest):
    send({"agent": digest, "protocol": 1, "python": "3", "user": "root"})
    for line in sys.stdin.buffer:
        request = json.loads(line)
        if request["op"] == "cancel":
            with wake:
                cancelled.add(request["args"]["id"])
                wake.notify_all()
            send({"id": request["id"], "ok": None})
        else:
            threading.Thread(target=answer, args=(request["id"], request["op"], request["args"]), daemon=True).start()
    os._exit(0)
`;

const loader = readFileSync(new URL("../../../salt/agent/loader.py", import.meta.url), "utf8");

export const fakeAgent: Bundle = bundleOf(loader, { agent: SOURCE });

/** An agent whose source is this. */
export const agentOf = (source: string): Bundle => bundleOf(loader, { agent: source });

/** An apply that the fake agent answers as `behaviour` says. */
export function applyArgs(behaviour: string, over: Partial<Applied> = {}): Applied {
  return {
    holder: "test",
    wait: 0,
    owner: "urn",
    touch: [],
    release: [],
    shutdown: [],
    formula: {},
    sls: behaviour,
    modules: {},
    verify: [],
    restart: [],
    ...over,
  };
}
