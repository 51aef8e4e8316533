"""Volumes of qubes as the driver file-reflink of a pool on /var/lib/qubes keeps them (core-admin 4.3, storage/reflink.py and
storage/__init__.py): what a start, a stop and a revert do to the images, which revisions there are and what they are called.

An image is a folder here, named as Qubes names the file: `vm-templates/NAME/root.img` holds what the template has beyond what
guest/content.py gives it; `root-dirty.img` while it runs, `root.img.3@2026-11-30T17:00:00Z` a revision. An image that is not there is
empty.

    origin     of save_on_stop: a template's root and private, an AppVM's private. Started on a copy, which becomes the image at the stop;
               the image before becomes a revision. After a crash the copy is still there ("dirty"): qubesd's next start commits it
    snapshot   of snap_on_start: an AppVM's root, a disposable's root and private. Started on a copy of its source's image, which goes
"""

import os
import shutil
import stat
import time

from .errors import QubesValueError, QubesVMNotHaltedError, Refused, StoragePoolException

POOL, KERNELS = "varlibqubes", "linux-kernel"
BASE = "/var/lib/qubes"
ROOT_SIZE, PRIVATE_SIZE = 10 << 30, 2 << 30
KEPT = 1  # revisions, of a pool by default
NAMES = ("root", "private", "volatile", "kernel")
PREFIX = {"TemplateVM": "vm-templates"}  # all others are below appvms


def isodate(seconds):
    return time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(seconds))


def copy(source, target):
    """A folder with everything in it, whiteouts and opaque folders of an overlay too."""
    os.mkdir(target)
    for entry in os.scandir(source):
        to = os.path.join(target, entry.name)
        info = entry.stat(follow_symlinks=False)
        if stat.S_ISDIR(info.st_mode):
            copy(entry.path, to)
        elif stat.S_ISLNK(info.st_mode):
            os.symlink(os.readlink(entry.path), to)
        elif stat.S_ISREG(info.st_mode):
            shutil.copy2(entry.path, to)
        elif stat.S_ISCHR(info.st_mode):
            os.mknod(to, info.st_mode, info.st_rdev)
        elif stat.S_ISFIFO(info.st_mode):
            os.mkfifo(to, stat.S_IMODE(info.st_mode))
    shutil.copystat(source, target)


def remove(path):
    """A folder with everything in it, also what its owner may not enter."""

    def again(function, where, _):
        os.chmod(os.path.dirname(where), 0o700)
        os.chmod(where, 0o700)
        function(where)

    if os.path.lexists(path):
        shutil.rmtree(path, onerror=again)


class Volume:
    """One volume of a qube. `base`: the folder /var/lib/qubes of the disk, None where the model has none: then there are no images, and
    nothing is kept of any.
    """

    def __init__(self, qube, name, base=None):
        self.qube, self.name, self.base = qube, name, base
        klass = qube.klass
        own = klass in ("TemplateVM", "StandaloneVM")
        self.snap_on_start = (name == "root" and not own) or (name == "private" and klass == "DispVM")
        self.save_on_stop = (name == "root" and own) or (name == "private" and klass != "DispVM")
        self.rw = name != "kernel"
        self.vid = "%s/%s/%s" % (PREFIX.get(klass, "appvms"), qube.name, name)
        if name == "kernel":
            self.vid = qube.value("kernel") or ""

    @property
    def pool(self):
        return KERNELS if self.name == "kernel" else POOL

    @property
    def set(self):
        """What differs from the pool's defaults, as stored with the qube."""
        return self.qube.volumes.get(self.name, {})

    @property
    def revisions_to_keep(self):
        return self.set.get("revisions_to_keep", 0 if self.name == "kernel" else KEPT)

    @property
    def snapshots_disabled(self):
        return self.revisions_to_keep == -1 and not self.snap_on_start and self.save_on_stop

    @property
    def source(self):
        """The volume that a snapshot is made of: of the first in the chain of templates that has one of its own."""
        if not self.snap_on_start:
            return None
        qube = self.qube.template
        while qube:
            found = Volume(qube, self.name, self.base)
            if not found.snap_on_start:
                return found
            qube = qube.template
        return None

    @property
    def size(self):
        if self.name == "kernel":
            return 0
        return PRIVATE_SIZE if self.name == "private" else ROOT_SIZE

    # --- images

    def image(self, suffix=""):
        return os.path.join(self.base, self.vid + suffix + ".img")

    @property
    def clean(self):
        return self.image()

    @property
    def dirty(self):
        return self.image("-dirty")

    @property
    def path(self):
        if self.name == "kernel":
            return "%s/vm-kernels/%s/modules.img" % (BASE, self.vid) if self.vid else ""
        return "%s/%s-dirty.img" % (BASE, self.vid)

    @property
    def usage(self):
        if self.base is None or self.name == "kernel":
            return 0
        top = self.dirty if os.path.isdir(self.dirty) else self.clean
        return sum(
            os.lstat(os.path.join(folder, name)).st_blocks * 512 for folder, folders, files in os.walk(top) for name in folders + files
        )

    @property
    def revisions(self):
        """{id: time}, oldest first."""
        if self.base is None or not self.save_on_stop:
            return {}
        folder, start = os.path.split(self.clean + ".")
        names = [name[len(start) :] for name in (os.listdir(folder) if os.path.isdir(folder) else []) if name.startswith(start)]
        found = [tuple(name[:-1].split("@")) for name in names if "@" in name]
        return dict(sorted(found, key=lambda each: int(each[0])))

    def is_dirty(self):
        return self.save_on_stop and self.base is not None and os.path.isdir(self.dirty)

    def is_outdated(self):
        """A snapshot whose source has another image since."""
        if not self.snap_on_start or self.base is None or not os.path.isfile(self.clean):
            return False
        with open(self.clean) as file:
            return file.read() != self._mark()

    def _mark(self):
        """Which image of its source a snapshot was made of: the file `root.img` of a qube that runs. (Qubes has a hard link there.)"""
        source = self.source
        info = os.stat(source.clean) if source and os.path.isdir(source.clean) else None
        return "%s\n" % (info and info.st_ino)

    def start(self):
        if self.base is None or self.name in ("kernel", "volatile"):
            return
        if self.snapshots_disabled:
            self._prune(0)
            if not self.is_dirty():
                self._fresh()
                os.rename(self.clean, self.dirty)
        elif self.snap_on_start:
            remove(self.dirty)
            source = self.source
            if source and os.path.isdir(source.clean):
                os.makedirs(os.path.dirname(self.dirty), exist_ok=True)
                copy(source.clean, self.dirty)
            else:
                os.makedirs(self.dirty)
            with open(self.clean, "w") as file:
                file.write(self._mark())
        elif self.save_on_stop and not self.is_dirty():
            self._fresh()
            copy(self.clean, self.dirty)

    def _fresh(self):
        if not os.path.isdir(self.clean):
            os.makedirs(self.clean)

    def stop(self):
        if self.base is None or self.name in ("kernel", "volatile"):
            return
        remove(self.image("-work"))
        if self.is_dirty():
            os.utime(self.dirty)  # an image's time is that of its last write
            if self.snapshots_disabled:
                os.rename(self.dirty, self.clean)
            else:
                self._commit(self.dirty)
        elif not self.save_on_stop:
            remove(self.dirty)
            if os.path.isfile(self.clean):
                os.unlink(self.clean)

    def _commit(self, image):
        self._fresh()
        if self.revisions_to_keep != 0:
            os.rename(self.clean, self._next())
        else:
            remove(self.clean)
        self._prune()
        os.rename(image, self.clean)

    def _next(self):
        """Where the image goes as the next revision."""
        known = list(self.revisions)
        number = int(known[-1]) + 1 if known else 1
        return "%s.%d@%sZ" % (self.clean, number, isodate(int(os.stat(self.clean).st_mtime)))

    def _prune(self, keep=None):
        keep = self.revisions_to_keep if keep is None else keep
        for number, at in list(self.revisions.items())[: -keep or None]:
            remove("%s.%s@%sZ" % (self.clean, number, at))

    def revert(self, revision):
        if revision not in self.revisions:
            raise Refused("QubesVolumeRevisionNotFoundError")  # a KeyError in qubesd: no byte comes back
        if self.is_dirty():
            raise StoragePoolException("Cannot revert: %s is not cleanly stopped" % self.vid)
        former = "%s.%s@%sZ" % (self.clean, revision, self.revisions[revision])
        if self.revisions_to_keep != 0:
            os.rename(self.clean, self._next())  # none is pruned here
        else:
            remove(self.clean)
        os.rename(former, self.clean)

    def import_volume(self, source):
        """Its content becomes that of `source` as of its last stop."""
        if not self.save_on_stop or self.base is None:
            return
        if not source.save_on_stop:
            raise Refused("Cannot export: %s is not save_on_stop" % source.vid)  # a NotImplementedError there
        image = self.image("-import")
        remove(image)
        self._fresh()
        if os.path.isdir(source.clean):
            copy(source.clean, image)
        else:
            os.mkdir(image)
        self._commit(image)

    def rows(self):
        """[(name, text)] as admin.vm.volume.Info gives them."""
        source = self.source
        return [
            ("pool", self.pool),
            ("vid", self.vid),
            ("size", self.size),
            ("usage", self.usage),
            ("rw", self.rw),
            ("source", source.vid if source else ""),
            ("path", self.path),
            ("save_on_stop", self.save_on_stop),
            ("snap_on_start", self.snap_on_start),
            ("revisions_to_keep", self.revisions_to_keep),
            ("ephemeral", False),
            ("is_outdated", self.is_outdated()),
        ]


def volumes(qube, base=None):
    """{name: Volume}; dom0 and a remote qube have none."""
    if qube.klass in ("AdminVM", "RemoteVM"):
        return {}
    return {name: Volume(qube, name, base) for name in NAMES}


def start(qube, base):
    for each in volumes(qube, base).values():
        source = each.source
        if source and source.snapshots_disabled and source.is_dirty() and source.qube.run:
            raise StoragePoolException("Volume %s is running" % source.vid)
    for each in volumes(qube, base).values():
        each.start()


def stop(qube, base):
    for each in volumes(qube, base).values():
        each.stop()


def removed(qube, base):
    if base is not None and qube.klass not in ("AdminVM", "RemoteVM"):
        remove(os.path.dirname(Volume(qube, "root", base).clean))


def keep(qube, name, value):
    """revisions_to_keep: storage/__init__.py set_revisions_to_keep."""
    volume = Volume(qube, name)
    if name == "kernel":
        if value:
            raise QubesValueError("LinuxModules supports only revisions_to_keep=0")
        return
    if value < -1:
        raise QubesValueError("Invalid value for revisions_to_keep")
    switching = value != volume.revisions_to_keep and -1 in (value, volume.revisions_to_keep)
    affected = [qube]
    if qube.klass == "AppVM":
        affected += [other for other in qube.system.qubes.values() if other.klass == "DispVM" and other.template is qube]
    for each in affected:
        if switching and each.is_running():
            raise QubesVMNotHaltedError(each.name)
    qube.volumes.setdefault(name, {})["revisions_to_keep"] = value
