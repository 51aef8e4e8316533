"""Everything that a plan is compared with, in one look (Snapshot of src/host/protocol.ts). Writes
nothing."""

import os
import re
import stat

import common
import facts
import journal
import keys
import ledger
import lock
import packages
import domains as admin
import secret
import volumes

FOLDERS = [
    "/etc/qubes/policy.d",
    "/run/qubes/policy.d",  # hides files of the same name until the next boot
    "/etc/qubes-rpc/policy",  # of Qubes 4.0, counts where a policy says !compat-4.0
    "/usr/share/xsessions",
    "/etc/lightdm/lightdm.conf.d",
    "/etc/systemd/system/lightdm.service.d",
]
OURS = {  # of it only these
    "/etc/qubes-rpc": "guidomain.",
    "/etc/systemd/sleep.conf.d": "50-guidomain",
    "/usr/local/libexec": "guidomain-",
}
INPUT_TARGET = "/etc/qubes/input-proxy-target"
UNITS = "/etc/systemd/system"  # of it only what orders the start of single qubes
TEXT_LIMIT = 256 * 1024  # bytes of one file


def snapshot(args):
    commands = facts.Commands()
    entries = ledger.load()["entries"]
    # Those of the ledger too: a package that nobody asks about any more is still to be taken away.
    names = sorted(
        set(args["packages"]) | {key[8:] for key in entries if key.startswith("package:")}
    )
    asked = packages.start(names)
    host = _qubes() if admin.platform() != "none" else _nothing()
    # USB qubes that a description names, and those of the ledger: so one look is enough for the next.
    backends = set(args.get("usb") or [])
    backends |= {keys.split(key)[2].split(":")[0] for key in entries if key.startswith("usb:")}
    if backends:
        host["usb"] = _usb(host["qubes"], backends)
    available = host.pop("available")
    record, holder, trial = journal.load(), lock.current(), common.read_json(common.TRIAL)
    kept = common.read_json(common.WATCH)
    unfinished = (
        record
        and not holder
        # One that may still be confirmed is no leftover.
        and (trial is None or trial["phase"] in ("applying", "confirmed", "undoing"))
        and {
            "holder": common.clean(record["holder"], 200),
            "since": record["since"],
            "keys": sorted(record["before"]),
        }
    )
    return dict(
        host,
        facts=facts.collect(commands, available),
        files=_files(),
        packages=packages.end(asked, names),
        ledger=entries,
        secrets=secret.every(),
        lock=holder,
        unfinished=unfinished or None,
        trial=trial and _trial(trial),
        outcome=common.read_json(common.OUTCOME),
        watch=kept and {part: kept[part] for part in ("qube", "owner", "tokens", "ports")},
    )


def _trial(trial):
    import trial as trials  # only here: mostly there is none

    seconds = trials.left(trial)
    told = {part: trial[part] for part in ("id", "phase", "owner", "since")}
    return dict(
        told,
        holder=common.clean(trial["holder"], 200),
        secondsLeft=None if seconds is None else max(0, round(seconds, 1)),
    )


def _nothing():
    return {"qubes": {}, "globals": {}, "labels": [], "available": []}


def _sessions():
    """Qubes whose Xephyr session a person is in: `qubes-guivm-session QUBE` is the Exec of their
    xsession file (qubes-host.md (b)), on plain Xen ours, and runs as long as the session does."""
    found = set()
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open("/proc/%s/cmdline" % pid, "rb") as file:
                words = file.read(4096).decode("utf-8", "replace").split("\0")
        except OSError:
            continue  # it has ended
        for word, following in zip(words, words[1:]):
            if os.path.basename(word) in ("qubes-guivm-session", "guidomain-screen"):
                found.add(following)
    return found


def _qubes():
    found = {}
    sessions = _sessions()
    for name, listed in admin.qubes().items():
        try:
            found[name] = dict(_qube(name, listed), session=name in sessions)
            if listed["class"] == admin.XEN:
                # dom0 shows a domain in its session, and nowhere else.
                found[name]["guidRunning"] = name in sessions
        except admin.AdminError as error:
            if error.type != "QubesVMNotFoundError":
                raise  # else it was removed while we looked
    return {
        "qubes": found,
        "globals": admin.global_properties(),
        "labels": admin.labels(),
        "available": admin.pci_available(),
    }


def _qube(name, listed):
    properties = admin.properties(name)
    xid = properties.get("xid", {}).get("value", "-1")
    template = listed["class"] == "TemplateVM"
    return {
        **({"noRevert": volumes.fault(name, "root")} if template else {}),
        "class": listed["class"],
        "state": listed["state"],
        "properties": properties,
        "features": admin.features(name),
        "tags": admin.tags(name),
        "pci": [
            {part: device[part] for part in ("port", "device", "mode", "options")}
            for device in admin.pci_assigned(name)
        ],
        "guidRunning": xid not in ("", "-1", "0")
        and os.path.exists(common.path("/run/qubes/guid-running." + xid)),
    }


def _usb(qubes, backends):
    """{backend: what is plugged in}, None for one that is not there or does not run; `qubes` get
    their assignments. All None where dom0 lacks Qubes' proxy."""
    found = dict.fromkeys(sorted(backends))
    try:
        for name, qube in qubes.items():
            qube["usb"] = [
                {part: device[part] for part in ("backend", "port", "device", "mode")}
                for device in admin.usb_assigned(name)
            ]
        for name in found:
            if qubes.get(name, {}).get("state") == "Running":
                found[name] = [
                    {part: common.cleaned(device[part]) for part in ("port", "device", "name", "attachment")}
                    for device in admin.usb_available(name)
                ]
    except admin.EmptyReply:
        return dict.fromkeys(found)
    except admin.AdminError as error:
        if error.type != "QubesVMNotFoundError":
            raise
    return found


def _files():
    folders = list(FOLDERS)
    try:
        names = os.listdir(common.path(UNITS))
    except OSError:
        names = []
    own = r"qubes-vm@.+\.service\.d|multi-user\.target\.d"
    folders += ["%s/%s" % (UNITS, n) for n in names if re.fullmatch(own, n)]
    places = [INPUT_TARGET]
    places += ["%s/%s" % (UNITS, n) for n in names if re.fullmatch(r"guidomain-login-.+", n)]
    for folder, start in OURS.items():
        try:
            found = os.listdir(common.path(folder))
        except OSError:
            continue
        places += ["%s/%s" % (folder, name) for name in found if name.startswith(start)]
    for folder in folders:
        for parent, _, found in os.walk(common.path(folder)):
            places += [os.path.join(parent, name)[len(common.ROOT) :] for name in found]
    files = {}
    for place in places:
        try:
            status = os.lstat(common.path(place))
        except FileNotFoundError:
            continue
        if stat.S_ISREG(status.st_mode) and status.st_size <= TEXT_LIMIT:
            file = common.read_file(place)
            if file:
                files[place] = {"content": file["content"], "mode": file["mode"]}
    return files
