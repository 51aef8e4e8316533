"""
Salt state for PCI functions that dom0 gives up while it runs, on plain Xen. It converges, is dry under
test=True, and reads back by sysfs: xl lists a function that it failed to make assignable (xen-lab.md).

    sys-audio:
      pciback.assignable:
        - add: [0000_00_07.0]
        - remove: [0000_00_09.0]

`changes` has the keys of src/model/keys.ts: {"assignable:0000_00_07.0": {"old": None, "new": True}}.
"""

import os
import sys

# Salt's loader knows this file and not its neighbours; through `__utils__` what they call back would find
# no `__utils__` of its own.
sys.path.append(os.path.join(os.path.dirname(os.path.dirname(os.path.abspath(__file__))), "_utils"))

import converge  # noqa: E402


def _xen(function, *args):
    return __utils__["xen_domains." + function](*args)  # noqa: F821, Salt's loader puts it here


def assignable(name, add=None, remove=None, **kwargs):
    """`add`: pciback has them; what cannot be is back with its driver, and xl's words say why. A display
    is refused. `remove`: their driver has them again; one that the kernel line hides stays."""
    return converge.state(_assignable, name, __opts__, add=add or [], remove=remove or [])  # noqa: F821


def _assignable(run, _name, add, remove):
    for ports, new, function in ((remove, None, "remove_assignable"), (add, True, "add_assignable")):
        for port in ports:
            old = _xen("assignable", port)
            if new is None and old and port in _xen("hidden_ports"):
                continue
            run.step(
                "assignable:" + port,
                port,
                old,
                new,
                lambda function=function, port=port: _xen(function, port),
                lambda port=port: _xen("assignable", port),
            )
