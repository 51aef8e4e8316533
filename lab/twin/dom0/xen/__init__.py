"""A plain Xen host: what a Debian dom0 without Qubes has instead of qubesd. README.md of lab/twin, "A plain Xen host".

boot.py, disk.py, grub.py are below dom0 (pure Python, any folder as dom0's disk); the rest is dom0's: server.py is the process that is
hypervisor, xenstored and guests in one, and runs `xl` for bin/xl.
"""


def on(world):
    """Whether this world is a plain Xen host."""
    return world.get("platform") == "xen"
