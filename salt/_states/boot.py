"""
Salt state for the kernel line that dom0 boots with from now on: words of GRUB_CMDLINE_LINUX in
/etc/default/grub, and grub.cfg made from it. Converges, is dry under test=True, reads back what
boots, and leaves both files as they were where that fails.

    guidomain:
      boot.args:
        - add: ["rd.qubes.hide_pci=00_02.0", guidomain.gpu=sys-gui]
        - remove: [rhgb]

A word is one of the kernel line; of the comma list rd.qubes.hide_pci each part is one (see
_utils/grub.py). `changes` has the keys of src/model/keys.ts: {"bootarg:rhgb": {"old": True, "new":
None}}.
"""

import os
import stat

DEFAULT = "/etc/default/grub"
ROOT = ""  # tests put a directory here


def _is_fedora():
    """GRUB's folder and programs have another name there than on Debian."""
    return os.path.isdir(ROOT + "/boot/grub2")


def _config():
    return "/boot/grub2/grub.cfg" if _is_fedora() else "/boot/grub/grub.cfg"


def _mkconfig():
    return "grub2-mkconfig" if _is_fedora() else "grub-mkconfig"


def _grub(function, *args):
    return __utils__["grub." + function](*args)  # noqa: F821, Salt's loader puts it here


def args(name, add=None, remove=None, **kwargs):
    wanted = dict.fromkeys(remove or [])
    wanted.update(dict.fromkeys(add or [], True))
    test = bool(__opts__.get("test"))  # noqa: F821, as above
    changes, error = {}, None
    try:
        _grub("check", list(wanted))
        default, config = _read(DEFAULT), _read(_config())
        now = _now(default, config)
        changes = {
            "bootarg:" + token: {"old": now(token), "new": new}
            for token, new in wanted.items()
            if now(token) != new
        }
        if changes and not test:
            error = _write(default, config, wanted)
            if error:
                changes = {}
    except (OSError, ValueError) as problem:
        error = str(problem)
        changes = {}
    words = ", ".join(key[len("bootarg:") :] for key in sorted(changes))
    if error:
        result, comment = False, error
    elif not changes:
        result, comment = True, "as wanted"
    elif test:
        result, comment = None, "would be changed: " + words
    else:
        result, comment = True, "changed: " + words
    return {"name": name, "result": result, "comment": comment, "changes": changes}


def _now(default, config):
    """token → True: in both files; None: in neither; a text: in one of them."""
    written = _grub("default_tokens", default)
    booted = _booted(config)

    def state(token):
        if (token in written) == (token in booted):
            return True if token in written else None
        return "only in " + (DEFAULT if token in written else _config())

    return state


def _booted(config):
    entry = _grub("default_entry", config, _environment())
    if entry is None:
        raise ValueError("no entry with a kernel can be found in %s" % _config())
    return _grub("entry_tokens", config, entry)


def _environment():
    try:
        with open(ROOT + os.path.dirname(_config()) + "/grubenv", "rb") as file:
            return _grub("read_env", file.read())
    except (OSError, ValueError):
        return {}


def _write(default, config, wanted):
    """Writes and makes grub.cfg anew; what went wrong, or None. Both files are then as before.

    grub2-mkconfig writes into the file that it is told, not beside it: a power loss would leave half
    of it, and no boot at all. So it is told another one, which is read back and then takes its place.
    """
    add = [token for token, new in wanted.items() if new]
    remove = [token for token, new in wanted.items() if not new]
    beside = _config() + ".guidomain-new"
    try:
        _replace(DEFAULT, _grub("edit_default", default, add, remove))
        made = __salt__["cmd.run_all"](  # noqa: F821, as above
            [_mkconfig(), "-o", ROOT + beside], python_shell=False
        )
        if made["retcode"]:
            said = (made.get("stderr") or made.get("stdout") or "").strip()
            error = "%s ended with %s: %s" % (_mkconfig(), made["retcode"], said[-500:])
        else:
            made = _read(beside)
            error = _odd(wanted, made)
            if not error:
                _replace(_config(), made)
                error = _odd(wanted, _read(_config()))
    except (OSError, ValueError) as problem:
        error = str(problem)
    if error:
        _replace(_config(), config)
        _replace(DEFAULT, default)
    for name in (beside, beside + ".new"):
        if os.path.exists(ROOT + name):
            os.unlink(ROOT + name)
    return error


def _odd(wanted, config):
    """What does not read back as it was wanted; None where all does."""
    state = _now(_read(DEFAULT), config)
    for token, new in wanted.items():
        now = state(token)
        if now != new:
            how = {True: "still there", None: "not there"}.get(now, now)
            return "%s: written, but it is %s" % (token, how)
    return None


def _read(name):
    # Bytes that are no UTF-8 survive as they are.
    with open(ROOT + name, encoding="utf-8", errors="surrogateescape", newline="") as file:
        return file.read()


def _replace(name, text):
    """Whole and durably, or not at all; owner and mode stay."""
    data = text.encode("utf-8", "surrogateescape")
    with open(ROOT + name, "rb") as file:
        status = os.fstat(file.fileno())
        if file.read() == data:
            return
    beside = ROOT + name + ".guidomain-new"
    try:
        with open(beside, "wb") as file:
            file.write(data)
            os.fchmod(file.fileno(), stat.S_IMODE(status.st_mode))
            os.fchown(file.fileno(), status.st_uid, status.st_gid)
            file.flush()
            os.fsync(file.fileno())
        os.rename(beside, ROOT + name)
    except OSError:
        if os.path.exists(beside):
            os.unlink(beside)
        raise
