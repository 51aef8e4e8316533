/** What the twin's Qubes refuses, and what it lets pass although it should not: qubes-cli-formats.md §3 to §9. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "./twin.ts";

const twin = await startTwin({ dir: mkdtempSync(join(tmpdir(), "twin-qubes-")) });
const SEE_LOG = ", see /var/log/libvirt/libxl/libxl-driver.log for details";

/** Each step: command line, exit code, and the last line of what it says on stderr (or stdout where stderr is empty). */
type Step = [command: string, code: number, says?: string];

async function steps(list: Step[]): Promise<void> {
  for (const [command, code, says] of list) {
    const result = await twin.exec(command);
    const said = (result.stderr || result.stdout).trimEnd().split("\n").at(-1);
    assert.equal({ command, code: result.code, said }, { command, code, said: says ?? "" });
  }
}

/** One raw call of the Admin API; gives the reply. */
async function ask(method: string, arg: string, dest: string, payload = ""): Promise<string> {
  const request = Buffer.from(`${method}+${arg} dom0 name ${dest}\0${payload}`).toString("hex");
  const script = [
    "import socket, sys",
    "s = socket.socket(socket.AF_UNIX)",
    's.connect("/run/qubesd.sock")',
    "s.sendall(bytes.fromhex(sys.argv[1]))",
    "s.shutdown(socket.SHUT_WR)",
    'print(b"".join(iter(lambda: s.recv(65536), b"")).decode(), end="")',
  ].join("\n");
  return (await twin.exec(`python3 -S -c '${script}' ${request}`)).stdout;
}

/** A boot in which dom0 has left these functions alone: a display is never pulled from a driver that lives. */
async function hidden(ports: string): Promise<void> {
  const { code } = await twin.exec(
    `sed -i 's/quiet"/quiet rd.qubes.hide_pci=${ports}"/' /etc/default/grub && grub2-mkconfig -o /boot/grub2/grub.cfg`,
  );
  assert.is(code, 0);
  assert.is((await twin.reboot()).state, "running");
}

test.before.each(() => twin.reset());
test.after(() => twin.remove());

test("properties: refusals", () =>
  steps([
    ["qvm-prefs nosuch memory", 2, "qvm-prefs: error: no such domain: 'nosuch'"],
    ["qvm-prefs vault nosuch", 2, "qvm-prefs: error: no such property: 'nosuch'"],
    ["qvm-prefs vault nosuch 1", 2, "qvm-prefs: error: no such property: 'nosuch'"],
    [
      "qvm-prefs vault virt_mode bogus",
      1,
      "qvm-prefs: error: Invalid virtualization mode, supported values: hvm, pv, pvh",
    ],
    [
      "qvm-prefs sys-net virt_mode pvh",
      1,
      "qvm-prefs: error: pvh mode can't be set if pci devices are assigned",
    ],
    ["qvm-prefs vault memory abc", 1, "qvm-prefs: error: Failed to parse property value as int"],
    ["qvm-prefs vault vcpus 0", 1, "qvm-prefs: error: vcpus must be positive"],
    ["qvm-prefs vault autostart maybe", 1, "qvm-prefs: error: Invalid literal for boolean property: 'maybe'"],
    ["qvm-prefs vault label nolabel", 1, "qvm-prefs: error: Label does not exist: nolabel"],
    ["qvm-prefs vault netvm nosuchvm", 1, "qvm-prefs: error: Can't set netvm to non-existing qube nosuchvm"],
    ["qvm-prefs vault guivm nosuchvm", 1, "qvm-prefs: error: Can't set guivm to non-existing qube nosuchvm"],
    [
      "qubes-prefs default_guivm nosuchvm",
      1,
      "qubes-prefs: error: Can't set default_guivm to non-existing qube nosuchvm",
    ],
    ["qvm-prefs personal netvm vault", 1, "qvm-prefs: error: The vault qube does not provide network"],
    ["qvm-prefs sys-net netvm sys-firewall", 1, "qvm-prefs: error: Loops in network are unsupported"],
    ["qvm-prefs vault xid 5", 1, "qvm-prefs: error: property 'xid' on AppVM instance cannot be set"],
    [
      "qvm-prefs vault name other",
      1,
      "qvm-prefs: error: Got empty response from qubesd. See journalctl in dom0 for details.",
    ],
    [
      "qvm-prefs --default vault template",
      1,
      "qvm-prefs: error: Cannot unset template. You can set it to the current default (fedora-43-xfce) instead",
    ],
    [
      "qvm-prefs vault template personal",
      1,
      "qvm-prefs: error: wrong VM class: domains['personal'] is of type AppVM and not TemplateVM",
    ],
    ["qvm-prefs --hide-default vault | grep -c ' D '", 1, "0"],
    ["qvm-start vault", 0],
    [
      "qvm-prefs vault template debian-13-xfce",
      1,
      "qvm-prefs: error: Cannot change template while qube is running",
    ],
  ]));

test("properties: what is let pass", () =>
  steps([
    ["qvm-prefs vault maxmem 100", 0],
    ["qvm-prefs vault memory", 0, "400"],
    ["qvm-prefs vault guivm personal", 0],
    ["qvm-tags vault list guivm-personal", 0, "guivm-personal"],
    ["qvm-tags vault list guivm-dom0", 1],
    ["qvm-prefs vault netvm none", 0],
    ["qvm-prefs vault netvm", 0],
    ["qvm-ls --raw-data --fields name,nosuch vault", 0, "vault|-"],
    ["qvm-ls --features os", 2, "qvm-ls: error: Invalid argument: --features os"],
    ["qvm-ls nosuch", 2, "qvm-ls: error: no such domain: 'nosuch'"],
  ]));

// core-admin 4.3.50: the property is there before the tag fails
test("a GUI domain whose name no tag can carry", () =>
  steps([
    ["qvm-create --label black the.gui", 0],
    ["qvm-prefs vault guivm the.gui", 1, "qvm-prefs: error: Failed to access 'guivm' property"],
    ["qvm-prefs vault guivm", 0, "the.gui"],
    ["qvm-tags vault list | grep -c guivm", 1, "0"],
    ["qvm-prefs vault guivm dom0", 0],
    ["qvm-remove -f the.gui", 0],
  ]));

test("features, services, tags, checks", () =>
  steps([
    ["qvm-features --unset vault nothing", 0],
    ["qvm-features vault empty ''", 0],
    ["qvm-features vault | grep -c '^empty *$'", 0, "1"],
    ["qvm-features vault nothing", 1],
    [
      "qvm-features vault 'a b' 1",
      1,
      "qvm-features: error: Got empty response from qubesd. See journalctl in dom0 for details.",
    ],
    ["qvm-service vault x off", 0],
    ["qvm-service vault x", 0, "off"],
    ["qvm-service vault y", 1],
    ["qvm-tags vault del nothing", 0],
    ["qvm-check --running vault dom0", 3, "qvm-check: dom0: running"],
  ]));

test("PCI: refusals", () =>
  steps([
    ["qvm-pci assign vault dom0:00_1f.3", 1, "Error: PCI devices cannot be assigned as not required."],
    [
      "qvm-pci attach vault dom0:00_1f.3",
      1,
      "Error: PCI devices cannot be attached manually, did you mean `qvm-pci assign --required ...`",
    ],
    ["qvm-pci assign -r vault dom0:00_99.0", 1, "Error: backend vm dom0 doesn't expose pci device '00_99.0'"],
    ["qvm-pci assign -r nosuch dom0:00_1f.3", 2, "qvm-pci: error: no such domain: 'nosuch'"],
    ["qvm-pci assign -r vault nosuch:00_1f.3", 1, "Error: no such backend vm!"],
    [
      "qvm-pci assign -r sys-net dom0:00_14.3",
      1,
      `Error: "'pci device dom0:00_14.3:0x8086:0x02f0::p028000 already assigned to sys-net'"`,
    ],
    ["qvm-pci assign -r --port vault dom0:00_02.0", 0], // as Salt's qvm.devices does
    ["qvm-prefs vault virt_mode", 0, "hvm"],
    ["qvm-prefs vault maxmem", 0, "0"],
    [
      "qvm-pci unassign vault dom0:00_02.0",
      1,
      `Error: "'pci device dom0:00_02.0:0x8086:0x9b41::p030000 not assigned to vault'"`,
    ],
    ["qvm-pci assign -r -o permissive=True vault dom0:00_02.0", 0], // both kinds on one port
    [
      "qvm-pci list -s | grep '[*]vault'",
      0,
      "dom0:00_02.0          any device                                                                              *vault (required)",
    ],
    ["qvm-pci list -s --with-sbdf 2>&1 | tail -1 | cut -d: -f1", 0, "TypeError"],
    ["qvm-pci unassign --port vault dom0:00_02.0", 0],
    ["qvm-pci unassign vault", 0], // no device named: all
    ["qvm-prefs vault virt_mode", 0, "pvh"],
  ]));

test("PCI: the API checks nothing, and the start fails", async () => {
  const assign = (arg: string, device: string, port: string, options = "") =>
    ask(
      "admin.vm.device.pci.Assign",
      arg,
      "vault",
      `device_id='${device}' port_id='${port}' devclass='pci' backend_domain='dom0' mode='required' frontend_domain='vault'${options}`,
    );
  const start = async () => (await twin.exec("qvm-start vault")).stderr;
  assert.is(await assign("dom0+00_99.0:*", "*", "00_99.0", " _nonsense='1'"), "0\0");
  assert.is(
    await start(),
    `Error: Start failed: Node device not found: no node device with matching name 'pci_0000_00_99_0'${SEE_LOG}\n`,
  );
  await twin.exec("qvm-pci unassign vault");
  // The SBDF of a device behind a bridge, taken for a port (trap 7).
  assert.is(await assign("dom0+01_00.1", "0000:0000::?******", "01_00.1"), "0\0");
  assert.is(await start(), "Error: Pci device dom0:01_00.1:0000:0000::?****** not available\n");
  assert.is(
    await ask("admin.vm.device.pci.Assign", "dom0+00_02.0:*", "nosuch"),
    "2\0QubesVMNotFoundError\0\0No such domain: 'nosuch'\0",
  );
});

test("PCI: a device wherever it is starts there, and can be taken away when it is gone; two of its kind are refused", async () => {
  const { machine } = twin.surroundings();
  const sound = machine.devices.filter(({ sbdf }) => sbdf === "0000:00:1f.3");
  const at = async (...sbdfs: string[]) => {
    const others = machine.devices.filter((each) => !sound.includes(each));
    const moved = sbdfs.flatMap((sbdf) => sound.map((each) => ({ ...each, sbdf })));
    await twin.world({ nextMachine: { ...machine, devices: [...others, ...moved] } });
    await twin.reboot();
  };
  const attached = () =>
    twin.exec("qvm-start vault").then(async ({ stderr }) => {
      const reply = await ask("admin.vm.device.pci.Attached", "", "vault");
      return [stderr, ...(reply.match(/port_id='[^']*'.*mode='[a-z]*'/g) ?? [])];
    });
  const found = (port: string, mode: string) => [
    "",
    `port_id='${port}' devclass='pci' backend_domain='dom0' mode='${mode}'`,
  ];
  await steps([["qvm-pci assign -r --device -o no-strict-reset=True vault dom0:00_1f.3", 0]]);
  // Who asks what is attached is told of the assignment only where that names the place too.
  assert.equal(await attached(), found("00_1f.3", "manual"));
  await at("0000:00:1e.3");
  assert.equal(await attached(), found("00_1e.3", "manual"));
  await at("0000:00:1e.3", "0000:00:1f.3");
  assert.equal(await attached(), [
    "Error: Got empty response from qubesd. See journalctl in dom0 for details.\n",
  ]);
  await at();
  assert.equal(await attached(), ["Error: Pci device dom0:*:0x8086:0x02c8::p040300 not available\n"]);
  await steps([["qvm-pci unassign vault", 0]]);
  await at("0000:00:1f.3");
  await steps([["qvm-pci assign -r -o no-strict-reset=True vault dom0:00_1f.3", 0]]);
  assert.equal(await attached(), found("00_1f.3", "required"));
  await at();
  assert.equal(await attached(), [
    `Error: Start failed: Node device not found: no node device with matching name 'pci_0000_00_1f_3'${SEE_LOG}\n`,
  ]);
  assert.is((await twin.exec("qvm-pci unassign vault")).code, 1);
  await at("0000:00:1f.3");
  await steps([["qvm-pci unassign vault", 0]]);
  assert.is(await ask("admin.vm.device.pci.Assigned", "", "vault"), "0\0");
});

test("starts that fail, and leave the qube halted", async () => {
  await hidden("00_02.0,00_01.0-00_00.0");
  await steps([
    ["qvm-pci assign -r vault dom0:00_02.0 && qvm-start vault", 0],
    ["qvm-pci assign -r personal dom0:00_02.0", 0],
    [
      "qvm-start personal",
      1,
      `Error: Start failed: Requested operation is not valid: PCI device 0000:00:02.0 is in use by driver xenlight, domain vault${SEE_LOG}`,
    ],
    ["qvm-ls --raw-data --fields state personal", 0, "Halted"],
    ["qvm-pci unassign vault dom0:00_02.0 && qvm-pci | grep -c 'vault (attached)'", 0, "1"], // until it is off
    ["qvm-kill vault; qvm-pci | grep -c 'vault (attached)'", 1, "0"],
    ["qvm-pci unassign personal", 0],
    ["qvm-pci assign -r personal dom0:00_01.0-00_00.0", 0],
    [
      "qvm-start personal",
      1,
      `Error: Start failed: internal error: Unable to reset PCI device 0000:01:00.0: internal error: Active 0000:01:00.1 devices on bus with 0000:01:00.0, not doing bus reset${SEE_LOG}`,
    ],
    ["qvm-pci assign -r personal dom0:00_01.0-00_00.1 && qvm-start personal", 0],
    ["qvm-kill personal; qvm-pci unassign personal; qvm-pci assign -r personal dom0:00_1f.3", 0],
    [
      "qvm-start personal",
      1,
      `Error: Start failed: internal error: Unable to reset PCI device 0000:00:1f.3: no FLR, PM reset or bus reset available${SEE_LOG}`,
    ],
    [
      "qvm-pci unassign personal; qvm-pci assign -r -o no-strict-reset=true personal dom0:00_1f.3; qvm-start personal",
      0,
    ],
    ["qvm-kill personal; qvm-features personal prohibit-start 'being moved'", 0],
    ["qvm-start personal", 1, "Error: Qube start is prohibited. Rationale: being moved"],
    [
      "qvm-prefs default-dvm memory 100000; qvm-start default-dvm",
      1,
      "Error: Not enough memory to start domain 'default-dvm'",
    ],
  ]);
  await twin.world({ iommu: false });
  const iommu =
    "Error: Failed to start an HVM qube with PCI devices assigned - hardware does not support IOMMU/VT-d/AMD-Vi";
  await steps([["qvm-pci assign -r vault dom0:00_14.3; qvm-start vault", 1, iommu]]);
  await twin.world({ iommu: true, faults: { start: { vault: "Cannot execute qrexec-daemon!" } } });
  await steps([
    ["qvm-pci unassign vault; qvm-start vault", 1, "Error: Cannot execute qrexec-daemon!"],
    ["qvm-ls --raw-data --fields state vault", 0, "Halted"],
  ]);
});

test("a GUI domain in use is neither shut down nor removed", () =>
  steps([
    [
      "qvm-create --label black gui && qvm-prefs gui netvm '' && qvm-prefs vault guivm gui && qvm-start gui vault",
      0,
    ],
    ["qvm-shutdown --wait gui", 1, "qvm-shutdown: error: Failed to shut down: gui"],
    ["qvm-shutdown --wait vault gui", 0],
    [
      "qvm-remove -f gui",
      1,
      "qvm-remove: error: Domain is in use: 'gui';  see 'journalctl -u qubesd -e' in dom0 for details",
    ],
    ["qvm-prefs --default vault guivm && qvm-start gui", 0],
    ["qvm-remove -f gui", 1, "qvm-remove: error: Domain is not powered off: 'gui'"],
    ["qvm-kill gui && qvm-remove -f gui", 0],
  ]));

test("a shutdown that takes too long ends in a kill", async () => {
  await twin.world({ faults: { shutdown: { vault: "never" } } });
  await steps([
    ["qvm-start vault; qvm-shutdown vault; sleep 0.3; qvm-ls --raw-data --fields state vault", 0, "Running"],
    ["qvm-shutdown --wait --timeout 0.2 vault; qvm-ls --raw-data --fields state vault", 0, "Halted"],
  ]);
});

test("creation: classes, names, standalones, disposables", () =>
  steps([
    ["qvm-create x", 2, "qvm-create: error: --label option is mandatory"],
    ["qvm-create --class Nonsense --label red x", 2, "qvm-create: error: no such domain class: 'Nonsense'"],
    [
      "qvm-create --label red 1x",
      1,
      "app: Error creating VM: VM name cannot start with hyphen, underscore, dot or numbers",
    ],
    [
      `qvm-create --label red ${"x".repeat(32)}`,
      1,
      "app: Error creating VM: VM name must be shorter than 32 characters",
    ],
    [
      "qvm-create --standalone --template debian-13-xfce --label red alone && qvm-features alone os-distribution",
      0,
      "debian",
    ],
    [
      "qvm-run -p alone 'dpkg-query -W qubes-vm-guivm'",
      1,
      "dpkg-query: no packages found matching qubes-vm-guivm",
    ],
    [
      "qvm-create --class DispVM --template vault --label red disp",
      1,
      "app: Error creating VM: template for disposable must have template_for_dispvms=True",
    ],
    [
      "qvm-create --class DispVM --template default-dvm --label red disp && qvm-run -p disp 'rpm -q lightdm'",
      0,
      "lightdm-1.32.0-1.fc43.x86_64",
    ],
  ]));

test("the policy: linter, editor, one bad line or name denies every call", async () => {
  const asked = (target: string, service: string) =>
    `qrexec-policy-exec --just-evaluate personal ${target} ${service}`;
  // What it says beside its verdict is the first step's matter.
  const evaluate = `${asked("@default", "qubes.GetDate")} 2>/dev/null`;
  const lint = (line: string, says: string): Step => [
    `printf '%s\\n' '${line}' | qubes-policy-lint -`,
    says ? 1 : 0,
    says && `-:1: error: ${says}`,
  ];
  await steps([
    [
      asked("@default", "qubes.GetDate"),
      0,
      "WARNING:root:warning: !compat-4.0 directive in file /etc/qubes/policy.d/35-compat.policy line 3 is transitional and will be deprecated",
    ],
    [`${asked("vault", "qubes.Filecopy")} 2>/dev/null`, 1], // ask
    [
      asked("vault", "qubes.VMShell"),
      1,
      "INFO:policy:qrexec: qubes.VMShell: personal -> vault: denied: denied by policy /etc/qubes/policy.d/90-default.policy:28",
    ],
    [evaluate, 0],
    lint("a.B * x y permit", "invalid action: permit"),
    lint("a.B * x", "wrong number of fields"),
    lint("a.B * x @badtoken allow", "invalid target token: '@badtoken'"),
    lint("a.B * x y allow target=@anyvm", "invalid redirect token: '@anyvm'"),
    lint("a.B * x y allow foo=bar", "invalid parameters for action Allow: ['foo=bar']"),
    lint("a.B x y z allow", "argument 'x' does not start with +"),
    lint("a/b * x y allow", "service 'a/b' contains invalid characters: ('/',)"),
    lint("!include", "invalid number of params"),
    lint("!nonsense x", "invalid directive"),
    lint("a.B * x y ask target=x", ""),
    lint("a.B * x y allow user=", ""),
    lint("!include-service a.B * include/nosuch", ""),
    ["printf 'a.B * x y bogus\\n' | qubes-policy -r 40-x", 1, "Command failed"],
    [
      "printf 'qubes.GetDate * personal @default deny\\n' | qubes-policy -r 40-x && qubes-policy -l | head -2 | tail -1",
      0,
      "40-x",
    ],
    [evaluate, 1],
    [
      "journalctl -u qubes-qrexec-policy-daemon | tail -1 | cut -d' ' -f 6-",
      0,
      "qrexec: qubes.GetDate: personal -> @default: denied: denied by policy /etc/qubes/policy.d/40-x.policy:1",
    ],
    ["qubes-policy -d 40-x", 0],
    [evaluate, 0],
    ["echo nonsense > /etc/qubes/policy.d/99-x.policy", 0],
    [evaluate, 1],
    ["rm /etc/qubes/policy.d/99-x.policy; touch /etc/qubes/policy.d/10-Bad.policy", 0],
    [evaluate, 1],
    ["mv /etc/qubes/policy.d/10-Bad.policy /etc/qubes/policy.d/10-Bad", 0], // does not end in .policy: ignored
    [evaluate, 0],
  ]);
});

test("the inside of a qube follows from its template and from the services at its start", async () => {
  const inside = (command: string) => `qvm-run -p --no-gui -u root vault '${command}'`;
  await steps([
    [
      inside("rpm -q qubes-vm-guivm nosuch other | grep -v fc43; rpm -q nosuch other > /dev/null"),
      2,
      "package other is not installed",
    ],
    [inside("test -e /etc/qubes-rpc/qubes.GuiVMSession"), 0],
    [inside("systemctl is-active lightdm"), 3, "inactive"],
    ["qvm-service vault lightdm on; qvm-service vault guivm-vnc on", 0],
    [inside("systemctl is-active lightdm"), 3, "inactive"], // not before the next start
    ["qvm-shutdown --wait vault", 0],
    [inside("systemctl is-active lightdm && ss -ltn | grep -q :5900"), 0, "active"],
    [inside("systemctl is-system-running"), 0, "running"],
    [inside("cat /etc/os-release | grep ^ID="), 0, "ID=fedora"],
    [inside("nosuch --command"), 127, "/bin/sh: 1: nosuch: not found"],
    [inside("touch /etc/mark && ls /etc/mark"), 0, "/etc/mark"], // gone with the qube: guests.test.ts
    ["qvm-shutdown --wait vault; qvm-run -n -p vault true", 1],
  ]);
  await twin.world({ templates: { "fedora-43-xfce": { packages: { "qubes-vm-guivm": undefined } } } });
  await steps([[inside("test -e /etc/qubes-rpc/qubes.GuiVMSession"), 1]]);
});

test("dom0 shows windows only while somebody is at its desktop", async () => {
  await steps([["qvm-start vault; ls /run/qubes | grep -c guid-running", 1, "0"]]);
  await twin.world({ dom0Session: true });
  await steps([
    ["qvm-check -q vault; test -e /run/qubes/guid-running.$(qvm-prefs vault xid)", 0],
    ["qvm-kill vault; ls /run/qubes | grep -c guid-running", 1, "0"],
  ]);
});

test("what runs belongs to the boot, what is set stays", async () => {
  await steps([["qvm-prefs vault autostart True; qvm-start personal; qvm-prefs vault memory 300", 0]]);
  const { dir } = twin;
  await twin.stop();
  const again = await startTwin({ dir });
  const { stdout } = await again.exec("qvm-ls --raw-data --running --fields name; qvm-prefs vault memory");
  await again.stop();
  assert.is(stdout, "dom0\nvault\n300\n");
});

test("qubesd that is down is said as the real client says it", async () => {
  const down = await startTwin({ dir: mkdtempSync(join(tmpdir(), "twin-down-")) });
  await down.exec("mv /run/qubesd.sock /run/away");
  const { code, stderr } = await down.exec("qvm-ls");
  await down.remove();
  assert.is(code, 1);
  assert.match(
    stderr,
    "qubesadmin.exc.QubesDaemonCommunicationError: Failed to connect to qubesd service: [Errno 2]",
  );
});

test("the microphone: one, of dom0, attached through the audio domain that a running client has", async () => {
  const MIC = "dom0+mic:dom0:mic::m000000";
  const attached = async () => (await ask("admin.vm.device.mic.Attached", "", "personal")).slice(2);
  const mic = (method: string, dest = "personal") => ask(`admin.vm.device.mic.${method}`, MIC, dest);
  assert.match(
    await ask("admin.vm.device.mic.Available", "", "dom0"),
    /^0\0mic:dom0:mic::m000000 device_id='dom0:mic::m000000' port_id='mic' devclass='mic' backend_domain='dom0'/,
  );
  assert.is(await ask("admin.vm.device.mic.Available", "", "personal"), "0\0");
  assert.match(await mic("Attach"), /^2\0QubesVMNotRunningError\0\0VM not running, cannot attach device/);
  await steps([
    ["qvm-start personal", 0],
    ["qvm-prefs personal audiovm ''", 0],
  ]);
  assert.match(await mic("Attach"), /^2\0QubesException\0\0VM personal has no AudioVM set/);
  await steps([["qvm-prefs personal audiovm vault", 0]]);
  assert.match(await mic("Attach"), /^2\0QubesVMNotRunningError\0\0Audio VM vault isn't running/);
  await steps([["qvm-start vault", 0]]);
  assert.match(await mic("Detach"), /^2\0DeviceNotAssigned\0\0'mic device mic not attached to personal/);
  assert.is(await mic("Attach"), "0\0");
  assert.match(await mic("Attach"), /^2\0DeviceAlreadyAttached\0\0/);
  assert.match(await attached(), /^dom0\+mic:dom0:mic::m000000 .*mode='manual' frontend_domain='personal'/);
  // It goes along to another audio domain, and is gone with the client's next start.
  await steps([["qvm-prefs personal audiovm dom0", 0]]);
  assert.match(await attached(), /frontend_domain='personal'/);
  assert.is(await mic("Detach"), "0\0");
  assert.is(await attached(), "");
  await mic("Attach");
  await steps([
    ["qvm-shutdown --wait personal", 0],
    ["qvm-start personal", 0],
  ]);
  assert.is(await attached(), "");
});

test("USB devices: assigned unseen, attached when a qube starts or by hand, with the proxy in both templates", async () => {
  const ID = "0d8c:0014::u010100u030000";
  const HEADSET = {
    at: "0000:00:14.0",
    port: "1-2",
    vendor: "0d8c",
    product: "0014",
    interfaces: ["010100", "030000"],
  };
  await twin.world({ usb: [HEADSET, { ...HEADSET, at: "0000:00:1f.9", port: "1-3" }] });
  const usb = (method: string, arg = "", dest = "personal", payload = "") =>
    ask(`admin.vm.device.usb.${method}`, arg, dest, payload);
  const place = `sys-usb+*:${ID}`;
  const fields = (port: string, more: string) =>
    `device_id='${ID}' port_id='${port}' devclass='usb' backend_domain='sys-usb' ${more} frontend_domain='personal'`;
  const assign = (mode: string, more = "") =>
    usb("Assign", place, "personal", fields("*", `mode='${mode}'`) + more);
  await steps([
    ["qvm-create --label red sys-usb", 0],
    ["qvm-prefs sys-usb virt_mode hvm", 0],
    ["qvm-pci assign --required --option no-strict-reset=True sys-usb dom0:00_14.0", 0],
  ]);
  // Nobody looks whether it is there; a mode that is none is an error of qubesd's own, options are refused.
  assert.is(await assign("manual"), "");
  assert.match(
    await assign("auto-attach", " _x='1'"),
    /^2\0QubesException\0\0USB device assignment does not/,
  );
  assert.is(await assign("auto-attach"), "0\0");
  assert.match(await assign("auto-attach"), /^2\0DeviceAlreadyAssigned\0/);
  assert.is(await usb("Assigned"), `0\0sys-usb+*:${ID} ${fields("*", "mode='auto-attach'")}\n`);
  assert.is(await usb("Available", "", "sys-usb"), "0\0");
  const attach = () => usb("Attach", `sys-usb+1-2:${ID}`, "personal", fields("1-2", "mode='manual'"));
  assert.match(await attach(), /^2\0QubesVMNotRunningError\0/);
  await steps([["qvm-start personal", 0]]);
  assert.is(await attach(), ""); // an unknown device is a protocol error: no byte
  await steps([["qvm-start sys-usb", 0]]);
  assert.match(
    await usb("Available", "", "sys-usb"),
    new RegExp(
      `^0\\x001-2:${ID} device_id='${ID}' port_id='1-2' devclass='usb' backend_domain='sys-usb' .*attachment='personal' interfaces='u010100u030000'\n$`,
    ),
  );
  assert.match(await usb("Attached"), /^0\0sys-usb\+1-2:.*frontend_domain='personal'/);
  assert.is(
    (await twin.exec("qvm-run -p --no-gui personal 'cat /proc/asound/card0/usbid'")).stdout,
    "0d8c:0014\n",
  );
  assert.match(await attach(), /^2\0DeviceAlreadyAttached\0/);
  await steps([
    ["qvm-start vault", 0],
    ["qvm-remove -f sys-usb", 1, "qvm-remove: error: Domain is not powered off: 'sys-usb'"],
  ]);
  const other = await usb("Attach", `sys-usb+1-2:${ID}`, "vault", fields("1-2", "mode='manual'"));
  assert.match(other, /^2\0DeviceAlreadyAttached\0/);
  // Taken away for good it stays until it is detached, or one of the two is off.
  assert.is(await usb("Unassign", place), "0\0");
  assert.match(await usb("Unassign", place), /^2\0DeviceNotAssigned\0/);
  assert.match(await usb("Attached"), /1-2/);
  assert.is(await usb("Detach", `sys-usb+1-2:${ID}`), "0\0");
  assert.is(await usb("Attached"), "0\0");
  await twin.world({ templates: { "debian-13-xfce": { packages: { "qubes-usb-proxy": undefined } } } });
  await steps([
    ["qvm-shutdown --wait vault", 0],
    ["qvm-prefs vault template debian-13-xfce", 0],
    ["qvm-start vault", 0],
  ]);
  assert.match(
    await usb("Attach", `sys-usb+1-2:${ID}`, "vault", fields("1-2", "mode='manual'")),
    /^2\0QubesException\0\0qubes-usb-proxy not installed in the VM/,
  );
  // A USB qube cannot go while others have its devices assigned.
  assert.is(await assign("required"), "0\0");
  await steps([
    ["qvm-shutdown --wait sys-usb", 0],
    ["qvm-remove -f sys-usb", 1, "qvm-remove: error: VM has devices assigned to other VMs: *"],
  ]);
});

test.run();
