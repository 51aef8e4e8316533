"""
Salt states for domains of plain Xen, over /etc/xen/NAME.cfg and xl. Each one converges, is dry under
test=True (also for a domain that does not exist yet), reads back what it wrote, and goes on after an
error so that one run names all of them.

    sys-gui:
      domain.properties:
        - set: {type: pv, memory: 512, autostart: "True"}

`changes` has the keys and values of src/model/keys.ts, as those of qube.py.
"""

import os
import sys

# Salt's loader knows this file and not its neighbours; through `__utils__` what they call back would find
# no `__utils__` of its own.
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_utils"))

import converge  # noqa: E402

SHUTDOWN = 120  # seconds


def _xen(function, *args):
    return __utils__["xen_domains." + function](*args)  # noqa: F821, Salt's loader puts it here


def _state(function, name, **kwargs):
    return converge.state(function, name, __opts__, **kwargs)  # noqa: F821, as above


# -- presence


def present(name, **kwargs):
    """The domain has a configuration. One that is made names it and nothing else."""
    return _state(_present, name)


def _present(run, name):
    old = _xen("get_qube", name)
    new = {"class": "Domain", "template": "", "label": ""}
    run.step(
        "qube:" + name, name, old, new, lambda: _xen("create", name), lambda: _xen("get_qube", name)
    )


def absent(name, **kwargs):
    """It has none, and does not start with the host. A running one is asked to shut down; nothing is
    killed, and no disk is touched."""
    return _state(_absent, name)


def _absent(run, name):
    old = _xen("get_qube", name)
    if old is None or (not run.test and not converge.is_down(run, _xen, SHUTDOWN)):
        return
    run.step(
        "qube:" + name, name, old, None, lambda: _xen("remove", name), lambda: _xen("get_qube", name)
    )


# -- properties


def properties(name, set=None, reset=None, **kwargs):
    """`set`: {setting of the configuration, or autostart: value as text}. `reset`: not set at all."""
    return _state(_properties, name, set=set or {}, reset=reset or [])


def _properties(run, name, set, reset):
    there = _there(run, name)
    if there is None:
        return

    def read(prop):
        return _xen("get_property", name, prop) if there else None

    for prop, value in set.items():
        text = "" if value is None else str(value)
        run.step(
            "property:%s:%s" % (name, prop),
            prop,
            read(prop),
            _xen("spelled", prop, text),
            lambda prop=prop, text=text: _xen("set_property", name, prop, text),
            lambda prop=prop: read(prop),
        )
    for prop in reset:
        old = read(prop)
        if old is None or old["default"]:
            continue
        run.step(
            "property:%s:%s" % (name, prop),
            prop,
            old,
            {"default": True, "value": _xen("get_default", name, prop)},
            lambda prop=prop: _xen("reset_property", name, prop),
            lambda prop=prop: read(prop),
        )


def _there(run, name):
    """Whether there is anything to read; None where that is an error."""
    there = converge.exists(run, _xen("get_qube", name) is not None, "domain")
    return there if there or run.test else None


# -- devices


def devices(name, assign=None, unassign=None, **kwargs):
    """`assign`: {"PORT:ID": {option: "True"}} with the options permissive and seize; what sits at PORT
    ("0000_02_00.0") must be ID. `unassign`: ["PORT:ID"], done first; one that is not there is fine."""
    return _state(_devices, name, assign=assign or {}, unassign=unassign or [])


def _devices(run, name, assign, unassign):
    there = _there(run, name)
    if there is None:
        return

    def assigned(place):
        return converge.assignment(_xen("pci_assigned", name) if there else [], place)

    for text in unassign:
        place = converge.place(text)
        run.step(
            "device:%s:%s" % (name, text),
            text,
            assigned(place),
            None,
            lambda place=place: _xen("unassign_pci", name, *place),
            lambda place=place: assigned(place),
        )
    for text, options in assign.items():
        place = converge.place(text)
        on = converge.on(options)
        run.step(
            "device:%s:%s" % (name, text),
            text,
            assigned(place),
            {"mode": "required", "options": on},
            lambda place=place, on=on: _xen("assign_pci", name, *place, on),
            lambda place=place: assigned(place),
        )
