/** The twin's /sys, made from its machine: the parts of sysfs-bus-pci and of Xen's that tools in dom0 read. */
import { mkdirSync, rmSync, symlinkSync, writeFileSync } from "node:fs";
import { dirname, join, relative } from "node:path";
import type { Machine, MachineFunction, World } from "./world.ts";

/** Writes the tree into `sys`, which must be an existing folder; what was there before goes. */
export function writeSysfs(sys: string, world: World): void {
  for (const part of ["bus", "devices", "class", "hypervisor"])
    rmSync(join(sys, part), { recursive: true, force: true });
  const bus = join(sys, "bus/pci");
  mkdirSync(join(bus, "devices"), { recursive: true });
  mkdirSync(join(bus, "drivers/pciback"), { recursive: true });
  for (const part of ["class", "devices/virtual"]) mkdirSync(join(sys, part), { recursive: true });

  const folders = new Map<string, string>();
  for (const fn of world.machine.devices)
    folders.set(fn.sbdf, join(sys, "devices", ...pathOf(world.machine, fn)));
  for (const fn of world.machine.devices) writeFunction(bus, folders, fn, world.machine);

  const xen = join(sys, "hypervisor");
  const [major = "", minor = "", extra = ""] = world.xen.split(".");
  mkdirSync(join(xen, "version"), { recursive: true });
  writeFileSync(join(xen, "type"), "xen\n");
  writeFileSync(join(xen, "version/major"), `${major}\n`);
  writeFileSync(join(xen, "version/minor"), `${minor}\n`);
  writeFileSync(join(xen, "version/extra"), `.${extra}\n`);
}

function writeFunction(
  bus: string,
  folders: Map<string, string>,
  fn: MachineFunction,
  machine: Machine,
): void {
  const folder = folders.get(fn.sbdf) ?? "";
  const [subsystemVendor = "0000", subsystemDevice = "0000"] = (fn.subsystem ?? "")
    .split(":")
    .filter(Boolean);
  const reset = resetMethods(machine, fn);
  const files: Record<string, string> = {
    vendor: `0x${fn.vendor}`,
    device: `0x${fn.device ?? "ffff"}`,
    class: `0x${classCode(fn)}`,
    subsystem_vendor: `0x${subsystemVendor}`,
    subsystem_device: `0x${subsystemDevice}`,
    revision: `0x${fn.rev ?? "00"}`,
    reset_method: reset.join(" "),
  };
  if (fn.bridge) {
    // In decimal, unlike every other number here (drivers/pci/pci-sysfs.c).
    files.secondary_bus_number = String(Number.parseInt(fn.bridge.secondary, 16));
    files.subordinate_bus_number = String(Number.parseInt(fn.bridge.subordinate, 16));
  }
  mkdirSync(folder, { recursive: true });
  for (const [name, text] of Object.entries(files)) writeFileSync(join(folder, name), `${text}\n`);
  if (reset.length > 0) writeFileSync(join(folder, "reset"), "");
  link(join(bus, "devices", fn.sbdf), folder);
  if (fn.driver) {
    const driver = join(bus, "drivers", fn.driver);
    mkdirSync(driver, { recursive: true });
    link(join(folder, "driver"), driver);
    link(join(driver, fn.sbdf), folder);
  }
}

function link(path: string, target: string): void {
  symlinkSync(relative(dirname(path), target), path);
}

/** The bridge whose secondary bus this function is on. */
function bridgeAbove(machine: Machine, fn: MachineFunction): MachineFunction | undefined {
  const [domain, bus] = fn.sbdf.split(":");
  return machine.devices.find(
    (other) => other.bridge?.secondary === bus && other.sbdf.split(":")[0] === domain,
  );
}

/** Folder names below /sys/devices: the root bus, the bridges, the function. */
function pathOf(machine: Machine, fn: MachineFunction): string[] {
  const bridge = bridgeAbove(machine, fn);
  if (bridge) return [...pathOf(machine, bridge), fn.sbdf];
  return [`pci${fn.sbdf.split(":").slice(0, 2).join(":")}`, fn.sbdf];
}

/** Class code, 6 hex digits. Profiles give 4 for most; USB's programming interface then follows from the name. */
export function classCode(fn: MachineFunction): string {
  if (fn.class.length === 6) return fn.class;
  if (fn.interface) return fn.class + fn.interface;
  if (fn.class !== "0c03") return `${fn.class}00`;
  const name = `${fn.name ?? ""} ${fn.productName ?? ""}`;
  if (/EHCI|Enhanced/i.test(name)) return "0c0320";
  if (/OHCI/i.test(name)) return "0c0310";
  if (/UHCI/i.test(name)) return "0c0300";
  return "0c0330";
}

/**
 * What the kernel would offer, in its order: function-level, power management, bus reset. A bus reset needs a bridge
 * above and no function of another slot on the bus (drivers/pci/pci.c, pci_parent_bus_reset).
 */
export function resetMethods(machine: Machine, fn: MachineFunction): string[] {
  if (fn.reset) return fn.reset;
  const methods: string[] = [];
  if (fn.flr) methods.push("flr");
  if (fn.pmReset) methods.push("pm");
  const onBus = machine.devices.filter((other) => other.sbdf.slice(0, 7) === fn.sbdf.slice(0, 7));
  if (bridgeAbove(machine, fn) && onBus.length === 1) methods.push("bus");
  return methods;
}
