"""systemctl: asks the qube's process 1 (guest/init.py). Options and verbs are those of dom0's."""

import json
import socket
import sys

from . import loud

PROCESS_ONE = "/run/systemd/twin"
OPTIONS = (
    "--quiet -q --now --no-pager --no-block --system --version --force -f --value --plain --no-legend --legend=no --all -a --full -l --no-warn"
    " --wait --failed"
).split()
WITH_VALUE = ("-p", "--property", "--state", "--type", "-t")
VERBS = (
    "is-active is-enabled is-failed is-system-running status start stop restart try-restart reload reset-failed enable disable mask"
    " unmask daemon-reload cat show list-units list-unit-files"
).split()
WITHOUT_NAMES = ("daemon-reload", "is-system-running", "reset-failed", "list-units", "list-unit-files")


def systemctl(args):
    words, options, rest = [], [], iter(args)
    for argument in rest:
        if argument in WITH_VALUE:
            argument = "%s=%s" % (argument, next(rest, ""))
        if not argument.startswith("-"):
            words.append(argument)
        elif argument in OPTIONS or argument.split("=")[0] in WITH_VALUE:
            options.append(argument)
        else:
            print("systemctl: unrecognized option '%s'" % argument, file=sys.stderr)
            return 1
    if "--version" in options:
        print("systemd 258 (258.2-1.fc43)\n-PAM +AUDIT +SELINUX -APPARMOR +IMA +SMACK +SECCOMP")
        return 0
    if "--failed" in options:
        options += ["--state=failed", "--no-legend"]
    verb, names = (words or ["list-units"])[0], words[1:]
    if verb not in VERBS:
        loud(" ".join(args))
    if not names and verb not in WITHOUT_NAMES:
        print("Too few arguments.", file=sys.stderr)
        return 1
    answer = ask({"verb": verb, "names": names, "options": options})
    if not {"--quiet", "-q"} & set(options):
        sys.stdout.write(answer["out"])
    sys.stdout.flush()
    sys.stderr.write(answer["err"])
    return answer["code"]


def ask(request):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(PROCESS_ONE)
        client.sendall(json.dumps(request).encode() + b"\n")
        data = b""
        while not data.endswith(b"\n"):
            part = client.recv(65536)
            if not part:
                sys.exit("Failed to connect to system scope bus via local transport: Connection reset by peer")
            data += part
    return json.loads(data.decode())
