/** What a program may say of a domain of plain Xen, and what has no meaning there. */
import { test } from "uvu";
import * as assert from "uvu/assert";
import { parseAudioDomain } from "./audioDomain.ts";
import { DEFAULT_TEMPLATE, parseGuiDomain } from "./guiDomain.ts";
import { domainProperties, vncPort, xenDomainOf } from "./xenDomain.ts";

type Args = Record<string, unknown>;
const PV = { type: "pv", kernel: "/boot/guest", ramdisk: "/boot/guest.img" };

const said = (parsed: { faults: { property: string; reason: string }[] } | object): string[] =>
  "faults" in parsed ? parsed.faults.map((f) => `${f.property}: ${f.reason}`) : [];
const gui = (args: Args) => said(parseGuiDomain("sys-gui", { host: "lab", domain: PV, ...args }));
const audio = (args: Args) => said(parseAudioDomain("sys-audio", { host: "lab", domain: PV, ...args }));

test("what the domain is made of: each wrong part by its name", () => {
  for (const [args, ...texts] of [
    [{ domain: "pv" }, 'domain: "pv" is not allowed', "type"],
    [{ domain: {} }, "domain.type: ", '"pv", "hvm", "pvh"'],
    [{ domain: { type: "kvm" } }, 'domain.type: "kvm" is not allowed', '"pv", "hvm", "pvh"'],
    [{ domain: { type: "pv", kernel: 1 } }, "domain.kernel: 1 is not allowed", "a text"],
    [{ domain: { type: "pv", disks: "phy:/dev/x" } }, "domain.disks: ", "a list"],
    [{ domain: { type: "pv", display: 100 } }, "domain.display: 100", "from 0 to 99"],
    [{ domain: { type: "pv", reports: true } }, "domain.reports: ", "a list"],
    [{ domain: { type: "pv", reports: ["sound"] } }, "domain.reports[0]: ", '"pci", "screen"'],
    [{ domain: { type: "pv", uuid: "x" } }, "domain.uuid: there is no such part", "ramdisk"],
  ] as [Args, ...string[]][]) {
    const faults = gui(args).join("\n");
    for (const text of texts) assert.ok(faults.includes(text), `${JSON.stringify(args)}: ${faults}`);
  }
});

test("what has no meaning on plain Xen is refused with the reason", () => {
  const refused: [Args, string, RegExp][] = [
    [{ template: "debian-13-xfce" }, "template", /not made from templates/],
    [{ label: "red" }, "label", /no labels/],
    [{ clients: ["work"] }, "clients", /shows itself alone/],
    [{ clients: "default" }, "clients", /shows itself alone/],
    [{ restartClients: "allowed" }, "restartClients", /no clients/],
    [{ audiovm: "sys-audio" }, "audiovm", /does not go from domain to domain/],
    [{ display: ["vnc"], viewers: ["net"] }, "viewers", /no qrexec policy/],
    [{ display: ["vnc"], remote: { password: "geheim12" } }, "remote", /in clear/],
    [{ login: { password: "geheim" } }, "login", /nothing inside/],
    [{ input: { usb: [{ mouse: "allow" }] } }, "input", /no qrexec policy/],
    [{ level: "user" }, "level", /no qrexec policy/],
    [{ power: [] }, "power", /^$/],
    [{ power: ["reboot"] }, "power", /no domain may ask/],
    [{ suspend: "blocked" }, "suspend", /sleep/],
    [{ display: ["gpu"], layout: [{ output: "DP-1" }] }, "layout", /nothing inside/],
    [{ display: ["rdp"] }, "display[0]", /allowed are "gpu", "xephyr", "vnc"/],
    [{ display: ["gpu"], domain: { ...PV, type: "pvh" } }, "domain.type", /not yet supported for x86 PVH/],
  ];
  for (const [args, property, reason] of refused) {
    const faults = gui(args).filter((fault) => fault.startsWith(`${property}: `));
    if (reason.source === "^$") assert.equal(faults, [], "an empty list says nothing");
    else assert.match(faults.join("\n"), reason, JSON.stringify(args));
  }
});

test("what is left out stays left out, also when the state is read again", () => {
  const parsed = parseGuiDomain("sys-gui", { host: "lab", domain: PV, memory: 192 });
  if ("faults" in parsed) throw new Error(said(parsed).join());
  assert.is(parsed.gui.template, DEFAULT_TEMPLATE);
  assert.equal(gui({ template: DEFAULT_TEMPLATE, label: "black", clients: [], suspend: "allowed" }), []);
  assert.equal(gui({ display: ["gpu", "xephyr"], memory: 64 }), [], "no minimum for a card");
});

test("an audio domain of plain Xen is given its devices, and nothing else", () => {
  assert.equal(audio({}), []);
  for (const [args, property, reason] of [
    [{ shared: true }, "shared", /PciAttachment/],
    [{ clients: "default" }, "clients", /domain to domain/],
    [{ usb: { vendor: "0d8c", device: "0014" } }, "usb", /controller/],
    [{ bluetooth: true }, "bluetooth", /nothing inside/],
    [{ microphone: "allowed" }, "microphone", /no clients/],
    [{ template: "debian-13-xfce" }, "template", /templates of Qubes/],
    [{ domain: { ...PV, type: "pvh" } }, "domain.type", /not yet supported for x86 PVH/],
  ] as [Args, string, RegExp][])
    assert.match(
      audio(args)
        .filter((fault) => fault.startsWith(`${property}: `))
        .join("\n"),
      reason,
    );
});

test("properties as xl.cfg has them", () => {
  const disks = ["phy:/dev/vg/gui,xvda,w", 'file:/a "b",xvdb,r'];
  const domain = xenDomainOf({ type: "pv", kernel: "/k", disks, display: 7 });
  assert.equal(domainProperties(domain, { memory: 192, vcpus: null, autostart: true }), {
    type: "pv",
    kernel: "/k",
    disk: '["phy:/dev/vg/gui,xvda,w","file:/a \\"b\\",xvdb,r"]',
    memory: "192",
    autostart: "True",
  });
  assert.is(vncPort(domain), 5907);
});

test.run();
