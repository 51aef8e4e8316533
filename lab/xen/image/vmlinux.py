"""vmlinux.py BZIMAGE ELF: the kernel inside a bzImage, unpacked.

The header tells where the packed kernel is (Linux documentation, arch/x86/boot, "The Linux/x86 Boot Protocol": setup_sects at 0x1f1,
payload_offset at 0x248 and payload_length at 0x24c, counted from the protected-mode code). Debian packs it with xz.
"""
import lzma
import struct
import sys

image, out = sys.argv[1:]
with open(image, "rb") as file:
    text = file.read()
start = (text[0x1F1] + 1) * 512
offset, length = struct.unpack_from("<II", text, 0x248)
# Behind it stands the unpacked size, 4 bytes, which is no xz data.
kernel = lzma.LZMADecompressor().decompress(text[start + offset : start + offset + length])
if kernel[:4] != b"\x7fELF":
    raise SystemExit(f"{image} holds no ELF kernel packed with xz")
with open(out, "wb") as file:
    file.write(kernel)
