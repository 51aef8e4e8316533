/** The GUI domain that drives the screen itself: its ladder, its boots and its way back, against a host in memory. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { settingsOf } from "../formula/settings.ts";
import { AgentFailure } from "../host/errors.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { NOT_THIS_BOOT } from "../model/gpu.ts";
import { judgeGpu } from "../plan/gpu.ts";
import { guiOf, setUp } from "../plan/testing/cases.ts";
import {
  byDefault,
  differing,
  display,
  everything,
  explicit,
  HostModel,
  laptop,
  type QubeMade,
  qube,
} from "../plan/testing/hostModel.ts";
import { PartialFailure, type Properties, type ReadResult } from "./handler.ts";
import { failing, Program } from "./testProgram.ts";

const LADDER = { display: ["gpu", "xephyr"], reboot: "allowed", clients: ["work"] };
const DEVICE = "0x8086:0x9a49::p030000";
const attempts = (program: Program) =>
  (program.outputs["attempts"] as Properties[]).map((a) => `${a["mode"]} ${a["verdict"]}`);
const reasonOf = (program: Program, n = 0) =>
  String((program.outputs["attempts"] as Properties[])[n]?.["reason"]);
const mode = (program: Program) => [program.outputs["mode"], program.outputs["state"]];
const on = (facts: Parameters<typeof laptop>[0] = {}) => new Program(new HostModel(laptop(facts)));
const noIommu = {
  xen: { ...laptop().facts.xen, virtCaps: ["hvm"], iommu: false },
};
const sysGui = (host: HostModel) => host.snapshot().qubes["sys-gui"];

test("a machine that can: one boot, mode gpu, checked and kept; then nothing to do, also after a reboot", async () => {
  const program = on();
  const { host, hosts } = program;
  const before = everything(host.snapshot());
  await program.up(LADDER);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["gpu", "ready"],
      ["gpu ok", "xephyr skipped"],
    ],
  );
  assert.equal([host.boots, hosts.applied.length, program.warnings], [1, 1, []]);

  const { facts, files, watch } = host.snapshot();
  const words = ["rd.qubes.hide_pci=00_02.0", "systemd.mask=lightdm.service", "guidomain.gpu=sys-gui"];
  assert.equal(facts.boot.args, words, "kept for every boot");
  const is = sysGui(host);
  const properties = Object.fromEntries(
    ["virt_mode", "memory", "maxmem", "guivm", "netvm", "audiovm", "autostart"].map((p) => [
      p,
      is?.properties[p]?.value,
    ]),
  );
  assert.equal(properties, {
    virt_mode: "hvm",
    memory: "2000",
    maxmem: "0",
    guivm: "",
    netvm: "",
    audiovm: "",
    autostart: "True",
  });
  assert.equal(is?.features, {
    "video-model": "none",
    "input-dom0-proxy": "true",
    "service.guivm": "1",
    "service.lightdm": "1",
  });
  assert.equal(is?.pci, [{ port: "*", device: DEVICE, mode: "required", options: { permissive: "True" } }]);
  assert.is(files["/etc/qubes/input-proxy-target"]?.content, "TARGET_DOMAIN=sys-gui\n");
  assert.match(
    files["/etc/systemd/system/qubes-vm@sys-gui.service.d/50-guidomain.conf"]?.content ?? "",
    /After=guidomain-guard\.service\nConditionKernelCommandLine=guidomain\.gpu\n/,
  );
  assert.equal([watch?.qube, watch?.ports], ["sys-gui", ["00_02.0"]]);
  assert.equal(program.outputs["screens"], ["eDP-1"]);
  const seen = (program.outputs["evidence"] as Properties[]).map((e) => e["id"]);
  for (const id of [
    "0000:00:02.0 is kept from dom0",
    "screen eDP-1 is lit as before",
    "input devices reach the qube",
  ])
    assert.ok(seen.includes(id), `${id} was not looked at`);
  assert.ok(
    seen.indexOf("0000:00:02.0 is kept from dom0") < seen.indexOf("GUI domain starts"),
    "a display is never pulled from a driver of dom0",
  );

  assert.equal(await program.preview(LADDER), {});
  host.reboot();
  assert.equal(await program.up(LADDER), {});
  assert.equal([mode(program), hosts.applied.length], [["gpu", "ready"], 1]);

  await program.destroy();
  assert.equal(differing(before, everything(host.snapshot())), []);
  assert.equal([host.boots, host.snapshot().ledger, host.snapshot().watch], [3, {}, null]);
});

test("what cannot be brought back goes last, once the change counts: a qube with its data, packages of dom0", async () => {
  const program = on();
  const { applied } = program.hosts;
  await program.up({ clients: ["work"], reboot: "allowed" });
  const removal = (text = "") => [/pkg\.removed/, /qube\.absent/].map((state) => state.test(text));
  const texts = (n: number) => {
    const { formula = {}, keep = null, after = null, touch = [], release = [] } = applied.at(n) ?? {};
    assert.not([...touch, ...release, ...(keep?.touch ?? [])].some((key) => after?.keys.includes(key)));
    return [{ ...formula, ...keep?.formula }, after?.formula ?? {}].map((files) =>
      removal(Object.values(files).join("\n")),
    );
  };
  const never = [false, false];
  await program.up({ clients: ["work"], display: ["vnc"], reboot: "allowed" });
  assert.equal(texts(-1), [never, [true, false]], "xephyr to vnc");
  await program.up(LADDER);
  await program.up({ clients: ["work"], reboot: "allowed" });
  assert.equal(texts(-1), [never, [true, false]], "gpu to xephyr");
  await program.destroy();
  assert.equal(texts(-1), [never, [true, true]], "destroy");
  assert.is(sysGui(program.host), undefined);
});

test("what cannot be removed is said, stays ours, and goes with the next run", async () => {
  const program = on();
  const { host } = program;
  const xephyr = { clients: ["work"], reboot: "allowed" };
  await program.up(LADDER);
  host.held.set("package:qubes-input-proxy-sender", "dnf: Error: it is held");
  const failed = await failing(PartialFailure, program.up(xephyr));
  assert.match(
    failed.reasons[0] ?? "",
    /^GUI domain sys-gui on host lab: what is no longer wanted could not be removed: dom0 package qubes-input-proxy-sender \(dnf: Error: it is held\)\. The rest was applied and is kept\. Mend that, then run it again: it tries the removal again\.$/,
  );
  assert.equal([mode(program), screen(host)], [["xephyr", "ready"], "dom0"], "it works all the same");
  const shown = { "settings.packages.qubes-input-proxy-sender": "delete" };
  assert.is((await program.preview(xephyr))[Object.keys(shown)[0] as string], "delete");
  // Also to a run that knows of no failure.
  program.unfinished = false;
  await failing(PartialFailure, program.up(xephyr));
  host.held.clear();
  program.unfinished = false;
  await program.up(xephyr);
  assert.is(host.snapshot().packages["qubes-input-proxy-sender"], null);
  assert.equal([mode(program), await program.preview(xephyr)], [["xephyr", "ready"], {}]);
});

test("before the boot nothing starts it and nothing is for good", async () => {
  const program = on();
  await program.up(LADDER);
  const [request] = program.hosts.applied;
  const staged = request?.formula["guidomain/sys-gui/init.sls"] ?? "";
  const kept = request?.keep?.formula["guidomain/sys-gui/keep/init.sls"] ?? "";
  assert.match(staged, /"autostart": "False"/);
  assert.ok(staged.includes(NOT_THIS_BOOT));
  assert.not.match(staged, /boot\.args/);
  assert.match(kept, /boot\.args[\s\S]*guidomain\.gpu=sys-gui[\s\S]*"autostart": "True"/);
  assert.equal(request?.trial?.boot?.add.length, 3);
  assert.ok(request?.verify.every((check) => check.id.startsWith("polic")));
});

test("a machine that cannot: refused before anything is touched, xephyr, the reason said", async () => {
  const program = on(noIommu);
  await program.up(LADDER);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["xephyr", "ready"],
      ["gpu refused", "xephyr ok"],
    ],
  );
  assert.match(reasonOf(program), /no IOMMU in use \(VT-d or AMD-Vi\)/);
  assert.match(
    program.warnings[0] ?? "",
    /is in mode "xephyr", not "gpu": mode "gpu" was refused: .*no IOMMU/,
  );
  assert.equal([program.host.boots, sysGui(program.host)?.pci], [0, []]);
  assert.equal(await program.preview(LADDER), {}, "a preview shows what will be, not the best rung");
  assert.equal(await program.up({ ...LADDER, onFallback: "accept" }), { onFallback: "update" });
  assert.is(program.hosts.applied.length, 1);
});

test("it fails only when tried: put back, xephyr, evidence kept, and not tried again until something changes", async () => {
  const program = on();
  const { host } = program;
  host.nextBoots = { fails: "display has a driver in the qube", output: "no driver in use" };
  await program.up(LADDER);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["xephyr", "ready"],
      ["gpu failed", "xephyr ok"],
    ],
  );
  assert.match(reasonOf(program), /display has a driver in the qube: no driver in use/);
  const [failed] = program.outputs["attempts"] as { evidence: { id: string; ok: boolean }[] }[];
  assert.ok(failed?.evidence.some((e) => e.id === "display has a driver in the qube" && !e.ok));
  assert.equal([host.boots, host.snapshot().facts.boot.args], [2, []], "there, and back");
  assert.match(program.warnings.at(-1) ?? "", /mode "gpu" was tried and failed/);

  host.nextBoots = "well";
  assert.equal(await program.up(LADDER), {}, "nothing to do");
  assert.equal([host.boots, mode(program)], [2, ["xephyr", "ready"]]);

  host.byHand((now) => {
    now.facts.kernel = "6.18.1-1.qubes.fc41.x86_64";
  });
  assert.ok(Object.keys(await program.preview(LADDER)).includes("settings.properties.virt_mode"));
  await program.up(LADDER);
  assert.equal([host.boots, mode(program)], [3, ["gpu", "ready"]]);
  assert.not("remembered" in program.outputs);
});

test("what failed for another reason than the machine is tried again as soon as that is mended", async () => {
  const program = on();
  const { host } = program;
  host.repository.delete("qubes-input-proxy-sender");
  await program.up(LADDER);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["xephyr", "ready"],
      ["gpu failed", "xephyr ok"],
    ],
  );
  assert.match(reasonOf(program), /qubes-input-proxy-sender: not in any repository/);
  assert.not("remembered" in program.outputs);
  host.repository.add("qubes-input-proxy-sender");
  await program.up(LADDER);
  assert.equal(mode(program), ["gpu", "ready"]);
});

test("a host that hung in the trial is not tried again for new hardware, only for retry", async () => {
  const program = on();
  const { host } = program;
  host.nextBoots = "hangs";
  await program.up(LADDER);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["xephyr", "ready"],
      ["gpu failed", "xephyr ok"],
    ],
  );
  assert.match(reasonOf(program), /the trial entry did not boot/);
  host.nextBoots = "well";
  host.byHand((now) => {
    now.facts.kernel = "6.18.1-1.qubes.fc41.x86_64";
  });
  assert.equal(await program.up(LADDER), {});
  assert.match(reasonOf(program), /did not boot/);
  await program.up({ ...LADDER, retry: 2 });
  assert.equal(mode(program), ["gpu", "ready"]);
});

test('reboot "never": nothing changes for the person at the screen, the qube waits, and the run says so', async () => {
  const program = on();
  const { host } = program;
  const never = { ...LADDER, reboot: "never" };
  await program.up(never);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["dom0", "staged"],
      ["gpu staged", "xephyr skipped"],
    ],
  );
  const [pending] = program.outputs["pending"] as Properties[];
  assert.is(pending?.["kind"], "reboot");
  assert.match(String(pending?.["why"]), /in a boot of its own; set reboot to "allowed"/);
  assert.match(program.warnings.at(-1) ?? "", /mode "gpu" waits: .* Until then mode "dom0" stays in force/);
  const { qubes, files, facts } = host.snapshot();
  assert.equal(
    [
      qubes["work"]?.properties["guivm"]?.default,
      qubes["sys-gui"]?.features["prohibit-start"],
      qubes["sys-gui"]?.properties["autostart"]?.value,
      "/etc/qubes/input-proxy-target" in files,
      facts.boot.args,
      host.boots,
    ],
    [true, NOT_THIS_BOOT, "False", false, [], 0],
  );
  assert.equal(await program.preview(never), {}, "staged once");
  await program.up(never);
  assert.equal([program.hosts.applied.length, mode(program)], [1, ["dom0", "staged"]]);
  assert.is((program.outputs["pending"] as Properties[]).length, 1);

  await program.up(LADDER);
  assert.equal([mode(program), program.outputs["pending"], host.boots], [["gpu", "ready"], [], 1]);
});

test("xephyr stays in force while a better mode waits for a reboot, and is not touched", async () => {
  const program = on();
  await program.up({ clients: ["work"] });
  const before = everything(program.host.snapshot());
  const changes = await program.up({ ...LADDER, reboot: "never" });
  assert.ok(
    Object.keys(changes ?? {}).every((path) => /^(display|settings\.packages)/.test(path)),
    JSON.stringify(changes),
  );
  assert.equal(differing(before, everything(program.host.snapshot())), ["package:qubes-input-proxy-sender"]);
  assert.equal(mode(program), ["xephyr", "ready"]);
  assert.equal(await program.preview({ ...LADDER, reboot: "never" }), {});
});

test("xephyr to gpu and back, each in a boot of its own", async () => {
  const program = on();
  const { host } = program;
  const xephyr = { clients: ["work"], reboot: "allowed" };
  await program.up(xephyr);
  await program.up(LADDER);
  assert.equal([mode(program), host.boots], [["gpu", "ready"], 1]);
  await program.up(xephyr);
  assert.equal([mode(program), host.boots], [["xephyr", "ready"], 2]);
  const { facts, watch, files } = host.snapshot();
  assert.equal([facts.boot.args, watch, sysGui(host)?.pci], [[], null, []]);
  assert.not("/etc/qubes/input-proxy-target" in files);
  assert.is(sysGui(host)?.properties["virt_mode"]?.value, "pvh");
  const seen = (program.outputs["evidence"] as Properties[]).map((e) => e["id"]);
  assert.ok(seen.includes("dom0 shows a picture on eDP-1"), seen.join());
  assert.equal(await program.preview(xephyr), {});
});

test('gpu to xephyr with reboot "never" waits: the screen stays as it is', async () => {
  const program = on();
  await program.up(LADDER);
  const before = program.host.snapshot();
  await program.up({ clients: ["work"], reboot: "never" });
  assert.equal(mode(program), ["gpu", "ready"]);
  assert.equal(program.host.snapshot(), before);
  assert.is((program.outputs["pending"] as Properties[])[0]?.["kind"], "reboot");
  assert.equal(await program.preview({ clients: ["work"], reboot: "never" }), {});
});

test("in mode gpu what needs no boot is changed at once", async () => {
  const program = on();
  const { host } = program;
  await program.up(LADDER);
  const changes = await program.up({ ...LADDER, clients: ["vault"] });
  assert.equal(changes, { "settings.clients.work": "delete", "settings.clients.vault": "add" });
  assert.equal([host.boots, mode(program)], [1, ["gpu", "ready"]]);
  assert.is(host.snapshot().watch?.qube, "sys-gui", "each boot is still watched");
  assert.is(sysGui(host)?.state, "Running");
});

test("a display that moved shows its old and its new place, and moves in a boot of its own", async () => {
  const program = on();
  const { host } = program;
  await program.up(LADDER);
  host.byHand((now) => {
    now.facts.pci = [display({ sbdf: "0000:00:03.0", port: "00_03.0", driver: "pciback", outputs: [] })];
  });
  const changes = await program.preview(LADDER);
  assert.is(changes[`settings.devices["${DEVICE}"].port`], "update", JSON.stringify(changes));
  await program.up(LADDER);
  assert.equal(
    sysGui(host)?.pci.map((d) => d.port),
    ["*"],
  );
  assert.equal(await program.preview(LADDER), {});
  assert.ok(host.snapshot().facts.boot.args.includes("rd.qubes.hide_pci=00_03.0"));
  assert.not(host.snapshot().facts.boot.args.includes("rd.qubes.hide_pci=00_02.0"));
});

/** A laptop whose display needs kernel options, and the kernel that dom0 has for its qubes. */
function raptorLake(kernel: string, more: Partial<QubeMade> = {}): Program {
  const host = laptop({ pci: [display({ device: "a7a0" })] });
  const byDom0 = explicit(kernel);
  Object.assign(host.qubes["fedora-43-xfce"]?.properties ?? {}, { kernel: byDom0 });
  host.qubes["sys-gui"] = qube({
    ...more,
    properties: { guivm: explicit("dom0"), kernel: byDom0, kernelopts: byDefault, ...more.properties },
  });
  return new Program(new HostModel(host));
}
const OPTIONS = "i915.force_probe=!a7a0 xe.force_probe=a7a0";
const kernelopts = ({ host }: Program) => sysGui(host)?.properties["kernelopts"];

test("an assignment that somebody puts beside ours is shown before it is taken away", async () => {
  const program = on();
  const { host } = program;
  await program.up(LADDER);
  host.byHand((now) => {
    now.qubes["sys-gui"]?.pci.push({ port: "00_02.0", device: DEVICE, mode: "required", options: {} });
  });
  const shown = { [`settings.devices["${DEVICE}"].twice`]: "delete" };
  assert.equal(await program.preview(LADDER), shown);
  await program.up(LADDER);
  assert.equal(
    sysGui(host)?.pci.map(({ port }) => port),
    ["*"],
  );
  assert.equal(await program.preview(LADDER), {});
});

test("kernel options that a display needs: set for mode gpu, drift of them in a boot of its own, back on leaving it", async () => {
  const program = raptorLake("6.12.59-1.fc41");
  await program.up(LADDER);
  assert.equal([mode(program), program.warnings], [["gpu", "ready"], []]);
  assert.equal(kernelopts(program), explicit(OPTIONS));
  assert.equal(await program.preview(LADDER), {});
  program.host.byHand((now) => {
    Object.assign(now.qubes["sys-gui"]?.properties ?? {}, { kernelopts: explicit("quiet") });
  });
  assert.equal(await program.preview(LADDER), { "settings.properties.kernelopts": "update" });
  await program.up(LADDER);
  assert.equal([kernelopts(program), program.host.boots], [explicit(OPTIONS), 2]);
  await program.up({ ...LADDER, display: ["xephyr"] });
  assert.equal([mode(program), kernelopts(program)?.default], [["xephyr", "ready"], true]);
});

test("they are added to what the qube had, or would have with a device; not twice", async () => {
  const own = raptorLake("6.12", { properties: { kernelopts: explicit(`quiet  ${OPTIONS.split(" ")[1]}`) } });
  await own.up(LADDER);
  assert.is(kernelopts(own)?.value, "quiet  xe.force_probe=a7a0 i915.force_probe=!a7a0");
  assert.equal(await own.preview(LADDER), {});
  await own.destroy();
  assert.is(kernelopts(own)?.value, "quiet  xe.force_probe=a7a0");

  const other = raptorLake("6.12");
  const pci = [{ port: "00_14.3", device: "*", mode: "required", options: {} }];
  const like = (kernel: string, kernelopts: string) =>
    qube({
      pci,
      properties: { kernel: explicit(kernel), kernelopts: { default: true, value: kernelopts } },
    });
  other.host.byHand((now) => {
    now.qubes["old"] = like("5.15", "iommu=soft");
    now.qubes["sys-net"] = like("6.12", "swiotlb=8192");
  });
  await other.up(LADDER);
  assert.is(kernelopts(other)?.value, `swiotlb=8192 ${OPTIONS}`);
});

test("where the template brings the kernel it is said what to do inside", async () => {
  const program = raptorLake("");
  await program.up(LADDER);
  assert.equal([mode(program), kernelopts(program)?.default], [["gpu", "ready"], true]);
  program.host.byHand((now) => {
    Object.assign(now.qubes["sys-gui"]?.features ?? {}, { "video-model": "vga" });
  });
  await program.preview(LADDER);
  const said =
    /needs the kernel options i915\.force_probe=!a7a0 xe\.force_probe=a7a0, and sys-gui boots the kernel inside its template: add them .*of fedora-43-xfce/;
  assert.ok(
    program.warnings.some((text) => said.test(text)),
    program.warnings.join("\n"),
  );
});

/** A display that is gone since a boot, in which the host went back by itself. */
async function withoutDisplay(program: Program) {
  const { host } = program;
  host.byHand((now) => {
    now.facts.pci = [];
  });
  host.rescue("the GUI domain was not verified within 900 s");
  return program.up({ ...LADDER, retry: 1 });
}

test("a display that is gone: xephyr comes up in that qube", async () => {
  const program = on();
  await program.up(LADDER);
  await withoutDisplay(program);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["xephyr", "ready"],
      ["gpu refused", "xephyr ok"],
    ],
  );
  assert.equal(sysGui(program.host)?.pci, []);
});

test("one that was assigned in its place before we came stays assigned when it is gone, and that is said", async () => {
  const program = on();
  const { host } = program;
  const pci = [{ port: "00_02.0", device: DEVICE, mode: "required", options: { permissive: "True" } }];
  host.byHand((now) => {
    now.qubes["sys-gui"] = qube({ properties: { guivm: explicit(""), virt_mode: explicit("hvm") }, pci });
  });
  await program.up(LADDER);
  assert.equal([mode(program), sysGui(host)?.pci], [["gpu", "ready"], pci]);
  const error = await failing(Error, withoutDisplay(program));
  assert.match(error.message, /"sys-gui" has PCI devices assigned \(00_02\.0\)/);
});

test("another display that came of the same kind: it is given by its place, in a boot of its own", async () => {
  const program = on();
  const { host } = program;
  await program.up(LADDER);
  host.byHand((now) => {
    now.facts.pci.push(display({ sbdf: "0000:00:03.0", port: "00_03.0", bootVga: false, outputs: [] }));
  });
  const changes = await program.preview(LADDER);
  assert.equal(changes, { [`settings.devices["${DEVICE}"].anyPlace`]: "delete" });
  await program.up(LADDER);
  assert.equal([mode(program), host.boots], [["gpu", "ready"], 2], program.warnings.join("\n"));
  assert.equal(
    sysGui(host)?.pci.map((d) => d.port),
    ["00_02.0"],
  );
});

test("assigned wherever it sits by somebody else: adopted as it is", async () => {
  const program = on();
  const { host } = program;
  const pci = [{ port: "*", device: DEVICE, mode: "required", options: { permissive: "True" } }];
  host.byHand((now) => {
    now.qubes["sys-gui"] = qube({ properties: { guivm: explicit(""), virt_mode: explicit("hvm") }, pci });
  });
  await program.up(LADDER);
  assert.equal([mode(program), sysGui(host)?.pci], [["gpu", "ready"], pci]);
  await program.destroy();
  assert.equal(sysGui(host)?.pci, pci);
});

test("the host went back by itself: the next preview says so, the mode is true, and the next up converges", async () => {
  const program = on();
  const { host } = program;
  await program.up(LADDER);
  host.rescue("the GUI domain was not verified within 900 s: X shows no picture");
  const changes = await program.preview(LADDER);
  assert.ok(Object.keys(changes).length > 0);
  assert.equal(mode(program), ["dom0", "rescued"]);
  assert.match(
    program.warnings.join("\n"),
    /did not come up in a boot, and the host went back by itself: .*900 s/,
  );
  assert.match(reasonOf(program), /X shows no picture/);
  await program.up(LADDER);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["xephyr", "ready"],
      ["gpu failed", "xephyr ok"],
    ],
  );
  assert.match(reasonOf(program), /X shows no picture \(not tried again until/);
  assert.equal(await program.up(LADDER), {});
  await program.up({ ...LADDER, retry: "now" });
  assert.equal(mode(program), ["gpu", "ready"]);
});

test("gone back to xephyr by itself: it is in force, checked anew, and that is the end of it", async () => {
  const program = on();
  const { host } = program;
  await program.up({ clients: ["work"] });
  await program.up(LADDER);
  host.rescue("X shows no picture");
  assert.equal(
    await program.preview(LADDER),
    { remembered: "update", "settings.packages.dummy-backlight-dom0": "add" },
    "a package that went for good is all that a rescue does not bring back",
  );
  assert.equal([mode(program), screen(host)], [["xephyr", "rescued"], "dom0"]);
  await program.up(LADDER);
  assert.equal(
    [mode(program), attempts(program), host.snapshot().outcome],
    [["xephyr", "ready"], ["gpu failed", "xephyr ok"], null],
  );
  assert.equal(await program.up(LADDER), {});
});

test('destroy in mode gpu: with reboot "never" refused with what to do', async () => {
  const program = on();
  await program.up(LADDER);
  await program.up({ ...LADDER, reboot: "never" });
  assert.equal(mode(program), ["gpu", "ready"], "what is in force needs no boot");
  const before = program.host.snapshot();
  const error = await failing(Refusal, program.destroy());
  assert.match(
    error.message,
    /it drives the screen, which goes back to dom0 in a boot of its own, and reboot is "never"\. Nothing was changed.*Set reboot to "allowed" and run "pulumi up", then destroy it/,
  );
  assert.equal(program.host.snapshot(), before);
});

test('onFallback "fail": the fallback is in place, and the run fails each time until that is mended', async () => {
  const program = on(noIommu);
  const args = { ...LADDER, onFallback: "fail" };
  for (const _ of [1, 2]) {
    const error = await failing(PartialFailure, program.up(args));
    assert.match(
      error.message,
      /it is in mode "xephyr", and onFallback is "fail": mode "gpu" was refused: .*IOMMU/,
    );
    assert.equal(mode(program), ["xephyr", "ready"]);
  }
  assert.is(program.hosts.applied.length, 1);
});

test("a ladder that ends at dom0: nothing of ours stays, and that is well", async () => {
  const program = on(noIommu);
  const before = everything(program.host.snapshot());
  const args = { display: ["gpu", "dom0"], reboot: "allowed" };
  await program.up(args);
  assert.equal(
    [mode(program), attempts(program)],
    [
      ["dom0", "ready"],
      ["gpu refused", "dom0 ok"],
    ],
  );
  assert.equal(everything(program.host.snapshot()), before);
  assert.equal(await program.preview(args), {});
  assert.equal(mode(program), ["dom0", "ready"]);
  program.host.byHand((now) => {
    now.facts.xen = laptop().facts.xen;
  });
  await program.up(args);
  assert.equal(mode(program), ["gpu", "ready"]);
  await program.destroy();
  assert.equal(differing(everything(program.host.snapshot()), before), []);
});

test("no mode came up: as before, and an error with every reason", async () => {
  const program = on();
  const { host } = program;
  const before = everything(host.snapshot());
  host.nextBoots = { fails: "X shows a picture", output: "no mode" };
  host.failing.set("session service exists", "no such file");
  const error = await failing(PartialFailure, program.up({ ...LADDER, display: ["gpu"] }));
  assert.match(error.message, /X shows a picture: no mode/);
  assert.equal([error.outputs["mode"], error.outputs["state"]], ["none", "failed"]);
  assert.equal(differing(before, everything(host.snapshot())), []);
  const again = await failing(Refusal, program.up({ ...LADDER, display: ["gpu"] }));
  assert.match(
    again.message,
    /mode "gpu": .*X shows a picture: no mode \(not tried again until.*Nothing was changed/,
  );
});

test("what the run cannot do ends it, and says nothing about the mode", async () => {
  const program = on();
  const held = { code: "lock-held", message: "bob@desk is at work", changed: [] };
  program.hosts.failure = new AgentFailure("lab", held);
  const error = await failing(PartialFailure, program.up(LADDER));
  assert.match(error.message, /bob@desk is at work/);
  assert.not("remembered" in error.outputs);
  await program.up(LADDER);
  assert.equal(mode(program), ["gpu", "ready"]);
  // What was in force stays so: nothing was changed.
  program.hosts.failure = new AgentFailure("lab", held);
  const later = await failing(PartialFailure, program.up({ ...LADDER, clients: ["vault"] }));
  assert.equal([later.outputs["mode"], later.outputs["state"]], ["gpu", "ready"]);
  assert.equal(later.outputs["evidence"], program.outputs["evidence"]);
});

const LAPTOP = laptop();
const BAD: [string, object, Parameters<typeof laptop>[0], RegExp][] = [
  [
    "unknown device",
    { gpu: { vendor: "10de" } },
    {},
    /mode "gpu": no device of this machine is \{ vendor: "10de" \}/,
  ],
  [
    "two matches",
    { gpu: { class: "display" } },
    { pci: [display(), display({ sbdf: "0000:00:03.0", port: "00_03.0", bootVga: false })] },
    /names 2 devices where one is meant/,
  ],
  [
    "a bridge",
    { gpu: { address: "00_1c.0" } },
    { pci: [display(), display({ sbdf: "0000:00:1c.0", port: "00_1c.0", class: "060400", outputs: [] })] },
    /which is not a display/,
  ],
  [
    "the disk controller",
    { gpu: { address: "00_17.0" } },
    {
      pci: [
        display(),
        display({ sbdf: "0000:00:17.0", port: "00_17.0", class: "010601", disks: ["sda"], outputs: [] }),
      ],
    },
    /which is not a display/,
  ],
  [
    "no one-shot boot",
    {},
    { boot: { ...LAPTOP.facts.boot, oneShot: false, oneShotWhy: "/boot is on LVM" } },
    /cannot boot an entry once and come back by itself: \/boot is on LVM/,
  ],
  [
    "one-shot boot not known",
    {},
    { boot: { ...LAPTOP.facts.boot, oneShot: null, oneShotWhy: "findmnt failed" } },
    /it is not known whether the host can boot an entry once/,
  ],
  [
    "hide paths not known",
    {},
    { boot: { ...LAPTOP.facts.boot, hidePaths: null } },
    /not known whether the host's initramfs can hide a device by its path/,
  ],
  ["no reset", {}, { pci: [display({ reset: [] })] }, /has no reset method of its own/],
  ["no IOMMU", {}, noIommu, /no IOMMU/],
  [
    "no keyboard",
    {},
    { keyboards: [] },
    /no keyboard would reach it: dom0 has none, and no USB qube is allowed/,
  ],
];
for (const [name, args, facts, message] of BAD)
  test(`refused: ${name}`, async () => {
    const program = on(facts);
    const before = program.host.snapshot();
    const only = { display: ["gpu"], reboot: "allowed", ...args } as Properties;
    const error = await failing(Refusal, program.up(only));
    assert.match(error.message, message);
    assert.match(
      error.message,
      /^GUI domain sys-gui on host lab: mode "gpu": .*Nothing was changed on the host\./,
    );
    assert.equal([program.host.snapshot(), program.hosts.applied], [before, []]);
    // With another rung it is no error.
    await program.up({ ...only, display: ["gpu", "xephyr"] });
    assert.equal([mode(program), attempts(program)[0]], [["xephyr", "ready"], "gpu refused"]);
  });

for (const port of ["00_02.0", "*"])
  test(`refused: a display that another qube has running (${port})`, async () => {
    const pci = [{ port, device: DEVICE, mode: "required", options: {} }];
    const host = laptop(
      { pci: [display({ driver: "pciback" })] },
      { qubes: { "other-gui": qube({ state: "Running", pci, properties: { virt_mode: explicit("hvm") } }) } },
    );
    const program = new Program(new HostModel(host));
    const before = program.host.snapshot();
    const error = await failing(Refusal, program.up({ display: ["gpu"], reboot: "allowed" }));
    assert.match(
      error.message,
      /belongs to qube "other-gui", which is running\. Nothing was changed on the host\./,
    );
    assert.equal([program.host.snapshot(), program.hosts.applied], [before, []]);
  });

test("somebody must be there for the passphrase: said before the boot", async () => {
  const program = on({
    boot: { ...LAPTOP.facts.boot, unattended: false, unattendedWhy: "the disk asks for a passphrase" },
  });
  await program.up(LADDER);
  assert.ok(
    program.warnings.some((w) => /somebody must be there: the disk asks for a passphrase/.test(w)),
    program.warnings.join("\n"),
  );
});

const USB_CONTROLLER = {
  sbdf: "0000:00:14.0",
  port: "00_14.0",
  class: "0c0330",
  driver: "pciback",
  bootVga: null,
  outputs: [],
};

test("mice of a USB qube reach the GUI domain; keyboards only where dom0 takes them now", async () => {
  const usb = display({ ...USB_CONTROLLER });
  const rules =
    "qubes.InputMouse * sys-usb @adminvm ask default_target=@adminvm\nqubes.InputKeyboard * sys-usb @adminvm ask\n";
  const own = { port: "*", device: "0x8086:0x9a49::p0c0330", mode: "required", options: {} };
  const host = laptop(
    { pci: [display(), usb] },
    {
      qubes: {
        "sys-usb": qube({ pci: [own] }),
      },
      files: { "/etc/qubes/policy.d/50-config-input.policy": { content: rules, mode: "0644" } },
    },
  );
  const program = new Program(new HostModel(host));
  await program.up(LADDER);
  const policy = program.host.snapshot().files["/etc/qubes/policy.d/45-gui-sys-gui.policy"]?.content ?? "";
  assert.match(policy, /^qubes\.InputMouse +\* +sys-usb +dom0 +allow user=root target=sys-gui$/m);
  assert.not.match(policy, /InputKeyboard/);
});

test("dom0's input devices kept back: neither sender nor target, and the keyboard comes from the USB qube", async () => {
  const usb = display({ ...USB_CONTROLLER });
  const own = { port: "*", device: "0x8086:0x9a49::p0c0330", mode: "required", options: {} };
  const running = qube({ state: "Running", pci: [own], properties: { autostart: explicit("True") } });
  const program = new Program(
    new HostModel(laptop({ pci: [display(), usb] }, { qubes: { "sys-usb": running } })),
  );
  const before = everything(program.host.snapshot());
  const args = { ...LADDER, input: { dom0: "deny", usb: [{ keyboard: "allow", tablet: "deny" }] } };
  await program.up(args);
  const { files, qubes, packages } = program.host.snapshot();
  assert.equal(mode(program), ["gpu", "ready"]);
  assert.equal(
    [
      files["/etc/qubes/input-proxy-target"],
      qubes["sys-gui"]?.features["input-dom0-proxy"],
      packages["qubes-input-proxy-sender"] ?? null,
    ],
    [undefined, undefined, null],
  );
  assert.match(
    files["/etc/qubes/policy.d/45-gui-sys-gui.policy"]?.content ?? "",
    /^qubes\.InputKeyboard +\* +sys-usb +dom0 +allow user=root target=sys-gui\n(.*\n)*qubes\.InputTablet +\* +sys-usb +sys-gui +deny$/m,
  );
  const seen = (program.outputs["evidence"] as Properties[]).map((e) => e["id"]);
  assert.ok(seen.includes("input: qubes.InputKeyboard of sys-usb is let in"), seen.join("\n"));
  assert.ok(seen.includes("input: qubes.InputTablet of sys-usb is not let in unasked"));
  assert.not(seen.includes("dom0's input devices are passed on"));
  assert.equal(await program.preview(args), {});
  await program.destroy();
  assert.equal(differing(before, everything(program.host.snapshot())), []);
});

test("import of a GPU domain made by hand with the stock settings: it is described, and left alone without a reboot", async () => {
  const snapshot = laptop();
  const gui = guiOf("sys-gui", { host: "lab", display: ["gpu"], autostart: false });
  const { grant } = judgeGpu(gui, snapshot, false);
  setUp(snapshot, "sys-gui", settingsOf(gui, "gpu", grant));
  const made = qube(snapshot.qubes["sys-gui"]);
  snapshot.qubes["sys-gui"] = Object.assign(made, {
    state: "Running",
    pci: [{ port: "00_02.0", device: "*", mode: "required", options: { permissive: "True" } }],
  });
  delete made.features["prohibit-start"];
  made.properties["memory"] = explicit("1000");
  snapshot.facts.pci = [display({ driver: "pciback", outputs: [] })];
  snapshot.facts.boot.args = ["rd.qubes.hide_pci=00:02.0"];
  const program = new Program(new HostModel(snapshot));
  program.state = await program.handler.read(
    { id: "lab/sys-gui", inputs: {}, outputs: {} },
    program.hosts.context("sys-gui"),
  );
  const { outputs, inputs } = program.state as ReadResult;
  assert.equal([outputs["mode"], outputs["state"], outputs["origin"]], ["gpu", "drifted", "adopted"]);
  assert.equal(inputs["gpu"], { class: "display", vendor: "8086", device: "9a49" });
  const { devices } = inputs["settings"] as { devices: Record<string, Properties> };
  assert.equal(devices[DEVICE], { port: "00_02.0", options: { permissive: "True" }, anyDevice: true });
  const before = program.host.snapshot();
  await program.up({ display: ["gpu"], autostart: false });
  assert.equal([program.host.snapshot(), program.hosts.applied], [before, []]);
  assert.is((program.outputs["pending"] as Properties[])[0]?.["kind"], "reboot");
});

/** Who drives the screen, and that somebody does: a display kept from dom0 is with a qube that runs. */
function screen(host: HostModel): string {
  const { facts } = host.snapshot();
  const [fn] = facts.pci;
  if (fn?.driver !== "pciback")
    return facts.lightdm ? "dom0" : "nobody: dom0 has the display, and no greeter";
  const is = sysGui(host);
  return is?.state === "Running" && is.pci.length ? "sys-gui" : "nobody: sys-gui does not run";
}

test("whatever is asked for, and however boots end: somebody has the screen, runs converge, destroy takes all back", async () => {
  const LADDERS: Properties[] = [
    { display: ["gpu", "xephyr"] },
    { display: ["xephyr"] },
    { display: ["vnc", "gpu"] },
    { display: ["gpu", "dom0"] },
    { display: ["gpu"] },
  ];
  const boots = fc.constantFrom<HostModel["nextBoots"]>("well", "well", "hangs", {
    fails: "X shows a picture",
    output: "no mode",
  });
  type Run = {
    is: "up";
    ladder: Properties;
    reboot: string;
    retry: number;
    clients: string | string[];
    boots: HostModel["nextBoots"];
  };
  const run: fc.Arbitrary<Run> = fc.record({
    is: fc.constant("up" as const),
    ladder: fc.constantFrom(...LADDERS),
    reboot: fc.constantFrom("allowed", "allowed", "never"),
    retry: fc.nat(2),
    clients: fc.constantFrom<(string | string[])[]>(["work"], ["vault"], "default"),
    boots,
  });
  type Other = { is: "reboot" | "rescue" | "kernel" };
  const other: fc.Arbitrary<Other> = fc.constantFrom<Other>(
    { is: "reboot" },
    { is: "rescue" },
    { is: "kernel" },
  );
  const newKernel = (now: Snapshot) => {
    now.facts.kernel += "x";
  };
  const counts = new Map<string, number>();
  const count = (what: string) => counts.set(what, (counts.get(what) ?? 0) + 1);
  await fc.assert(
    fc.asyncProperty(
      fc.array(fc.oneof({ weight: 3, arbitrary: run as fc.Arbitrary<Run | Other> }, other), { maxLength: 7 }),
      async (steps) => {
        const program = on();
        const { host } = program;
        const before = everything(host.snapshot());
        for (const step of steps) {
          if (step.is === "reboot") host.reboot();
          else if (step.is === "kernel") host.byHand(newKernel);
          else if (step.is === "rescue") {
            if (host.snapshot().watch) host.rescue("it did not come up in 900 s");
          } else if (step.is === "up") {
            const { ladder, reboot, retry, clients } = step;
            const args = { ...ladder, reboot, retry, clients };
            host.nextBoots = step.boots;
            const failed = await program.up(args).then(
              () => null,
              (error: unknown) => {
                if (error instanceof Refusal || error instanceof PartialFailure) return error;
                throw error;
              },
            );
            if (failed) count("failed");
            else {
              count(`mode ${program.outputs["mode"]}`);
              assert.equal(await program.preview(args), {}, "a run leaves nothing to do");
              const drives = screen(host);
              assert.is(program.outputs["mode"] === "gpu", drives === "sys-gui", drives);
            }
          }
          assert.not.match(screen(host), /nobody/);
        }
        host.nextBoots = "well";
        if (!program.state) return;
        await program.up({ display: ["xephyr"], reboot: "allowed", retry: "last" });
        assert.equal([mode(program)[0], screen(host)], ["xephyr", "dom0"]);
        await program.destroy();
        assert.equal(differing(before, everything(host.snapshot())), []);
        count("taken back");
      },
    ),
    { numRuns: 300, includeErrorInReport: true },
  );
  for (const what of ["failed", "mode gpu", "mode xephyr", "mode dom0", "taken back"])
    assert.ok((counts.get(what) ?? 0) > 20, `too few of "${what}": ${JSON.stringify([...counts])}`);
});

test.run();
