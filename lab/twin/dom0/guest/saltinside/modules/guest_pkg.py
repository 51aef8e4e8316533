"""Salt's `pkg` in a qube of the twin, with what pkg.installed, pkg.removed, pkg.latest and their test=True ask for: dnf and rpm, or apt-get
and dpkg-query. Errors are worded as by Salt's own modules yumpkg and aptpkg.
"""
import salt.utils.data
import salt.utils.versions
from salt.exceptions import CommandExecutionError

__virtualname__ = "pkg"


def __virtual__():
    return __virtualname__


def _fedora():
    return __grains__.get("os_family") == "RedHat"


def _run(command):
    return __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True, output_loglevel="quiet")


def list_pkgs(versions_as_list=False, **kwargs):
    if salt.utils.data.is_true(kwargs.get("removed")) or salt.utils.data.is_true(kwargs.get("purge_desired")):
        return {}
    query = ["rpm", "-qa", "--queryformat", "%{NAME} %{EVR}\\n"] if _fedora() else ["dpkg-query", "-W", "-f", "${Package} ${Version}\\n"]
    result = _run(query)
    if result["retcode"] != 0:
        raise CommandExecutionError("%s: %s" % (query[0], result["stderr"]))
    found = dict(line.split(" ", 1) for line in result["stdout"].splitlines())
    return {name: [version] for name, version in found.items()} if versions_as_list else found


def version(*names, **kwargs):
    return __salt__["pkg_resource.version"](*names, **kwargs)


def normalize_name(name):
    return name


def version_cmp(pkg1, pkg2, ignore_epoch=False, **kwargs):
    return salt.utils.versions.version_cmp(pkg1, pkg2, ignore_epoch=ignore_epoch)


def refresh_db(**kwargs):
    return _run(["dnf", "makecache"] if _fedora() else ["apt-get", "update"])["retcode"] == 0


def latest_version(*names, **kwargs):
    found = {}
    if _fedora():
        result = _run(["dnf", "list", "--refresh"] + list(names))
        rows = (line.split() for line in result["stdout"].splitlines())
        found = {row[0].rsplit(".", 1)[0]: row[1] for row in rows if len(row) == 3}
    answer = {name: found.get(name, "") for name in names}
    return answer[names[0]] if len(names) == 1 else answer


def _change(command, what):
    before = list_pkgs()
    result = _run(command)
    changes = salt.utils.data.compare_dicts(before, list_pkgs())
    if result["retcode"] != 0:
        said = "\n".join(text for text in (result["stdout"], result["stderr"]) if text)
        raise CommandExecutionError("Error occurred %s package(s)" % what, info={"errors": [said], "changes": changes})
    return changes


def _names(name, pkgs):
    return sorted(__salt__["pkg_resource.parse_targets"](name, pkgs)[0] or {})


def install(name=None, refresh=False, pkgs=None, sources=None, **kwargs):
    """{name: {old, new}}"""
    names = _names(name, pkgs)
    if not names:
        return {}
    tool = ["dnf", "-y", "--best", "--refresh"] if _fedora() else ["apt-get", "-q", "-y", "-o", "DPkg::Options::=--force-confold"]
    return _change(tool + ["install"] + names, "installing")


def upgrade(name=None, pkgs=None, refresh=True, **kwargs):
    return _change((["dnf"] if _fedora() else ["apt-get"]) + ["-y", "upgrade"] + _names(name, pkgs), "upgrading")


def remove(name=None, pkgs=None, **kwargs):
    has = list_pkgs()
    names = [each for each in _names(name, pkgs) if each in has]
    return _change((["dnf"] if _fedora() else ["apt-get"]) + ["-y", "remove"] + names, "removing") if names else {}


purge = remove
