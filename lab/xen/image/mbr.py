"""mbr.py DISK BOOT CORE: GRUB into the first MiB of a disk, and a table with one Linux partition behind it.

Sector 0 holds GRUB's boot.img (440 bytes of code), a disk signature and the table; boot.img loads core.img from sector 1 on, as
grub-install lays it (GNU GRUB manual, "BIOS installation"). A boot.img as packaged names sector 1.
"""
import os
import struct
import sys

SECTOR = 512
FIRST = 2048  # sectors; the partition begins at 1 MiB

disk, boot, core = sys.argv[1:]
with open(boot, "rb") as file:
    code = file.read(440)
with open(core, "rb") as file:
    image = file.read()
if len(image) > (FIRST - 1) * SECTOR:
    raise SystemExit(f"{core} does not fit before the partition")
sectors = os.path.getsize(disk) // SECTOR - FIRST
chs = b"\xfe\xff\xff"  # beyond what cylinders, heads and sectors can say
entry = struct.pack("<B3sB3sII", 0x80, chs, 0x83, chs, FIRST, sectors)
record = code.ljust(440, b"\0") + b"LAB0\0\0" + entry + bytes(48) + b"\x55\xaa"
with open(disk, "r+b") as file:
    file.write(record + image)
