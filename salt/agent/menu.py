"""GRUB's files on this host: our block in custom.cfg, the choice in grubenv. The texts themselves are
grub.py's. Everything here can be done again at any time with the same outcome."""

import os

import common
import grub
from common import Failure


def config_file():
    return common.grub("grub.cfg")


def custom_file():
    return common.grub("custom.cfg")


def env_file():
    return common.grub("grubenv")


def environment():
    """{name: value} of grubenv; {} where there is none."""
    try:
        return grub.read_env(_raw())
    except (OSError, ValueError):
        return {}


def _raw():
    with open(common.path(env_file()), "rb") as file:
        return file.read(grub.ENV_SIZE + 1)


def set_environment(changes):
    """Changes values ({name: None} takes one away) in place: GRUB writes to the same blocks."""
    data = _raw()
    new = grub.edit_env(data, changes)
    if new != data:
        fd = os.open(common.path(env_file()), os.O_WRONLY)
        try:
            os.pwrite(fd, new, 0)
            os.fsync(fd)
        finally:
            os.close(fd)


def default_tokens():
    """Tokens of the entry that boots by default; None where it cannot be told."""
    config = common.read_text(config_file(), 4 << 20)
    entry = config and grub.default_entry(config, environment())
    return grub.entry_tokens(config, entry) if entry else None


def sync(trial, watch):
    """Makes our block what the trial (None: none with a boot of its own) and the confirmed mode
    need; without both it goes. Failure no-one-shot where the default entry cannot be copied."""
    boot = trial and trial["boot"]
    text = common.read_text(custom_file(), 4 << 20)
    block = ""
    if boot or watch:
        ours = list(watch["tokens"]) if watch else []
        adds = removes = []
        if boot:
            adds = boot["add"] + ["guidomain.trial=" + trial["id"]]
            removes = boot["remove"]
        config = common.read_text(config_file(), 4 << 20) or ""
        block = grub.block(
            config,
            environment(),
            sorted(set(ours + adds + removes)),
            {"add": adds, "remove": removes} if boot else None,
            bool(watch),
        )
        if block is None:
            raise Failure("no-one-shot", "no entry with a kernel can be found in %s" % config_file())
    new = grub.with_block(text or "", block)
    if new == (text or ""):
        return
    if not new:
        common.remove_file(custom_file())
        return
    mode = common.read_file(custom_file())
    _write(custom_file(), new, int(mode["mode"], 8) if mode else 0o600)


def choose(trial_id):
    """Lets the next boot, and only that, take the trial's entry. GRUB takes any id and then boots
    something else where there is none: so it is looked for first."""
    text = common.read_text(custom_file(), 4 << 20) or ""
    tokens = {
        entry["id"]: grub.entry_tokens(text, entry)
        for entry in grub.entries(text)
        if entry["kernel"] is not None
    }
    if "guidomain.trial=" + trial_id not in tokens.get(grub.TRIAL, []) or grub.RESCUE not in tokens:
        raise Failure("no-one-shot", "%s does not hold the entries it should" % custom_file())
    set_environment({"next_entry": grub.TRIAL})
    if environment().get("next_entry") != grub.TRIAL:
        raise Failure("no-one-shot", "%s does not keep what is written to it" % env_file())


def unchoose():
    """Takes our choice of the next entry back, where there is one."""
    if environment().get("next_entry") == grub.TRIAL:
        set_environment({"next_entry": None})


def untry():
    """This boot is verified: the next one is not counted as a second try."""
    if grub.TRY in environment():
        set_environment({grub.TRY: None})


# -- tokens of GRUB_CMDLINE_LINUX (keys bootarg:TOKEN)


def read_token(token):
    """True: in /etc/default/grub and in the default entry; None: in neither; a text: only in one
    of them, which is neither "set" nor "not set"."""
    wanted = token in grub.default_tokens(common.read_text(common.DEFAULT_GRUB) or "")
    live = default_tokens()
    used = wanted if live is None else token in live
    if wanted == used:
        return True if wanted else None
    return "only in " + (common.DEFAULT_GRUB if wanted else config_file())


def write_token(token, present):
    """
    Puts a token there or takes it away by editing both texts: no command, no mkconfig. The file
    that boots goes first when a token is taken away and last when it is added, so that no crash
    between the two leaves a boot with a token that /etc/default/grub does not have.
    """
    add, remove = ([token], []) if present else ([], [token])

    def edit(name, function):
        file = common.read_file(name)
        if file is not None:
            new = function(file["content"])
            if new != file["content"]:
                _write(name, new, int(file["mode"], 8))

    def config(text):
        return grub.edit_config(text, add, remove, grub.default_entry(text, environment()))

    places = [
        (config_file(), config),
        (common.DEFAULT_GRUB, lambda text: grub.edit_default(text, add, remove)),
    ]
    for name, function in reversed(places) if present else places:
        edit(name, function)


# -- space on /boot


def reserve(there):
    """Holds space on /boot for the way back, or gives it up."""
    if not there:
        common.remove_file(common.boot_reserve())
    elif os.path.isdir(common.path(common.grub())):
        size = 65536 + 2 * sum(
            len(common.read_text(name, 4 << 20) or "") for name in (config_file(), custom_file())
        )
        common.allocate(common.boot_reserve(), size)


def _write(name, text, mode):
    common.write_file(name, text, mode, common.owner_of(name))
