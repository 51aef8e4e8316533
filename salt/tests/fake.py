"""
A host in a temporary folder for the agent's tests: an Admin API server over a dict, stand-in
commands, and a client of the agent's protocol. Only what the tests need; the real counterpart is
lab/twin.
"""

import copy
import hashlib
import json
import os
import shutil
import socketserver
import stat
import subprocess
import sys
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
SALT = os.path.dirname(HERE)
AGENT = os.path.join(SALT, "agent")
sys.dont_write_bytecode = True
GUARD = os.path.join(SALT, "guard")
sys.path[:0] = [AGENT, GUARD, os.path.join(SALT, "_utils")]

DEFAULTS = {
    "autostart": "False",
    "guivm": "*default_guivm",
    "keyboard_layout": "us++",
    "label": "red",
    "maxmem": "4000",
    "memory": "400",
    "netvm": "",
    "provides_network": "False",
    "shutdown_timeout": "60",
    "vcpus": "2",
    "virt_mode": "pvh",
    "xid": "-1",
}
INTS = {"maxmem", "memory", "vcpus", "shutdown_timeout", "xid"}
QUBES = {"guivm", "netvm", "template", "default_guivm"}


class Refusal(Exception):
    """args: Qubes' error class, its format, its arguments."""


def qube(class_="AppVM", template="fedora", **properties):
    own = dict({"label": "red"}, **properties)
    if class_ in ("AppVM", "DispVM"):
        own["template"] = template
    return {
        "class": class_,
        "state": "Halted",
        "own": own,
        "features": {},
        "tags": ["created-by-dom0"],
        "pci": [],
        "usb": {},
        "root": {"packages": {}, "files": {}},  # what is inside, on its root volume
    }


class Qubes:
    """The state, and one method for each Admin API call."""

    def __init__(self):
        self.globals = {"default_guivm": "dom0"}
        self.qubes = {
            "dom0": dict(qube("AdminVM"), state="Running"),
            "fedora": qube("TemplateVM"),
            "personal": qube(),
            "work": qube(memory="500"),
        }
        self.start_seconds = 0
        self.stubborn = set()  # these do not shut down when asked
        self.calls = []
        self.available = [("00_02.0", "0x8086:0x9b41::p030000", "0000:00:02.0")]
        self.plugged = {("net", "1-2"): "0d8c:0014::u010100"}
        self.holders = {}
        self.driver, self.keeps = "lvm_thin", 1
        self.revisions = {}  # qube → [(id, what it was before)], the oldest first
        self.dirty = {}  # qube that runs → what it was when it started
        self.numbers = 0

    def dump(self):
        return copy.deepcopy([self.globals, self.qubes])

    def answer(self, method, arg, dest, payload):
        self.calls.append(method)
        function = getattr(self, method.replace("admin.", "").replace(".", "_"), None)
        if function is None:
            return b""
        try:
            return b"0\0" + function(arg, dest, payload).encode("utf-8", "surrogateescape")
        except Refusal as error:
            type_, *rest = error.args
            return ("2\0%s\0\0%s\0" % (type_, "\0".join(rest))).encode()
        except RecursionError:  # qubesd answers nothing where it meets an error of its own
            return b""

    def at(self, name):
        if name not in self.qubes:
            raise Refusal("QubesVMNotFoundError", "No such domain: %r", name)
        return self.qubes[name]

    def value(self, dest, name):
        own = self.at(dest)["own"]
        if name in own:
            return False, own[name]
        if name not in DEFAULTS:
            raise Refusal("QubesNoSuchPropertyError", "Invalid property %r of %s", name, dest)
        value = DEFAULTS[name]
        guivm = name == "keyboard_layout" and self.value(dest, "guivm")[1]
        if guivm and guivm != "dom0":
            return True, self.value(guivm, name)[1]
        return True, self.globals[value[1:]] if value.startswith("*") else value

    @staticmethod
    def show(name, default, value):
        kind = (
            "vm"
            if name in QUBES
            else "label"
            if name == "label"
            else "int"
            if name in INTS
            else "str"
        )
        return "default=%s type=%s %s" % (default, kind, value)

    def checked(self, name, value):
        if name in INTS and not value.isdigit():
            raise Refusal("QubesValueError", "Failed to parse property value as int")
        if name in QUBES and value and value not in self.qubes:
            raise Refusal("QubesValueError", "Can't set %s to non-existing qube %s", name, value)
        if name == "netvm" and value and self.value(value, "provides_network")[1] != "True":
            raise Refusal("QubesValueError", "The %s qube does not provide network", value)
        return value

    def vm_List(self, *_):
        return "".join(
            "%s class=%s state=%s uuid=0\n" % (n, q["class"], q["state"])
            for n, q in self.qubes.items()
        )

    def vm_property_Get(self, arg, dest, _):
        return self.show(arg, *self.value(dest, arg))

    def vm_property_GetDefault(self, arg, dest, _):
        value = DEFAULTS[arg]
        return "type=str " + (self.globals[value[1:]] if value.startswith("*") else value)

    def vm_property_List(self, _, dest, __):
        return "".join(n + "\n" for n in sorted(set(DEFAULTS) | set(self.at(dest)["own"])))

    def vm_property_GetAll(self, _, dest, __):
        names = sorted(set(DEFAULTS) | set(self.at(dest)["own"]))
        escaped = [
            (n, self.show(n, *self.value(dest, n)).replace("\\", "\\\\").replace("\n", "\\n"))
            for n in names
        ]
        return "".join("%s %s\n" % pair for pair in escaped)

    def vm_property_Set(self, arg, dest, payload):
        self.value(dest, arg)
        if arg == "xid":
            raise Refusal("QubesValueError", "property 'xid' on AppVM instance cannot be set")
        self.at(dest)["own"][arg] = self.checked(arg, payload)
        return ""

    def vm_property_Reset(self, arg, dest, _):
        self.value(dest, arg)
        self.at(dest)["own"].pop(arg, None)
        return ""

    def property_Get(self, arg, *_):
        if arg not in self.globals:
            raise Refusal("QubesNoSuchPropertyError", "Invalid property %r of app", arg)
        return self.show(arg, False, self.globals[arg])

    def property_GetAll(self, *_):
        return "".join("%s %s\n" % (n, self.show(n, False, v)) for n, v in self.globals.items())

    def property_Set(self, arg, _, payload):
        self.globals[arg] = self.checked(arg, payload)
        return ""

    def vm_feature_List(self, _, dest, __):
        return "".join(name + "\n" for name in self.at(dest)["features"])

    def vm_feature_Get(self, arg, dest, _):
        features = self.at(dest)["features"]
        if arg not in features:
            raise Refusal(
                "QubesFeatureNotFoundError", "Feature not set for domain %s: %s", dest, arg
            )
        return features[arg]

    def vm_feature_Set(self, arg, dest, payload):
        self.at(dest)["features"][arg] = payload
        return ""

    def vm_feature_Remove(self, arg, dest, _):
        self.vm_feature_Get(arg, dest, _)
        del self.at(dest)["features"][arg]
        return ""

    def vm_tag_List(self, _, dest, __):
        return "".join(tag + "\n" for tag in sorted(self.at(dest)["tags"]))

    def vm_tag_Get(self, arg, dest, _):
        return "1" if arg in self.at(dest)["tags"] else "0"

    def vm_tag_Set(self, arg, dest, _):
        self.at(dest)["tags"] = sorted(set(self.at(dest)["tags"]) | {arg})
        return ""

    def vm_tag_Remove(self, arg, dest, _):
        self.at(dest)["tags"] = [tag for tag in self.at(dest)["tags"] if tag != arg]
        return ""

    def vm_device_pci_Available(self, *_):
        return "".join(
            "%s:%s device_id='%s' port_id='%s' devclass='pci' backend_domain='dom0' "
            "vendor='Int\\'el' product='GPU' "
            "interfaces='p030000' _sbdf='%s'\n" % (port, device, device, port, sbdf)
            for port, device, sbdf in self.available
        )

    def vm_device_pci_Assigned(self, _, dest, __):
        return "".join("dom0+x %s\n" % payload for _, payload in self.at(dest)["pci"])

    def placed(self, arg):
        """qubesd answers nothing about a port that is empty, unless it need not look what is there
        (4.3.50, api/admin.py load_device_info)."""
        port = arg.partition("+")[2].partition(":")[0]
        looks = port != "*" and not arg.endswith(":*")
        if looks and port not in {one[0] for one in self.available}:
            raise RecursionError

    def vm_device_pci_Assign(self, arg, dest, payload):
        self.placed(arg)
        self.at(dest)["pci"].append([arg, payload])
        return ""

    def vm_device_pci_Unassign(self, arg, dest, _):
        self.placed(arg)
        self.at(dest)["pci"] = [entry for entry in self.at(dest)["pci"] if entry[0] != arg]
        return ""

    # USB: `plugged` {(backend, port): id}, `holders` {(backend, port): qube}; without the proxy in dom0
    # (`plugged` None) it knows no such calls.

    def vm_device_usb_Available(self, _, dest, __):
        if self.plugged is None:
            raise RecursionError
        return "".join(
            "%s:%s device_id='%s' port_id='%s' devclass='usb' backend_domain='%s' vendor='C-Media' "
            "product='Head\\'set'%s interfaces='x'\n"
            % (port, id_, id_.replace("'", "\\'"), port, backend, self.holder(backend, port))
            for (backend, port), id_ in self.plugged.items()
            if backend == dest and self.at(dest)["state"] == "Running"
        )

    def holder(self, *place):
        return " attachment='%s'" % self.holders[place] if place in self.holders else ""

    def vm_device_usb_Assigned(self, _, dest, __):
        if self.plugged is None:
            raise RecursionError
        return "".join("%s %s\n" % pair for pair in self.at(dest)["usb"].items())

    def vm_device_usb_Assign(self, arg, dest, payload):
        if arg in self.at(dest)["usb"]:
            raise Refusal("DeviceAlreadyAssigned", "usb device already assigned")
        self.at(dest)["usb"][arg] = payload
        return ""

    def vm_device_usb_Unassign(self, arg, dest, _):
        if arg not in self.at(dest)["usb"]:
            raise Refusal("DeviceNotAssigned", "usb device not assigned")
        del self.at(dest)["usb"][arg]
        return ""

    def vm_device_usb_Attach(self, arg, dest, _):
        place = tuple(arg.partition(":")[0].split("+"))
        if place in self.holders or self.at(dest)["state"] != "Running":
            raise Refusal("DeviceAlreadyAttached", "already attached, or off")
        self.holders[place] = dest
        return ""

    def vm_device_usb_Detach(self, arg, dest, _):
        place = tuple(arg.partition(":")[0].split("+"))
        if self.holders.get(place) != dest:
            raise Refusal("DeviceNotAssigned", "not attached")
        del self.holders[place]
        return ""

    def label_List(self, *_):
        return "red\nblack\n"

    def vm_CurrentState(self, _, dest, __):
        return "mem=0 power_state=%s" % self.at(dest)["state"]

    def vm_Create_AppVM(self, arg, _, payload):
        fields = dict(word.split("=") for word in payload.split())
        self.at(arg)
        if fields["name"] in self.qubes:
            raise Refusal("QubesValueError", "VM %s already exists", fields["name"])
        self.qubes[fields["name"]] = qube(template=arg, label=fields["label"])
        return ""

    def vm_Remove(self, _, dest, __):
        if self.at(dest)["state"] != "Halted":
            raise Refusal("QubesVMNotHaltedError", "Domain is not powered off: %r", dest)
        users = [
            v for n, q in self.qubes.items() if n != dest for k, v in q["own"].items() if k in QUBES
        ]
        if dest in users + list(self.globals.values()):
            raise Refusal("QubesVMInUseError", "Domain is in use: %r", dest)
        del self.qubes[dest]
        return ""

    # Volumes as core-admin keeps them: a revision at each stop, of what was there at the start; one that
    # is gone back to stays (lvm_thin), or goes and leaves one of what was there instead (reflink).

    def begin(self, name):
        if self.at(name)["class"] == "TemplateVM":
            self.dirty.setdefault(name, copy.deepcopy(self.at(name)["root"]))

    def stopped(self, name):
        self.at(name)["state"] = "Halted"
        if name in self.dirty:
            self.keep(name, self.dirty.pop(name))

    def keep(self, name, content):
        self.numbers += 1
        self.revisions.setdefault(name, []).append(("%d-back" % self.numbers, content))
        self.revisions[name] = self.revisions[name][-self.keeps :] if self.keeps > 0 else []

    def vm_volume_Info(self, arg, dest, _):
        self.at(dest)
        if arg != "root":
            raise RecursionError
        if self.keeps is None:
            raise Refusal("StoragePoolException", "pool main is gone")
        return "pool=main\nvid=x\nrevisions_to_keep=%s\n" % self.keeps

    def vm_volume_Set_revisions_to_keep(self, _, dest, payload):
        self.keeps = int(payload)
        return ""

    def pool_Info(self, *_):
        return "driver=%s\n" % self.driver

    def vm_volume_ListSnapshots(self, _, dest, __):
        return "".join(one + "\n" for one, _ in self.revisions.get(dest, []))

    def vm_volume_Revert(self, _, dest, payload):
        if dest in self.dirty:
            raise Refusal("StoragePoolException", "Cannot revert dirty volume, stop the qube first")
        found = dict(self.revisions.get(dest, []))
        if payload not in found:
            raise Refusal("QubesVolumeRevisionNotFoundError", "no revision %s", payload)
        present, self.at(dest)["root"] = self.at(dest)["root"], copy.deepcopy(found[payload])
        if self.driver == "file-reflink":
            self.revisions[dest] = [one for one in self.revisions[dest] if one[0] != payload]
            self.keep(dest, present)
        return ""

    def inside(self, _, dest, payload):
        """Not of Qubes: what a command of the tests does inside a qube that runs."""
        if self.at(dest)["state"] != "Running":
            raise Refusal("QubesVMNotStartedError", "Domain is powered off: %r", dest)
        kind, *rest = json.loads(payload)
        root = self.at(dest)["root"]
        if kind == "packages":
            return json.dumps(root["packages"])
        (root["packages"] if kind == "install" else root["files"])[rest[0]] = rest[1]
        return ""

    def vm_Create_DispVM(self, arg, _, payload):
        name = payload.split()[0].partition("=")[2]
        self.qubes[name] = qube("DispVM", arg)
        return ""

    def vm_Start(self, _, dest, __):
        if self.at(dest)["state"] == "Running":
            return ""
        self.begin(dest)
        self.at(dest)["state"] = "Transient"
        time.sleep(self.start_seconds)
        if self.at(dest)["state"] == "Transient":
            self.at(dest)["state"] = "Running"
        return ""

    def vm_Shutdown(self, arg, dest, __):
        if self.at(dest)["state"] == "Halted":
            raise Refusal("QubesVMNotStartedError", "Domain is powered off: %r", dest)
        clients = [
            n
            for n, q in self.qubes.items()
            if q["state"] != "Halted"
            and n not in ("dom0", dest)
            and self.value(n, "guivm")[1] == dest
        ]
        if clients and arg != "force":
            raise Refusal(
                "QubesVMInUseError",
                "There are running VMs using this VM as GuiVM: %s",
                ", ".join(clients),
            )
        if dest not in self.stubborn:
            self.stopped(dest)
        return ""

    def vm_Kill(self, _, dest, __):
        if self.at(dest)["state"] == "Halted":
            raise Refusal("QubesVMNotStartedError", "Domain is powered off: %r", dest)
        self.stopped(dest)
        return ""


class Server(socketserver.ThreadingUnixStreamServer):
    daemon_threads = True
    request_queue_size = 64

    def __init__(self, path, qubes):
        class Handler(socketserver.BaseRequestHandler):
            def handle(self):
                data = b""
                while True:
                    chunk = self.request.recv(65536)
                    if not chunk:
                        break
                    data += chunk
                head, _, payload = data.decode("utf-8", "surrogateescape").partition("\0")
                call, _, _, dest = head.split(" ")
                method, _, arg = call.partition("+")
                try:
                    self.request.sendall(qubes.answer(method, arg, dest, payload))
                except BrokenPipeError:
                    pass

        super().__init__(path, Handler)


# qubesctl plays Salt: the "formula" is a JSON list of actions, done in order.
QUBESCTL = """
import json, os, sys, time
root, sls = os.environ["FAKE_ROOT"], sys.argv[3]
sys.path.insert(0, os.environ["FAKE_UTILS"])
sys.dont_write_bytecode = True
import qubes_admin as admin
admin.SOCKET = root + "/run/qubesd.sock"
if sys.argv[1] == "--skip-dom0":
    exec(open(root + "/bin/qubesctl-targets").read())
    sys.exit()
assert sys.argv[1:3] == ["--dom0-only", "state.sls"], sys.argv
assert sys.argv[4:] == ["saltenv=user", "--out=json", "--no-color"], sys.argv
open(root + "/log", "a").write("salt\\n")
states = {}
formula = open(root + "/srv/user_salt/" + sls.replace(".", "/") + ".sls").read()
for number, action in enumerate(json.loads(formula)):
    kind, args, result, comment = action[0], action[1:], True, ""
    if kind == "admin":
        getattr(admin, args[0])(*args[1:])
    elif kind == "file":
        os.makedirs(os.path.dirname(root + args[0]), exist_ok=True)
        open(root + args[0], "w").write(args[1])
    elif kind == "tokens":  # as the state boot.args would
        import grub
        name = root + "/etc/default/grub"
        text = open(name).read()
        open(name, "w").write(grub.edit_default(text, *args))
        name = root + "/boot/grub2/grub.cfg"
        text = open(name).read()
        entry = grub.default_entry(text, {"saved_entry": "qubes"})
        open(name, "w").write(grub.edit_config(text, *args, entry))
    elif kind == "package":
        packages = json.load(open(root + "/packages"))
        packages[args[0]] = args[1]
        json.dump({n: v for n, v in packages.items() if v}, open(root + "/packages", "w"))
    elif kind == "child":  # a grandchild that ignores SIGTERM and writes when it is done
        import subprocess
        subprocess.run([sys.executable, "-c", "import os, signal, time; "
                        "signal.signal(15, signal.SIG_IGN); "
                        "open(%r, 'w').write(str(os.getpid())); "
                        "time.sleep(30)" % (root + "/child")])
    elif kind == "litter":  # what Salt leaves where it works when it is killed
        assert os.getcwd() == os.environ["TMPDIR"] == root + "/var/lib/guidomain/scratch"
        open("__salt.tmp.abcd1234", "w").write("x")
    elif kind == "sleep":
        time.sleep(args[0])
    elif kind == "compile":
        print(json.dumps({"local": [args[0]]}))
        sys.exit(1)
    elif kind == "die":
        sys.stderr.write(args[0])
        sys.exit(args[1])
    elif kind == "fail":
        result, comment = False, args[0]
    states["qube_|-s%d_|-s%d_|-properties" % (number, number)] = {
        "__id__": "s%d" % number, "__run_num__": number, "result": result, "comment": comment,
        "changes": {}}
print(json.dumps({"local": states}))
sys.exit(2 if any(state["result"] is False for state in states.values()) else 0)
"""
# As qubesctl and salt-ssh end it: Salt's text for a person, two blanks in.
TARGETS = """
assert sys.argv[2] == "--targets" and sys.argv[4:6] == ["--show-output", "state.sls"], sys.argv
assert sys.argv[7:] == ["saltenv=user"], sys.argv
target, sls = sys.argv[3], sys.argv[6]
open(root + "/log", "a").write("inside\\n")
policy = root + "/etc/qubes/policy.d/30-qubesctl-salt.policy"
disposable = ("disp-mgmt-" + target)[:31]
def here(action):
    return admin.call("admin.inside", target, payload=json.dumps(action))
if disposable not in admin.qubes():
    admin.call("admin.vm.Create.DispVM", "dom0", "fedora", "name=%s label=red" % disposable)
admin.start(disposable)
open(policy, "w").write("# managed\\nqubes.Filecopy * %s %s allow user=root\\n" % (disposable, target))
text, code, number = [], 0, 0
for action in json.loads(open(root + "/srv/user_salt/" + sls.replace(".", "/") + ".sls").read()):
    kind, good, comment = action[0], True, "done"
    if kind == "say":
        print(action[1])
        text = None
        code = action[2]
        break
    if kind == "sleep":
        time.sleep(action[1])
        continue
    if kind == "fail":
        good, comment = False, action[1]
    else:
        here(action)
    function = "pkg.installed" if kind in ("install", "fail") else "file.managed"
    text += ["-" * 10, "          ID: s%d" % number, "    Function: " + function,
             "      Result: %s" % good, "     Comment: " + comment.replace("\\n", "\\n" + " " * 14),
             "     Started: 12:00:00", "    Duration: 1 ms", "     Changes:   "]
    if good:
        text += [" " * 14 + "-" * 10, " " * 14 + "x:", " " * 18 + "new"]
    number += 1
    if not good:
        code = 2
        break
if text is not None:
    lines = (chr(10).join(text + ["", "Summary for " + target])).splitlines()
    print(target + ":" + chr(10) + chr(10).join("  " + line for line in lines))
admin.kill(disposable)
admin.remove(disposable)
os.unlink(policy)
sys.exit(code)
"""
RPM = """
import json, os, sys
packages = json.load(open(os.environ["FAKE_ROOT"] + "/packages"))
for name in sys.argv[2:]:
    print("%s-%s-1.fc41.noarch" % (name, packages[name]) if name in packages
          else "package %s is not installed" % name)
"""
DNF = """
import json, os, sys
name = os.environ["FAKE_ROOT"] + "/packages"
packages = json.load(open(name))
assert sys.argv[1:3] == ["-y", "remove"]
if os.path.exists(name + "-held"):
    sys.exit("Error: Problem: it is held")
del packages[sys.argv[3]]
json.dump(packages, open(name, "w"))
"""
XL = """
import sys
info = ["xen_version            : 4.19.4", "virt_caps              : pv hvm hvm_directio",
        "total_memory           : 16000"]
dmesg = ["(XEN) [0000001f] I/O virtualisation enabled", "(XEN) Interrupt remapping disabled"]
print("\\n".join(info if sys.argv[1] == "info" else dmesg))
"""
QVM_RUN = """
import json, os, re, sys
if sys.argv[-1].startswith("systemctl is-enabled"):
    said = os.environ["FAKE_ROOT"] + "/enabled"
    print(open(said).read() or "enabled" if os.path.exists(said) else "disabled")
    sys.exit()
if re.match("LC_ALL=C (rpm -q|dpkg-query)", sys.argv[-1]):
    sys.dont_write_bytecode = True
    sys.path.insert(0, os.environ["FAKE_UTILS"])
    import qubes_admin as admin
    admin.SOCKET = os.environ["FAKE_ROOT"] + "/run/qubesd.sock"
    there = json.loads(admin.call("admin.inside", sys.argv[-2], payload='["packages"]'))
    names = sys.argv[-1].rpartition("' ")[2].split()
    missing = [name for name in names if name not in there]
    rpm = "rpm -q" in sys.argv[-1]
    for name in names:
        if name in there:
            print(name if rpm else name + " ii ")
        elif os.path.exists(os.environ["FAKE_ROOT"] + "/no-answer"):
            pass
        elif rpm:
            print("package %s is not installed" % name)
        else:
            sys.stderr.write("dpkg-query: no packages found matching %s\\n" % name)
    sys.exit(min(len(missing), 100) if rpm else int(bool(missing)))
print("in %s: \\x1b[31m%s\\x07" % (sys.argv[-2], sys.argv[-1]))
sys.exit(3 if sys.argv[-1] == "false" else 0)
"""


# As Qubes' installer writes it, and grub2-mkconfig after it (shortened).
DEFAULT_GRUB = """\
GRUB_TIMEOUT=5
GRUB_DEFAULT=saved
GRUB_CMDLINE_LINUX="rd.lvm.lv=qubes_dom0/root quiet"
GRUB_CMDLINE_LINUX="$GRUB_CMDLINE_LINUX usbcore.authorized_default=0"
. /etc/default/grub.qubes
"""
GRUB_CFG = """\
### BEGIN /etc/grub.d/00_header ###
if [ -s $prefix/grubenv ]; then
  load_env
fi
if [ "${next_entry}" ] ; then
   set default="${next_entry}"
   set next_entry=
   save_env next_entry
   set boot_once=true
else
   set default="${saved_entry}"
fi
function savedefault {
  if [ -z "${boot_once}" ]; then
    save_env saved_entry
  fi
}
### BEGIN /etc/grub.d/20_linux_xen ###
menuentry 'Qubes, with Xen hypervisor' --class qubes --class xen $menuentry_id_option 'qubes' {
\tinsmod part_gpt
\tsearch --no-floppy --fs-uuid --set=root 1234-abcd
\techo\t'Loading Xen 4.19.4 ...'
\tmultiboot2\t/xen-4.19.4.gz placeholder  console=none dom0_mem=min:1024M ${xen_rm_opts}
\techo\t'Loading Linux 6.12 ...'
\tmodule2\t/vmlinuz-6.12 placeholder root=/dev/dm-0 ro rd.lvm.lv=qubes_dom0/root quiet usbcore.authorized_default=0
\tmodule2\t--nounzip\t/initramfs-6.12.img
}
submenu 'Advanced options for Qubes (with Xen hypervisor)' $menuentry_id_option 'advanced' {
\tmenuentry 'Qubes, with Xen 4.19.4 and Linux 6.11' --class qubes $menuentry_id_option 'qubes-6.11' {
\t\tmultiboot2\t/xen-4.19.4.gz placeholder
\t\tmodule2\t/vmlinuz-6.11 placeholder root=/dev/dm-0 ro rd.lvm.lv=qubes_dom0/root quiet usbcore.authorized_default=0
\t\tmodule2\t--nounzip\t/initramfs-6.11.img
\t}
}
menuentry 'Another system' $menuentry_id_option 'other' {
\tlinux\t/boot/vmlinuz root=/dev/sdb1 quiet
}
### BEGIN /etc/grub.d/41_custom ###
if [ -f  ${config_directory}/custom.cfg ]; then
  source ${config_directory}/custom.cfg
elif [ -z "${config_directory}" -a -f  $prefix/custom.cfg ]; then
  source $prefix/custom.cfg
fi
"""

SYSTEMCTL = """
import os, subprocess, sys
root, words = os.environ["FAKE_ROOT"], [w for w in sys.argv[1:] if not w.startswith("-")]
service = root + "/etc/systemd/system/guidomain-guard.service"
if words[0] in ("start", "restart") and words[1] == "guidomain-guard.service":
    if not os.path.exists(service):
        sys.exit(5)
    guard = root + "/var/lib/guidomain/guard/guard.py"
    subprocess.check_call([sys.executable, "-I", guard, "boot"], stdout=subprocess.DEVNULL)
    subprocess.Popen([sys.executable, "-I", guard, "watch"], stdin=subprocess.DEVNULL,
                     stdout=subprocess.DEVNULL, start_new_session=True)
sys.exit(3 if words[0] == "is-active" else 0)
"""


def sources(case=None):
    """{module: source} of what is shipped, pointed at the folder of `case`."""
    found = {}
    for folder in (AGENT, GUARD, os.path.join(SALT, "_utils")):
        for name in os.listdir(folder):
            if name.endswith(".py") and name != "loader.py":
                with open(os.path.join(folder, name)) as file:
                    found[name[:-3]] = file.read()
    if case:
        found["common"] = found["common"].replace('ROOT = ""', "ROOT = %r" % case.root)
        found["common"] += "\nos.geteuid = lambda: 0\n"
        found["qubes_admin"] = found["qubes_admin"].replace(
            "/run/qubesd.sock", case.root + "/run/qubesd.sock"
        )
    return found


class Rebooted(Exception):
    """Not a failure: the machine goes down here."""


class Machine:
    """machine.here in virtual time; a guard is "running" once systemd was asked for it."""

    def __init__(self, case):
        self.case, self.clock, self.asked = case, 100.0, []
        self.running = None
        self.guards = True  # False: the guard is never started, as if it did not exist
        self.passes = []  # what the checks of a confirmed mode say, in turn; then always yes
        self.killed = []

    def boottime(self):
        self.clock += 0.001
        return self.clock

    def now(self):
        return time.time()

    def boot_id(self):
        return self.case.text("/proc/sys/kernel/random/boot_id").strip()

    def cmdline(self):
        return self.case.text("/proc/cmdline")

    def sleep(self, seconds):
        self.clock += seconds

    def systemctl(self, *words):
        import common
        import units

        self.asked.append(words)
        if words[0] in ("start", "restart") and words[1] == units.SERVICE:
            assert os.path.exists(common.path(units.FOLDER + units.SERVICE))
            if words[0] == "restart" or not units.alive():
                self.stop_guard()
            if self.guards and self.running is None:
                self.running = units.live()
        return 0

    def stop_guard(self):
        if self.running is not None:
            os.close(self.running)
            self.running = None

    def watchdog(self):
        return None

    def is_watched(self):
        return None

    def unwatch(self):
        pass

    def reboot(self):
        raise Rebooted()

    def kill(self, pid):
        self.killed.append(pid)

    def checks(self, checks, seconds):
        import common

        self.clock += min(seconds, 10)
        for one in checks:
            if one["kind"] == "start" and not self.case.starts(one["qube"]):
                raise common.Failure("verify-failed", "it does not start", evidence=[])
        if self.passes and not self.passes.pop(0):
            raise common.Failure("verify-failed", "no screen", evidence=[])
        return []


class HostCase(unittest.TestCase):
    """A fresh host for each test, in-process modules pointed at it."""

    def setUp(self):
        import common
        import qubes_admin

        self.root = tempfile.mkdtemp(prefix="guidomain-test-")
        self.addCleanup(shutil.rmtree, self.root, True)
        for folder in (
            "run/qubes",
            "var/lib",
            "srv",
            "etc/salt",
            "etc/qubes/policy.d/include",
            "etc/qubes-rpc",
            "usr/share/xsessions",
            "bin",
            "sys/bus/pci/devices/0000:00:02.0",
            "sys/bus/pci/drivers/pciback",
            "boot/grub2",
            "etc/default",
            "proc/sys/kernel/random",
            "etc/systemd/system",
        ):
            os.makedirs(os.path.join(self.root, folder))
        self.put("/etc/qubes-release", "Qubes release 4.3.0 (R4.3)\n")
        self.put("/etc/qubes/policy.d/90-default.policy", "* * @anyvm @anyvm deny\n", 0o664)
        self.put("/etc/default/grub", DEFAULT_GRUB)
        self.put("/boot/grub2/grub.cfg", GRUB_CFG, 0o600)
        with open(self.root + "/boot/grub2/grubenv", "wb") as file:
            file.write(b"# GRUB Environment Block\nsaved_entry=qubes\n".ljust(1024, b"#"))
        self.put("/proc/sys/kernel/random/boot_id", "boot-1\n")
        self.put("/proc/cmdline", "placeholder root=/dev/dm-0 ro quiet\n")
        self.put("/packages", json.dumps({"old-package": "1.2"}))
        for name, text in (
            ("class", "0x030000"),
            ("vendor", "0x8086"),
            ("device", "0x9b41"),
            ("subsystem_vendor", "0x17aa"),
            ("subsystem_device", "0x5082"),
            ("reset_method", "flr bus"),
        ):
            self.put("/sys/bus/pci/devices/0000:00:02.0/" + name, text + "\n")
        for name, code in (
            ("qubesctl", QUBESCTL),
            ("qubesctl-targets", TARGETS),
            ("rpm", RPM),
            ("dnf", DNF),
            ("xl", XL),
            ("qvm-run", QVM_RUN),
            ("systemctl", SYSTEMCTL),
        ):
            self.put("/bin/" + name, "#!%s\n%s" % (sys.executable, code), 0o755)
        self.qubes = Qubes()
        self.server = Server(self.root + "/run/qubesd.sock", self.qubes)
        threading.Thread(target=self.server.serve_forever, args=(0.05,), daemon=True).start()
        self.addCleanup(self.server.server_close)
        self.addCleanup(self.server.shutdown)
        self.env = dict(
            os.environ,
            PATH=self.root + "/bin:" + os.environ["PATH"],
            FAKE_ROOT=self.root,
            FAKE_UTILS=os.path.join(SALT, "_utils"),
        )
        old = dict(os.environ)
        os.environ.update(self.env)
        self.addCleanup(lambda: (os.environ.clear(), os.environ.update(old)))
        geteuid, os.geteuid = os.geteuid, lambda: 0  # the tests run as anybody
        self.addCleanup(setattr, os, "geteuid", geteuid)
        fsync, os.fsync = os.fsync, lambda _fd: None  # thousands of them, and no disk to lose
        self.addCleanup(setattr, os, "fsync", fsync)
        common.ROOT, qubes_admin.SOCKET = self.root, self.root + "/run/qubesd.sock"
        self.events = []
        self.hung = None
        import machine
        import steps

        self.machine = machine.here = Machine(self)
        self.addCleanup(self.machine.stop_guard)
        self.addCleanup(setattr, steps, "hook", lambda _name: None)

    def text(self, name):
        with open(self.root + name) as file:
            return file.read()

    # -- boots: what GRUB, the kernel line and qubesd make of the files on disk

    def turn_on(self, folder, chosen=None):
        """Off and on again, as far as GRUB goes with its configuration in `folder`: (text, entry, kernel words) of what it starts.
        `chosen`: id of the entry that somebody at the keyboard takes."""
        import grub
        import menu

        self.machine.stop_guard()
        for name in os.listdir(self.root + "/run"):
            if name.startswith("guidomain."):
                os.unlink(self.root + "/run/" + name)
        config = self.text(folder + "/grub.cfg")
        custom = menu.common.read_text(folder + "/custom.cfg") or ""
        env = menu.environment()
        wanted = env.get("next_entry")
        if wanted:
            menu.set_environment({"next_entry": None})
        elif "guidomain_try" in custom:
            if env.get(grub.TRY) == "1":
                wanted = grub.RESCUE
            else:
                menu.set_environment({grub.TRY: "1"})
        wanted = chosen or wanted
        found = [(t, e) for t in (config, custom) for e in grub.entries(t) if e["id"] == wanted]
        text, entry = found[0] if found else (config, grub.default_entry(config, env))
        words = text.split("\n")[entry["kernel"]].split()[2:]
        boot = int(self.machine.boot_id().rpartition("-")[2]) + 1
        self.put("/proc/sys/kernel/random/boot_id", "boot-%d\n" % boot)
        self.put("/proc/cmdline", " ".join(words) + "\n")
        return text, entry, words

    def power_cycle(self):
        """Off and on again, nobody at the keyboard. The id of the entry that booted; None where the
        initramfs stopped, as a device to hide is not there."""
        import grub

        self.hung = None
        _, entry, words = self.turn_on("/boot/grub2")
        pciback = self.root + "/sys/bus/pci/drivers/pciback"
        for name in os.listdir(pciback):
            os.unlink(pciback + "/" + name)
        known = {port: sbdf for port, _, sbdf in self.qubes.available}
        for token in grub.tokens(words):
            if token.startswith(grub.HIDE):
                if token[len(grub.HIDE) :] not in known:
                    self.hung = "initramfs"
                    return None
                self.put("/sys/bus/pci/drivers/pciback/" + known[token[len(grub.HIDE) :]], "")
        # qubesd stops the storage of what does not run when it starts (core-admin, app.py stop_storage).
        for name, one in self.qubes.qubes.items():
            one["state"] = "Running"
            if name != "dom0":
                self.qubes.stopped(name)
        return entry["id"]

    def pulls(self, name):
        """A qube that starts takes its devices; from a driver of dom0 that runs, with the host."""
        hidden = os.listdir(self.root + "/sys/bus/pci/drivers/pciback")
        for arg, _ in self.qubes.qubes[name]["pci"]:
            place, _, identity = arg.partition("+")[2].partition(":")
            for port, device, sbdf in self.qubes.available:
                named = place in ("*", port) and identity in ("*", device)
                if named and sbdf not in hidden:
                    self.hung = name + " pulled a device from dom0"

    def alone(self, reboots=6):
        """No controller any more: boots and looks until there is nothing left to do."""
        import guard

        for _ in range(reboots):
            try:
                if not self.machine.guards:
                    return
                one = guard.Guard()
                one.boot()
                seconds = 0
                while seconds is not None:
                    self.machine.sleep(seconds)
                    seconds = one.step()
                self.autostart()
                return
            except Rebooted:
                self.power_cycle()
        raise AssertionError("it reboots for ever")

    def starts(self, name):
        """A start through qubesd, by the guard's check."""
        one = self.qubes.qubes[name]
        if one["features"].get("prohibit-start"):
            return False
        if one["state"] != "Running":
            one["state"] = "Running"
            self.pulls(name)
        return True

    def autostart(self):
        for name, one in self.qubes.qubes.items():
            if one["own"].get("autostart") == "True" and not one["features"].get("prohibit-start"):
                one["state"] = "Running"
                self.pulls(name)

    def screen(self):
        """Who drives the screen; None where nobody does."""
        words = self.text("/proc/cmdline").split()
        if self.hung:
            return None
        if not os.listdir(self.root + "/sys/bus/pci/drivers/pciback"):
            return None if "systemd.mask=lightdm.service" in words else "dom0"
        for name, one in self.qubes.qubes.items():
            if one["pci"] and one["state"] == "Running":
                return name
        return None

    def put(self, name, text, mode=0o644):
        with open(self.root + name, "w") as file:
            file.write(text)
        os.chmod(self.root + name, mode)

    def dump(self):
        """Everything of this host: Qubes' state, and every file and folder with its mode."""
        files = {}
        for parent, folders, names in os.walk(self.root):
            for name in folders + names:
                full = os.path.join(parent, name)
                status = os.lstat(full)
                content = None
                if stat.S_ISREG(status.st_mode):
                    with open(full, "rb") as file:
                        content = file.read()
                files[full[len(self.root) :]] = (oct(status.st_mode), content)
        files.pop("/log", None)
        return {"qubes": self.qubes.dump(), "files": files}

    def args(self, actions=(), touch=(), **more):
        """ApplyArgs with a formula of `actions` for the stand-in Salt."""
        args = {
            "holder": "alice@desk",
            "wait": 0,
            "owner": "urn:gui",
            "touch": list(touch),
            "release": [],
            "shutdown": [],
            "formula": {"guidomain/sys-gui.sls": json.dumps(list(actions))},
            "sls": "guidomain.sys-gui",
            "modules": {"_states/qube.py": "# states\n", "_utils/qubes_admin.py": "# utils\n"},
            "verify": [],
            "restart": [],
            "trial": {"seconds": 60, "boot": None, "watch": None},
            "keep": None,
            "after": None,
            "claims": {"formerly": None, "takes": {}, "waits": {}, "heirs": {}},
            "inside": [],
        }
        args.update(more)
        return args

    def emit(self, *event):
        self.events.append(event)

    def stop(self):
        import common

        stop = common.Stop()
        self.addCleanup(stop.close)
        return stop

    def begin(self, args, stop=None):
        """The first request alone."""
        import apply

        bundle = json.dumps(sources()).encode()
        return apply.apply(args, self.emit, stop or self.stop(), bundle)

    def confirm(self, trial_id, since=None):
        import apply

        args = {"id": trial_id, "holder": "alice@desk"}
        args["snapshot"] = {"packages": ["old-package", "new-package"]}
        since = self.machine.boottime() if since is None else since
        return apply.confirm(args, self.emit, self.stop(), since, "d1", b"{}")

    def apply(self, args, stop=None):
        """A live trial as the controller makes it."""
        first = self.begin(args, stop)
        self.assertEqual(first["phase"], "verified")
        result = self.confirm(first["id"])
        for part in ("states", "evidence", "restarted"):
            result[part] = first[part] + result[part]
        return result

    def fails(self, code, args, stop=None):
        import common

        with self.assertRaises(common.Failure) as caught:
            self.apply(args, stop)
        self.assertEqual(caught.exception.code, code, caught.exception.message)
        return caught.exception


class Agent:
    """The agent as the controller starts it, its paths pointed at the test's folder."""

    def __init__(self, case, spoil=False):
        bundle = json.dumps(sources(case))
        self.digest = hashlib.sha256(bundle.encode()).hexdigest()
        with open(os.path.join(AGENT, "loader.py")) as file:
            loader = file.read().replace("/var/lib/guidomain", case.root + "/var/lib/guidomain")
        loader = loader.replace("st_uid == 0", "st_uid == %d" % os.getuid())
        self.process = subprocess.Popen(
            [sys.executable, "-IS", "-c", loader, self.digest],
            env=case.env,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        case.addCleanup(self.end)
        self.stored = json.loads(self.process.stdout.readline())["stored"]
        if not self.stored:
            self.write(("{}" if spoil else bundle) + "\n")
        self.number = 0
        self.hello = None if spoil else self.line()

    def write(self, text):
        self.process.stdin.write(text.encode())
        self.process.stdin.flush()

    def line(self):
        return json.loads(self.process.stdout.readline() or "null")

    def send(self, op, args):
        self.number += 1
        self.write(json.dumps({"id": self.number, "op": op, "args": args}) + "\n")
        return self.number

    def reply(self, number=None):
        """The next reply, events on the way skipped; `events` keeps them."""
        self.events = []
        while True:
            message = self.line()
            if message is None or "event" not in message:
                return message
            self.events.append(message["event"])

    def ask(self, op, args):
        self.send(op, args)
        return self.reply()

    def end(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        for pipe in (self.process.stdin, self.process.stdout, self.process.stderr):
            try:
                pipe.close()
            except BrokenPipeError:
                pass


def wait_for(condition, seconds=10):
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            raise AssertionError("timed out")
        time.sleep(0.01)
