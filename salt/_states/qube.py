"""
Salt states for qubes, over the Admin API. Each one converges, is dry under test=True (also for a
qube that does not exist yet), reads back what it wrote, and goes on after an error so that one run
names all of them.

    sys-gui:
      qube.present:
        - class: AppVM
        - template: fedora-43-xfce
        - label: black

`changes` has the keys and values of src/model/keys.ts: {"property:sys-gui:maxmem": {"old": …,
"new": …}}. Stock qvm.* states are not used: see "Traps" in qubes-cli-formats.md §8.
"""

import os
import sys

# Salt's loader knows this file and not its neighbours; through `__utils__` what they call back would find
# no `__utils__` of its own.
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_utils"))

import converge  # noqa: E402


def _admin(function, *args):
    return __utils__["qubes_admin." + function](*args)  # noqa: F821, Salt's loader puts it here


def _text(value):
    """A value as the Admin API writes it; YAML may have made a number or a boolean of it."""
    return "" if value is None else str(value)


def _guarded(function):
    def state(name, **kwargs):
        return converge.state(function, name, __opts__, **kwargs)  # noqa: F821, as above

    return state


def _exists(run, qube):
    return converge.exists(run, qube in _admin("qubes"))


# -- presence


def present(name, template=None, label=None, **kwargs):
    """The qube exists with this class; template and label follow. `class` is only checked, never
    changed."""
    return _guarded(_present)(name, template=template, label=label, **kwargs)


def _present(run, name, template=None, label=None, **kwargs):
    class_ = kwargs.get("class", "AppVM")
    key = "qube:" + name
    old = _admin("get_qube", name)
    if old is None:
        new = {"class": class_, "template": template, "label": label}
        run.step(
            key,
            name,
            None,
            new,
            lambda: _admin("create", name, class_, template, label),
            lambda: _admin("get_qube", name),
        )
        return
    if old["class"] != class_:
        run.errors.append(
            "%s exists as %s, %s is wanted: it was left as it is. "
            "Choose another name, or remove that qube yourself" % (name, old["class"], class_)
        )
        return
    now = dict(old)
    for part, wanted in (("template", template), ("label", label)):
        if wanted is None or now[part] == wanted:
            continue
        if not run.test:
            try:
                _admin("set_property", name, part, wanted)
            except Exception as error:
                run.fail(part, error)
                continue
        now[part] = wanted
    if not run.test and now != old:
        written, now = now, _admin("get_qube", name)
        if now != written:
            run.errors.append("written, but it reads back as %r" % now)
    if now != old:
        run.changes[key] = {"old": old, "new": now}


def absent(name, **kwargs):
    """The qube is not there. A running one is asked to shut down; nothing is killed."""
    return _guarded(_absent)(name)


def _absent(run, name):
    old = _admin("get_qube", name)
    if old is None:
        return
    if not run.test and not _shut_down(run, name):
        return
    run.step(
        "qube:" + name,
        name,
        old,
        None,
        lambda: _admin("remove", name),
        lambda: _admin("get_qube", name),
    )


# -- properties


def _shut_down(run, name):
    """Whether the qube is halted now; waits as long as its shutdown_timeout says."""
    limit = (_admin("get_property", name, "shutdown_timeout") or {}).get("value", "")
    return converge.is_down(run, _admin, int(limit) if limit.isdigit() else 60)


def properties(name, set=None, reset=None, **kwargs):
    """`set`: {property: value}, explicit even where it equals the default. `reset`: follow the
    default."""
    return _guarded(_properties)(
        name, qube=name, prefix="property:%s:" % name, set=set, reset=reset
    )


def global_properties(name, set=None, reset=None, **kwargs):
    """The same for Qubes' global properties."""
    return _guarded(_properties)(name, qube=None, prefix="global:", set=set, reset=reset)


def _properties(run, _name, qube, prefix, set, reset):
    exists = qube is None or _exists(run, qube)
    if not exists and not run.test:
        return
    for prop, value in (set or {}).items():
        new = {"default": False, "value": _text(value)}
        _property(
            run,
            qube,
            exists,
            prefix + prop,
            prop,
            new,
            lambda prop=prop, new=new: _admin("set_property", qube, prop, new["value"]),
        )
    for prop in reset or []:
        _property(
            run,
            qube,
            exists,
            prefix + prop,
            prop,
            None,
            lambda prop=prop: _admin("reset_property", qube, prop),
        )


def _property(run, qube, exists, key, prop, new, write):
    old = _admin("get_property", qube, prop) if exists else None
    if exists and old is None:
        run.errors.append("%s: no such property" % prop)
        return
    if new is None:  # to be reset
        if old is None or old["default"]:
            return
        new = {"default": True, "value": _admin("get_default", qube, prop)}
    run.step(key, prop, old, new, write, lambda: _admin("get_property", qube, prop))


# -- features and tags


def features(name, set=None, unset=None, **kwargs):
    """`set`: {feature: value}, "" is a value (off). `unset`: these are not set at all."""
    wanted = {feature: _text(value) for feature, value in (set or {}).items()}
    wanted.update(dict.fromkeys(unset or []))
    return _guarded(_features)(name, wanted=wanted)


def services(name, on=None, off=None, unset=None, **kwargs):
    """Services are features service.NAME: "1" on, "" off. In YAML write "on" and "off" with quotes:
    bare they are booleans, and Salt then says `keywords must be strings`."""
    wanted = {"service." + service: "1" for service in on or []}
    wanted.update({"service." + service: "" for service in off or []})
    wanted.update({"service." + service: None for service in unset or []})
    return _guarded(_features)(name, wanted=wanted)


def _features(run, name, wanted):
    exists = _exists(run, name)
    if not exists and not run.test:
        return
    for feature, new in wanted.items():

        def write(feature=feature, new=new):
            if new is None:
                _admin("remove_feature", name, feature)
            else:
                _admin("set_feature", name, feature, new)

        old = _admin("get_feature", name, feature) if exists else None
        run.step(
            "feature:%s:%s" % (name, feature),
            feature,
            old,
            new,
            write,
            lambda feature=feature: _admin("get_feature", name, feature),
        )


def tags(name, add=None, remove=None, **kwargs):
    return _guarded(_tags)(name, add=add, remove=remove)


def _tags(run, name, add, remove):
    exists = _exists(run, name)
    if not exists and not run.test:
        return

    def read(tag):
        return True if _admin("has_tag", name, tag) else None

    for new, function, names in ((True, "set_tag", add), (None, "remove_tag", remove)):
        for tag in names or []:
            old = read(tag) if exists else None
            run.step(
                "tag:%s:%s" % (name, tag),
                tag,
                old,
                new,
                lambda function=function, tag=tag: _admin(function, name, tag),
                lambda tag=tag: read(tag),
            )


# -- devices


def devices(name, assign=None, unassign=None, **kwargs):
    """`assign`: {"PORT:ID": {option: "True"}}, required, whatever mode and options it had before;
    ID "*" is any device on that port, PORT "*" that device on whatever port. `unassign`:
    ["PORT:ID"], done first; one that is not there is fine.

    An option that is off is left out: in Qubes' store any non-empty text, "False" too, means on.
    """
    return _guarded(_devices)(name, assign=assign, unassign=unassign)


def _devices(run, name, assign, unassign):
    exists = _exists(run, name)
    if not exists and not run.test:
        return
    if name == "dom0":
        run.errors.append("devices cannot be assigned to dom0")
        return
    available = {device["port"]: device["device"] for device in _admin("pci_available")}

    def assigned(place):
        return converge.assignment(_admin("pci_assigned", name) if exists else [], place)

    for text in unassign or []:
        place = converge.place(text)
        old = assigned(place)
        empty = place[0] != "*" and place[0] not in available
        if old is not None and empty and not _frees(run, name, place):
            run.notes.append(
                "%s stays assigned: Qubes cannot take it away while its place is empty" % text
            )
            continue
        run.step(
            "device:%s:%s" % (name, text),
            text,
            old,
            None,
            lambda place=place: assigned(place) and _admin("unassign_pci", name, *place),
            lambda place=place: assigned(place),
        )
    for text, options in (assign or {}).items():
        port, device = place = converge.place(text)
        # qubesd takes any port and any id; the qube would then fail to start (§8, traps 4 and 7).
        if port == "*":
            count = list(available.values()).count(device)
            if count != 1:
                text = "%s: dom0 has %d such PCI devices, where one is meant"
                run.errors.append(text % (device, count))
                continue
        elif port not in available:
            run.errors.append("%s: dom0 has no such PCI device" % port)
            continue
        elif device not in ("*", available[port]):
            run.errors.append("%s: dom0 has %s there, not %s" % (port, available[port], device))
            continue
        old = assigned(place)
        new = {"mode": "required", "options": converge.on(options)}

        def write(place=place, old=old, new=new):
            if old is not None:
                _admin("unassign_pci", name, *place)
            _admin("assign_pci", name, place[0], place[1], new["options"])

        run.step(
            "device:%s:%s" % (name, text),
            text,
            old,
            new,
            write,
            lambda place=place: assigned(place),
        )


# -- USB devices of other qubes


def usb(name, assign=None, unassign=None, **kwargs):
    """`assign`: {"BACKEND:PORT:ID": mode}, such as "auto-attach"; PORT "*" is wherever it is plugged
    into the backend. A qube that runs gets at once what is plugged in and nobody else's.
    `unassign`: ["BACKEND:PORT:ID"], done first, taken from a qube that runs as well; one that is not
    there is fine."""
    return _guarded(_usb)(name, assign=assign, unassign=unassign)


def _usb(run, name, assign, unassign):
    exists = _exists(run, name)
    if not exists and not run.test:
        return

    def assigned(place):
        for one in _admin("usb_assigned", name) if exists else []:
            if [one["backend"], one["port"], one["device"]] == place:
                return {"mode": one["mode"], "options": {}}
        return None

    for text in unassign or []:
        place = text.split(":", 2)
        run.step(
            "usb:%s:%s" % (name, text),
            text,
            assigned(place),
            None,
            lambda place=place: _admin("take_usb", name, *place),
            lambda place=place: assigned(place),
        )
    for text, mode in (assign or {}).items():
        place = text.split(":", 2)
        old = assigned(place)

        def write(place=place, mode=mode, old=old):
            if old is not None:
                _admin("unassign_usb", name, *place)
            _admin("assign_usb", name, *place, mode)
            _admin("give_usb", name, *place)

        run.step(
            "usb:%s:%s" % (name, text),
            text,
            old,
            {"mode": mode, "options": {}},
            write,
            lambda place=place: assigned(place),
        )


def _frees(run, name, place):
    """Whether an assignment whose place is empty can be taken away; mostly qubesd does not answer
    that. Under test=True nobody tries."""
    if run.test:
        return False
    try:
        _admin("unassign_pci", name, *place)
        return True
    except Exception as error:
        if getattr(error, "type", None) != "EmptyReply":
            raise
        return False
