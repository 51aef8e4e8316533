"""qvm-run: a command or a qrexec service in a qube (qubes-host.md (a), (d)). dom0 asks no policy.
"""

import argparse
import json
import os
import subprocess
import sys

from .admin import Parser, QubesException, call, state

# Services that a qube plays; any other fails as one that is not installed.
SERVICES = {
    "qubes.VMShell": ["/bin/sh"],
    "qubes.VMRootShell": ["/bin/sh"],
    "qubes.GetDate": ["date", "-Iseconds"],
    "qubes.ConnectTCP": ["/.guest/code/guest/connect-tcp"],
    "qubes.WaitForRunningSystem": ["sh", "-c", "systemctl --wait is-system-running >&2"],
    "qubes.WaitForSession": ["sh", "-c", "systemctl -q is-active qubes-gui-agent lightdm"],
}


def service_argv(service):
    """What a qube that is asked for SERVICE[+ARGUMENT] runs, where it plays that one; else None."""
    name, _, argument = service.partition("+")
    played = SERVICES.get(name)
    return played and played + ([argument] if name == "qubes.ConnectTCP" else [])


def make_parser():
    parser = Parser()
    parser.add_argument("--user", "-u", metavar="USER")
    parser.add_argument("--autostart", "--auto", "-a", action="store_true", default=True)
    parser.add_argument("--no-autostart", "--no-auto", "-n", action="store_false", dest="autostart")
    parser.add_argument("--pass-io", "-p", action="store_true", dest="passio")
    parser.add_argument("--gui", action="store_true", default=None)
    parser.add_argument("--no-gui", "--nogui", action="store_false", dest="gui")
    parser.add_argument("--no-colour-output", "--no-color-output", action="store_true")
    parser.add_argument("--no-colour-stderr", "--no-color-stderr", action="store_true")
    parser.add_argument("--filter-escape-chars", action="store_true")
    parser.add_argument("--no-filter-escape-chars", action="store_true")
    parser.add_argument("--service", action="store_true")
    parser.add_argument("--no-shell", action="store_true")
    parser.add_argument("names", metavar="VMNAME", nargs=1)
    parser.add_argument("cmd", metavar="COMMAND")
    parser.add_argument("cmd_args", metavar="ARG", nargs=argparse.REMAINDER)
    parser.takes = 1
    return parser


def main():
    parser = make_parser()
    args = parser.parse()
    name = args.qubes[0]
    verbose = args.verbose - args.quiet - (1 if args.passio else 0)

    def say(text):
        if verbose > 0:
            print(text, file=sys.stderr)

    now = state(name)
    if not args.autostart and now in ("Halted", "Paused"):
        say("Qube '%s' %s" % (name, "is paused" if now == "Paused" else "not started"))
        return 1
    say("Running '%s' on %s" % (args.cmd, name))
    try:
        if name != "dom0":
            call("admin.vm.Unpause" if now == "Paused" else "admin.vm.Start", name)
        qube = json.loads(call("internal.GetQube", name))
    except QubesException as error:
        print("vm.%s: %s" % (name, error), file=sys.stderr)
        return 255
    if name == "dom0" or not qube["qrexec"]:
        print("vm.%s: %s" % (name, "no qrexec agent answers"), file=sys.stderr)
        return 255
    if args.service:
        service, _, argument = args.cmd.partition("+")
        argv = service_argv(args.cmd) or ["/etc/qubes-rpc/" + service] + ([argument] if argument else [])
    elif args.cmd_args or args.no_shell:
        argv = [args.cmd] + args.cmd_args
    else:
        argv = ["/bin/sh", "-c", args.cmd]
    code = run(qube, args.user or qube["user"], argv, args.passio)
    if code:
        say("%s: command failed with code: %d" % (name, code))
    return code


def run(qube, user, argv, passio):
    """Exit status of a command inside; its input and output are ours with --pass-io, else nobody's.
    """
    room = os.path.join(
        os.path.dirname(os.path.dirname(os.path.realpath(__file__))), "bin", "qubes-guest"
    )
    null = None if passio else subprocess.DEVNULL
    command = [room, json.dumps(qube), user] + argv
    return subprocess.call(command, stdin=null, stdout=null, stderr=null)
