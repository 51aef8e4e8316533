"""What a management disposable does (qubes-mgmt-salt, qubes.SaltLinuxVM and ssh-wrapper): it has dom0's /srv and configures one qube with
it, as salt-ssh does over qubes.VMRootShell. The states are rendered in that qube here, not in the disposable.
"""

import base64
import io
import json
import os
import shlex
import shutil
import subprocess
import sys
import tarfile

INCOMING = "/home/user/QubesIncoming/dom0/srv"
AGGREGATE = 20  # salt.defaults.exitcodes.EX_AGGREGATE: salt-ssh where any of its hosts failed
SCRIPT = """set -e
mkdir -p /run/salt-shim-sandbox
folder=$(mktemp -d /var/tmp/.root_salt_XXXXXX)
base64 -d >$folder/job.tar <<'EOF'
%s
EOF
tar -xf $folder/job.tar -C $folder
exec /.guest/python/bin/python3 -W ignore -SE /.guest/code/guest/saltinside/run.py $folder
"""


def qubes_SaltLinuxVM(args):
    target, command = sys.stdin.readline().strip(), shlex.split(sys.stdin.readline())
    if not os.path.isdir(INCOMING):
        print("mv: cannot stat '%s': No such file or directory" % INCOMING, file=sys.stderr)
        return 1
    shutil.rmtree("/srv")
    shutil.move(INCOMING, "/srv")
    with open("/srv/master") as file:
        roots = json.load(file)["file_roots"]
    words, out = [], None
    rest = iter(command)
    for word in rest:
        if word.startswith(("--out=", "--output=")):
            out = word.split("=", 1)[1]
        elif word in ("--out", "--output"):
            out = next(rest, None)
        elif word in ("--force-color", "--no-color"):
            pass
        elif word.startswith("-"):
            print("Usage: salt-ssh [options] '<target>' <function> [arguments]\n\nsalt-ssh: error: no such option: %s" % word, file=sys.stderr)
            return 64
        else:
            words.append(word)
    if not words:
        print("Usage: salt-ssh [options] '<target>' <function> [arguments]", file=sys.stderr)
        return 64
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        job = json.dumps({"id": target, "command": words, "roots": roots, "out": out}).encode()
        info = tarfile.TarInfo("job.json")
        info.size = len(job)
        tar.addfile(info, io.BytesIO(job))
        tar.add("/srv", "srv")
    script = SCRIPT % base64.encodebytes(packed.getvalue()).decode().rstrip("\n")
    ended = subprocess.run(["qrexec-client-vm", target, "qubes.VMRootShell"], input=script.encode(), stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    try:
        answer = json.loads(ended.stdout.decode())
    except ValueError:
        failed(target, ended)
        return AGGREGATE
    sys.stdout.write(answer["text"].rstrip("\n") + "\n" if answer["text"] else "")
    return AGGREGATE if answer["retcode"] else 0


def failed(target, ended):
    """What salt-ssh shows of a host that gives no answer: its outputter "nested"."""
    print("%s:\n    ----------" % target)
    for name, text in (("retcode", str(ended.returncode)), ("stderr", ended.stderr.decode()), ("stdout", ended.stdout.decode())):
        print("    %s:" % name)
        for line in text.splitlines():
            print("        " + line)
