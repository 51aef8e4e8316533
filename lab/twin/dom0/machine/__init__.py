"""The machine below the twin's dom0: hardware, GRUB, initramfs, units, screen. Pure: works on any folder as dom0's
disk, with the world and the clock that it is given, so the sandbox and a fault runner in virtual time share it.
See core.Machine.
"""
