#!/bin/sh
# build.sh early|late ROOT, a hook of mmdebstrap: what is done in the new dom0's file system before and after its packages are there.
#
# early: our files, so that the kernel package makes the right initramfs at once
# late:  keys, units, Salt, the guest, GRUB; then the disk, $LAB_OUT/disk.raw
#
# Environment: LAB_OUT (folder that gets the result; has id_ed25519.pub and host_key), LAB_WHEELS (Salt and what it needs, as wheels),
# LAB_DISK_MB. Nothing is mounted by a loop device, so it also works in a user namespace.
set -eu
here=$(dirname "$(readlink -f "$0")")
root=$2

if [ "$1" = early ]; then
  cp -r "$here/root/." "$root/"
  exit 0
fi

uuid=6c616278-656e-4d0f-8000-000000000001
inside() { chroot "$root" "$@"; }

# ---- identity and the way in
echo dom0 > "$root/etc/hostname"
printf '127.0.0.1 localhost dom0\n' > "$root/etc/hosts"
printf 'UUID=%s / ext4 defaults,noatime 0 1\n' "$uuid" > "$root/etc/fstab"
echo 6c616278656e4d0f8000000000000002 > "$root/etc/machine-id"
mkdir -p -m 700 "$root/root/.ssh"
install -m 600 "$LAB_OUT/id_ed25519.pub" "$root/root/.ssh/authorized_keys"
rm -f "$root"/etc/ssh/ssh_host_*
install -m 600 "$LAB_OUT/host_key" "$root/etc/ssh/ssh_host_ed25519_key"
install -m 644 "$LAB_OUT/host_key.pub" "$root/etc/ssh/ssh_host_ed25519_key.pub"
# What guests say on their consoles is kept. Debian's init script does not read the XENCONSOLED_TRACE that this file speaks of.
echo 'XENCONSOLED_ARGS=--log=guest' >> "$root/etc/default/xen"
inside useradd --create-home --shell /bin/bash user

# Names that are not in /etc/hosts are unknown at once: there is no name server, and Salt asks for its own name and address at each start.
sed -i 's/^hosts:.*/hosts: files/' "$root/etc/nsswitch.conf"

# ---- units
mkdir -p "$root/etc/systemd/system-generators"
for name in cryptsetup debug getty gpt-auto hibernate-resume integritysetup rc-local run system-update veritysetup; do
  ln -s /dev/null "$root/etc/systemd/system-generators/systemd-$name-generator"
done
inside systemctl enable -q lab-net.service ssh.service
# As on any desktop: dom0's greeter or session is there after each boot.
ln -sf /lib/systemd/system/lightdm.service "$root/etc/systemd/system/display-manager.service"
inside systemctl set-default -q graphical.target
# shellcheck disable=SC2046
inside systemctl mask -q $(grep -v '^#' "$here/masked.txt")

# ---- Salt
mkdir "$root/opt/wheels"
cp "$LAB_WHEELS"/* "$root/opt/wheels/"
inside python3 -m venv /opt/salt
inside /opt/salt/bin/python3 -m pip install -q --no-index --no-deps --find-links /opt/wheels -r /opt/wheels/requirements.txt
inside /opt/salt/bin/python3 -m compileall -q -j 0 /opt/salt/lib
# Salt asks every package that it finds there for entry points, again at each loader: a fifth of a call's time. None has any.
find "$root"/opt/salt/lib/python3*/site-packages -maxdepth 1 -name '*.dist-info' ! -name 'salt-*' -exec rm -r {} +
ln -s /opt/salt/bin/salt-call "$root/usr/local/bin/salt-call"
rm -r "$root/opt/wheels"

# ---- the guest: Debian's kernel (dom0's), Debian's busybox and xenstore client
guest=$root/opt/lab/guest
mkdir -p "$guest/bin" "$guest/dev" "$guest/proc" "$guest/sys" "$guest/modules"
install -m 755 "$here/guest/init" "$guest/init"
cp "$root/bin/busybox" "$guest/bin/"
for program in xenstore-read xenstore-write xenstore-watch; do
  cp -L "$root/usr/bin/$program" "$guest/bin/"
done
inside ldd /usr/bin/xenstore-read | grep -o '/[^ ]*' | while read -r library; do
  mkdir -p "$guest$(dirname "$library")"
  cp -L "$root$library" "$guest$library"
done
find "$root/usr/lib/modules" -name xen-pcifront.ko -exec cp {} "$guest/modules/" \;
(cd "$guest" && find . | LC_ALL=C sort | cpio -o -H newc --quiet | gzip -6) > "$root/opt/lab/guest.img"
rm -r "$guest"
# The same guest with a fault: a second archive behind the first adds one file.
mkdir "$guest" && echo hang > "$guest/fault"
(cat "$root/opt/lab/guest.img"; cd "$guest" && echo fault | cpio -o -H newc --quiet | gzip -6) > "$root/opt/lab/guest-hangs.img"
rm -r "$guest"
ln -s guest.img "$root/opt/lab/guest.initrd"
ln -s "$(cd "$root" && ls boot/vmlinuz-* | sed 's|^|/|')" "$root/opt/lab/guest.kernel"

# The same as an ELF file: for a PV guest xl unpacks the kernel by itself, which takes an emulated dom0 seconds.
python3 "$here/vmlinux.py" "$root"/boot/vmlinuz-* "$root/opt/lab/guest.vmlinux"

# ---- the initramfs: udev there looks at what can have a driver of its list
script=$root/usr/share/initramfs-tools/scripts/init-top/udev
sed -i -e '/udevadm trigger --type=subsystems/d' \
  -e 's/udevadm trigger --type=devices --action=add/& --subsystem-match=pci --subsystem-match=virtio --subsystem-match=block/' "$script"
grep -q 'add --subsystem-match=pci' "$script"
inside update-initramfs -u

# ---- GRUB: its configuration by Debian's own scripts, which ask grub-probe about a disk that is not there yet
mkdir -p "$root/boot/grub/i386-pc"
cp "$root"/usr/lib/grub/i386-pc/*.mod "$root"/usr/lib/grub/i386-pc/*.lst "$root/boot/grub/i386-pc/"
cat > "$root/opt/lab/grub-probe" <<PROBE
#!/bin/sh
for word; do case \$word in
  --target=device) echo /dev/vda1 ;; --target=disk) echo /dev/vda ;; --target=drive) echo '(hd0,msdos1)' ;;
  --target=fs) echo ext2 ;; --target=fs_uuid) echo $uuid ;; --target=fs_label) echo dom0 ;; --target=partmap) echo msdos ;;
  --target=hints_string) echo --hint-bios=hd0,msdos1 ;; --target=compatibility_hint) echo hd0,msdos1 ;;
esac; done
PROBE
chmod 755 "$root/opt/lab/grub-probe"
real=$root/usr/sbin/grub-probe
mv "$real" "$real.real" && cp "$root/opt/lab/grub-probe" "$real"
inside grub-editenv /boot/grub/grubenv create
inside update-grub
mv "$real.real" "$real" && rm "$root/opt/lab/grub-probe"
inside grub-mkimage -O i386-pc -p '(hd0,msdos1)/boot/grub' -o /boot/grub/i386-pc/core.img biosdisk part_msdos ext2

# ---- the disk: one ext4 partition at 1 MiB, GRUB before it
rm -rf "$root"/var/cache/apt/* "$root"/var/lib/apt/lists/* "$root"/var/log/* "$root"/tmp/*
mkdir -p "$root/var/log/xen/console" "$root/var/log/lightdm" "$root/var/log/journal"
disk=$LAB_OUT/disk.raw
truncate -s "${LAB_DISK_MB}M" "$disk"
plain=$(mktemp -d)
mount --bind "$root" "$plain" # not recursive: without what is mounted in it
mke2fs -q -t ext4 -L dom0 -U "$uuid" -E offset=1048576 -d "$plain" "$disk" "$((LAB_DISK_MB - 1))M"
umount "$plain" && rmdir "$plain"
python3 "$here/mbr.py" "$disk" "$root/usr/lib/grub/i386-pc/boot.img" "$root/boot/grub/i386-pc/core.img"
