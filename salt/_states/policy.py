"""
Salt state for single lines of an include file of qrexec policy, which belongs to Qubes and which
others write to as well. Converges, is dry under test=True, writes the file whole or not at all, and
only what Qubes' linter takes: one bad line stops every qrexec call.

    /etc/qubes/policy.d/include/admin-global-rwx:
      policy.lines:
        - add: ["sys-gui @adminvm allow target=dom0"]
        - remove: []

`changes` has the keys of src/model/keys.ts: {"line:PATH:LINE": {"old": None, "new": True}}.
"""

import os
import stat

ROOT = ""  # tests put a directory here
LINT = ["qubes-policy-lint", "--include-service"]


def _lines(function, *args):
    return __utils__["policy_lines." + function](*args)  # noqa: F821, Salt's loader puts it here


def lines(name, add=None, remove=None, **kwargs):
    add, remove = add or [], remove or []
    test = bool(__opts__.get("test"))  # noqa: F821, as above
    changes, error = {}, None
    try:
        now = _read(name)
        wanted = dict([(line, None) for line in remove] + [(line, True) for line in add])
        changes = {
            "line:%s:%s" % (name, line): {"old": None if new else True, "new": new}
            for line, new in wanted.items()
            if _lines("has", now, line) != bool(new)
        }
        if changes and not test:
            error = _write(name, now, _lines("edit", now, add, remove))
    except (OSError, ValueError) as problem:
        error = str(problem)
    words = "; ".join(("+ " if changes[key]["new"] else "- ") + key for key in sorted(changes))
    if error:
        return {"name": name, "result": False, "comment": error, "changes": {}}
    if not changes:
        return {"name": name, "result": True, "comment": "as wanted", "changes": {}}
    comment = ("would be changed: " if test else "changed: ") + words
    return {"name": name, "result": None if test else True, "comment": comment, "changes": changes}


def _read(name):
    # Bytes that are no UTF-8 survive as they are.
    with open(ROOT + name, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def _write(name, before, text):
    """Whole and durably, or not at all; owner and mode stay. What is wrong with it, or None."""
    beside = ROOT + name + ".guidomain-new"
    try:
        with open(ROOT + name, "rb") as file:
            status = os.fstat(file.fileno())
        with open(beside, "wb") as file:
            file.write(text.encode("utf-8", "surrogateescape"))
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.flush()
            os.fsync(file.fileno())
        # Somebody else's bad line has stopped every call already, and must not keep ours there.
        complaint = _complaint(beside)
        if complaint and not _complaint(ROOT + name):
            return "%s is refused by %s: %s" % (name, LINT[0], complaint)
        if _read(name) != before:
            return "%s was changed by somebody else in the same moment" % name
        os.rename(beside, ROOT + name)
        folder = os.open(os.path.dirname(ROOT + name), os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(folder)
        finally:
            os.close(folder)
    finally:
        if os.path.lexists(beside):
            os.unlink(beside)
    return None if _read(name) == text else "%s: written, but it reads back otherwise" % name


def _complaint(path):
    made = __salt__["cmd.run_all"](LINT + [path], python_shell=False)  # noqa: F821, as above
    if made["retcode"] == 0:
        return None
    said = (made.get("stdout") or made.get("stderr") or "").strip()
    return said[-500:] or "%s ended with %s" % (LINT[0], made["retcode"])
