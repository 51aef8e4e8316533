"""
Secrets of qubes, for dom0's service guidomain.Secret alone to hand out: STATE/secrets/QUBE/NAME, which
root alone reads. The first line of such a file says what it is without saying it (a mark that the
controller made, which the ledger and every snapshot have), the rest is the secret. Values come over
the agent's stdin and go into no formula, no argument and no message. The service is there exactly while
there is a secret; whose it hands out, qrexec says.
"""

import os
import re

import common

FOLDER = common.STATE + "/secrets"
SERVICE = "/etc/qubes-rpc/guidomain.Secret"
# A service of dom0 does not run as root, but may become it; sudo takes the environment away. Of "dom0:USER"
# the password of that user of dom0 is meant, as it is at the moment of the call.
SERVICE_TEXT = """\
#!/bin/sh
# Written by guidomain: hands to a qube what dom0 keeps for that qube, and for no other.
case $QREXEC_REMOTE_DOMAIN in
'' | .* | *[!A-Za-z0-9_.-]*) exit 1 ;;
esac
case $1 in
'' | *[!a-z0-9-]*) exit 1 ;;
esac
value=$(sudo -n -- sed 1d "%s/$QREXEC_REMOTE_DOMAIN/$1") || exit 1
case $1:$value in
login:dom0:*)
	value=$(sudo -n -- getent shadow "${value#dom0:}" | cut -d: -f2)
	# One that is locked or empty would lock everybody out, or let everybody in.
	case $value in
	'$'*'$'*) ;;
	*) exit 1 ;;
	esac
	;;
esac
printf '%%s\\n' "$value"
""" % FOLDER
NAME = "[a-z][a-z0-9-]{0,30}"
LIMIT = 1 << 16


def place(qube, name):
    return "%s/%s/%s" % (FOLDER, qube, name)


def read(qube, name):
    """Its mark; None where there is none."""
    text = common.read_text(place(qube, name), LIMIT)
    return None if text is None else text.partition("\n")[0]


def whole(qube, name):
    """The file, for the journal, which root alone reads too."""
    return common.read_text(place(qube, name), LIMIT)


def write(qube, name, text):
    """`text`: the whole file; None: it goes."""
    file = place(qube, name)
    if text is None:
        if os.path.isdir(os.path.dirname(common.path(file))):
            common.remove_file(file)
            common.remove_directories([os.path.dirname(file), FOLDER])
        if not every():
            common.remove_file(SERVICE)
        return
    if common.read_text(SERVICE) != SERVICE_TEXT:
        os.makedirs(os.path.dirname(common.path(SERVICE)), exist_ok=True)
        common.write_file(SERVICE, SERVICE_TEXT, 0o755)
    for folder in (FOLDER, os.path.dirname(file)):
        os.makedirs(common.path(folder), mode=0o700, exist_ok=True)
    common.write_file(file, text, 0o600)


def every():
    """{"QUBE:NAME": mark} of all that there are."""
    found = {}
    for parent, _, names in os.walk(common.path(FOLDER)):
        qube = os.path.basename(parent)
        for name in names:
            if re.fullmatch(NAME, name) and read(qube, name) is not None:
                found["%s:%s" % (qube, name)] = common.clean(read(qube, name), 200)
    return found
