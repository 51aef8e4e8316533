"""Salt's `pkg` in dom0: queries by rpm, installation by qubes-dom0-update, removal by dnf.

Qubes ships a module of this name for the same purpose (qubes-mgmt-salt-dom0-update); this is the twin's own, with what
pkg.installed, pkg.latest, pkg.removed and their test=True ask for.
"""
import salt.utils.data
import salt.utils.versions
from salt.exceptions import CommandExecutionError

__virtualname__ = "pkg"


def __virtual__():
    if __grains__.get("virtual_subtype") == "Xen Dom0":
        return __virtualname__
    return (False, "not a Qubes dom0")


def _run(command):
    return __salt__["cmd.run_all"](command, python_shell=False, ignore_retcode=True, output_loglevel="quiet")


def list_pkgs(versions_as_list=False, **kwargs):
    """{name: version-release}, or lists of them."""
    if salt.utils.data.is_true(kwargs.get("removed")) or salt.utils.data.is_true(kwargs.get("purge_desired")):
        return {}
    result = _run(["rpm", "-qa", "--queryformat", "%{NAME} %{EVR}\\n"])
    if result["retcode"] != 0:
        raise CommandExecutionError("rpm -qa: %s" % result["stderr"])
    found = dict(line.split(" ", 1) for line in result["stdout"].splitlines())
    return {name: [version] for name, version in found.items()} if versions_as_list else found


def version(*names, **kwargs):
    return __salt__["pkg_resource.version"](*names, **kwargs)


def normalize_name(name):
    return name


def version_cmp(pkg1, pkg2, ignore_epoch=False, **kwargs):
    return salt.utils.versions.version_cmp(pkg1, pkg2, ignore_epoch=ignore_epoch)


def refresh_db(**kwargs):
    """The lists live in the UpdateVM and are fetched with every call."""
    return True


def latest_version(*names, **kwargs):
    """Of one name a version, of several {name: version}; "" where what is installed is the newest.

    As Qubes' own: it asks the UpdateVM, which starts for it, also under test=True; a name that nothing is known of raises.
    """
    result = _run(["qubes-dom0-update", "--quiet", "--console", "--show-output", "--action=list", "available"] + list(names))
    if result["retcode"] != 0:
        raise CommandExecutionError(
            "Problem encountered getting latest version for the following package(s): %s. Stderr follows: \n%s"
            % (", ".join(names), result["stderr"])
        )
    found = _listed(result["stdout"])
    answer = {name: found.get(name, "") for name in names}
    return answer[names[0]] if len(names) == 1 else answer


available_version = latest_version


def upgrade_available(name, **kwargs):
    return latest_version(name) != ""


def list_upgrades(refresh=True, **kwargs):
    result = _run(["qubes-dom0-update", "--quiet", "--action=check-update"])
    if result["retcode"] not in (0, 100):
        raise CommandExecutionError("qubes-dom0-update: %s" % result["stderr"])
    return _listed(result["stdout"])


def _listed(output):
    """{name: version} of dnf's rows `name.arch version repository`; its headings have no dot."""
    rows = (line.split() for line in output.splitlines())
    return {row[0].rsplit(".", 1)[0]: row[1] for row in rows if len(row) == 3 and "." in row[0]}


def _change(command, what):
    before = list_pkgs()
    result = _run(command)
    after = list_pkgs()
    changes = salt.utils.data.compare_dicts(before, after)
    if result["retcode"] != 0:
        said = "\n".join(text for text in (result["stdout"], result["stderr"]) if text)
        raise CommandExecutionError("Error occurred %s package(s)" % what, info={"errors": [said], "changes": changes})
    return changes


def _names(name, pkgs):
    parameters = __salt__["pkg_resource.parse_targets"](name, pkgs)[0]
    return sorted(parameters or {})


def install(name=None, refresh=False, pkgs=None, sources=None, **kwargs):
    """{name: {old, new}}"""
    if sources:
        raise CommandExecutionError("sources are not supported: packages come through the UpdateVM")
    names = _names(name, pkgs)
    if not names:
        return {}
    return _change(["qubes-dom0-update", "-y", "--quiet", "--action=install"] + names, "installing")


def upgrade(name=None, pkgs=None, refresh=True, **kwargs):
    return _change(["qubes-dom0-update", "-y", "--quiet", "--action=upgrade"] + _names(name, pkgs), "upgrading")


def remove(name=None, pkgs=None, **kwargs):
    """{name: {old, new}} of those that were installed."""
    has = list_pkgs()
    names = [each for each in _names(name, pkgs) if each in has]
    return _change(["dnf", "-y", "remove"] + names, "removing") if names else {}


purge = remove
