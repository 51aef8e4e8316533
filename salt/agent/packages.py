"""Packages of dom0: which are installed, and the way back from one that was not. rpm and dnf on Qubes,
dpkg and apt where dom0 is a Debian."""

import os
import subprocess

import common
from common import Failure

DPKG = "/var/lib/dpkg/status"


def is_debian():
    return os.path.exists(common.path(DPKG))


def start(names):
    """The question under way; None where there is nothing to ask or nobody to answer."""
    ask = (
        ["dpkg-query", "-W", "-f", "${Package} ${db:Status-Status} ${Version}\\n"]
        if is_debian()
        else ["rpm", "-q"]
    )
    try:
        return names and subprocess.Popen(
            ask + names,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=dict(os.environ, LC_ALL="C"),
        )
    except OSError:
        return None


def end(process, names):
    """{name: version or None}. rpm prints NAME-VERSION-RELEASE.ARCH, or "package NAME is not installed";
    of a package that dpkg has only the configuration of, its status says so."""
    versions = dict.fromkeys(names)
    for line in process.communicate()[0].decode("utf-8", "replace").splitlines() if process else []:
        if is_debian():
            name, status, version = (line.split(" ") + ["", ""])[:3]
            if name in versions and status == "installed":
                versions[name] = version
            continue
        parts = line.strip().rsplit("-", 2)
        if len(parts) == 3 and parts[0] in versions:
            versions[parts[0]] = parts[1]
    return versions


def installed(names):
    return end(start(names), names)


def restore(name, before, run):
    """Takes away what was not there before."""
    if before is not None:
        raise Failure(
            "internal", "%s %s was installed before: install it again by hand" % (name, before)
        )
    argv = ["apt-get", "-y", "remove", name] if is_debian() else ["dnf", "-y", "remove", name]
    ended = run(argv, 600)
    if ended.code:
        raise Failure(
            "internal", "%s: %s" % (" ".join(argv), common.clean(ended.err or ended.out, 500))
        )
