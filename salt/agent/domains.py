"""
The one place that knows what kind of host this is. Its qubes, or domains, are those of
qubes_admin.py on Qubes and of xen_domains.py anywhere else, under the same names: every other module
takes this one for them (`import domains as admin`).
"""

import os
import shutil

import common


XEN = "Domain"  # the class of what is no qube


def platform():
    """ "qubes", "xen" (dom0 of a plain Xen host, in this very boot) or "none"."""
    if is_qubes():
        return "qubes"
    told = common.read_text("/proc/xen/capabilities", 64)
    if told is not None:
        return "xen" if "control_d" in told else "none"
    # xenfs is not mounted: a domain of Xen, and one with Xen's tools.
    kind = (common.read_text("/sys/hypervisor/type", 64) or "").strip()
    return "xen" if kind == "xen" and shutil.which("xl") else "none"


def is_qubes():
    """Also where its release file is gone: such a host is refused, and never taken for plain Xen."""
    return common.read_text(common.RELEASE, 1) is not None or os.path.isdir(common.path("/var/lib/qubes"))


def backend():
    """Of a Xen host also in a boot without Xen: its files are there, and no domain runs."""
    if is_qubes():
        import qubes_admin as found
    else:
        import xen_domains as found
    return found


def __getattr__(name):
    if name.startswith("__"):
        raise AttributeError(name)
    return getattr(backend(), name)


# -- what only a plain Xen host has


def tidy():
    """What is left of a domain's file whose writer was killed."""
    if not is_qubes():
        backend().tidy()


def forget_saved(names):
    """See xen_domains.py. Qubes saves nothing of what runs when the host is shut down."""
    if not is_qubes():
        backend().forget_saved(names)


def drop_strangers():
    """See xen_domains.py. Qubes itself starts nothing that another device would be given to."""
    return [] if is_qubes() else backend().drop_strangers()


def _assignable(function, port):
    if is_qubes():
        raise common.Failure("bad-request", "assignable:%s is nothing of a Qubes host" % port)
    return getattr(backend(), function)(port)


def assignable(port):
    return _assignable("assignable", port)


def add_assignable(port):
    _assignable("add_assignable", port)


def remove_assignable(port):
    _assignable("remove_assignable", port)


def release():
    """What the host calls itself; None where it does not say."""
    if is_qubes():
        text = common.read_text(common.RELEASE)
        return None if text is None else common.clean(text.split("\n")[0], 200)
    for line in (common.read_text("/etc/os-release") or "").splitlines():
        name, _, value = line.partition("=")
        if name == "PRETTY_NAME":
            return common.clean(value.strip().strip("\"'"), 200)
    return None


# -- Salt


def salt_files():
    """{path: text} of what makes Salt find our modules."""
    modules = "states_dirs: [%s/_states]\nutils_dirs: [%s/_utils]\n" % (common.SALT, common.SALT)
    if is_qubes():
        return {common.DROP_IN: modules}
    return {common.MINION: modules + MINION}


# Nothing of the host's own Salt: no minion id is made up, no name is looked up, and what Salt writes
# goes with our folders.
MINION = """\
id: dom0
file_client: local
file_roots:
  user: [{formula}]
pillar_roots: {{}}
cachedir: {scratch}/cache
pki_dir: {scratch}/pki
sock_dir: {scratch}/sock
pidfile: {scratch}/pid
log_file: {scratch}/log
log_level_logfile: quiet
enable_fqdns_grains: False
enable_gpu_grains: False
""".format(formula=common.FORMULA, scratch=common.SCRATCH)


def salt_call(sls):
    """How one state of ours is applied to dom0; its answer is JSON, {"local": …}."""
    end = ["state.sls", sls, "saltenv=user", "--out=json", "--no-color"]
    if is_qubes():
        return ["qubesctl", "--dom0-only"] + end
    return ["salt-call", "--local", "-c", os.path.dirname(common.path(common.MINION))] + end
