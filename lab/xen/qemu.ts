/** The machine that QEMU emulates: what it is made of, how it is started, what its switch does. Pure emulation (TCG), no KVM. */
import { spawn, spawnSync } from "node:child_process";
import { closeSync, openSync } from "node:fs";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { alive, identify, type ProcessId } from "../twin/process.ts";
import { qmp } from "./qmp.ts";

export interface Machine {
  /** Without one Xen passes devices to PV guests only by force, and HVM guests get none. */
  iommu: boolean;
}

/** Functions that are there to be passed to guests, by what they are. The boot display is not one of them. */
export const DEVICES = {
  /** The firmware's display, whose screen `screenshot` shows. */
  bootDisplay: "0000:00:03.0",
  /** bochs-display, on the root complex. */
  card: "0000:00:06.0",
  /** Intel HD audio (ICH9), on the root complex. */
  audio: "0000:00:07.0",
  /** NEC xHCI with a tablet and a keyboard. */
  usb: "0000:00:08.0",
  /** e1000, on the root complex. */
  network: "0000:00:09.0",
  /** virtio-gpu behind a root port of its own. */
  virtioCard: "0000:01:00.0",
  /** A second VGA behind a root port of its own. */
  secondCard: "0000:02:00.0",
  /** QEMU's xHCI behind a root port. */
  secondUsb: "0000:03:00.0",
  /** e1000 and HD audio behind one conventional bridge: they share its requester id. */
  bridgedNetwork: "0000:04:01.0",
  bridgedAudio: "0000:04:02.0",
} as const;

/**
 * Every CPU feature that the emulator has, but: with SMAP dom0's kernel dies early ("d0v0 Unhandled: vec 14, #PF"); PKU, RDTSCP and MPX
 * trouble HVM guests; and without XSAVE and AVX, since with them dom0's process 1 has died of a segmentation fault after a quarter of an hour.
 */
const CPU = "max,-smap,-pku,-rdtscp,-mpx,-xsave,-avx,-avx2,-fma,-f16c";
const MEMORY_MB = 3072;

/** The arguments that make the machine; a saved state fits only the same ones. `slots`: what differs from one start to the next. */
export function machineArguments(machine: Machine, slots: { disk: string; port: number }): string[] {
  const device = (text: string) => ["-device", text];
  return [
    ...["-accel", "tcg,thread=multi", "-cpu", CPU, "-M", "q35,sata=off,smbus=off"],
    ...["-m", String(MEMORY_MB), "-smp", "1", "-nodefaults", "-display", "none", "-vga", "none"],
    ...["-serial", "file:console.log", "-qmp", "unix:qmp.sock,server=on,wait=off"],
    // What a power cut loses is dom0's own memory: what QEMU was given stays in the page cache of the machine around it.
    ...["-drive", `file=${slots.disk},format=qcow2,if=none,id=disk,cache=unsafe,discard=unmap`],
    ...(machine.iommu ? device("intel-iommu,intremap=on,caching-mode=on") : []),
    ...device("virtio-blk-pci,drive=disk,addr=2,bootindex=1"),
    ...device("VGA,id=screen,addr=3"),
    ...["-netdev", `user,id=way-in,restrict=on,hostfwd=tcp:127.0.0.1:${slots.port}-:22`],
    ...device("virtio-net-pci,id=way-in-nic,netdev=way-in,addr=4,romfile="),
    ...device("bochs-display,addr=6"),
    ...["-audiodev", "none,id=silence"],
    ...device("ich9-intel-hda,id=hda,addr=7"),
    ...device("hda-duplex,bus=hda.0,audiodev=silence"),
    ...device("nec-usb-xhci,id=xhci,addr=8"),
    ...device("usb-tablet,bus=xhci.0"),
    ...device("usb-kbd,bus=xhci.0"),
    ...device("e1000,addr=9,romfile="),
    ...device("pcie-root-port,id=port1,chassis=1,addr=0xa"),
    ...device("virtio-gpu-pci,bus=port1"),
    ...device("pcie-root-port,id=port2,chassis=2,addr=0xb"),
    ...device("secondary-vga,bus=port2,romfile="),
    ...device("pcie-root-port,id=port3,chassis=3,addr=0xc"),
    ...device("qemu-xhci,bus=port3"),
    ...device("pcie-pci-bridge,id=bridge,addr=0xd"),
    ...device("e1000,bus=bridge,addr=1,romfile="),
    ...device("intel-hda,bus=bridge,addr=2"),
  ];
}

/** The first line of `qemu-system-x86_64 --version`. Throws with what to install where there is none. */
export function qemuVersion(): string {
  const { stdout, status } = spawnSync("qemu-system-x86_64", ["--version"], { encoding: "utf8" });
  if (status !== 0)
    throw new Error("The Xen lab needs QEMU: install the packages qemu-system-x86 and qemu-utils.");
  return stdout.split("\n")[0] ?? "";
}

export interface StartMachine {
  machine: Machine;
  /** The folder with `disk.qcow2`; gets `console.log`, `qemu.log` and the socket. */
  dir: string;
  port: number;
  /** A saved state to go on from instead of the firmware's start. */
  state?: string;
  /** Goes on when this process ends; otherwise the kernel ends it with us, however we end. */
  detached: boolean;
}

/** Starts QEMU and waits until it answers. From a saved state the machine is stopped (`cont` lets it run), else it runs. */
export async function startQemu({ machine, dir, port, state, detached }: StartMachine): Promise<ProcessId> {
  const program = [
    ...(detached ? [] : ["setpriv", "--pdeathsig", "KILL"]),
    "qemu-system-x86_64",
    ...machineArguments(machine, { disk: "disk.qcow2", port }),
    ...(state ? ["-incoming", 'exec:zstd -dcq "$LAB_STATE"'] : []),
  ];
  const log = openSync(join(dir, "qemu.log"), "w");
  const child = spawn(program[0] as string, program.slice(1), {
    cwd: dir,
    env: { ...process.env, LAB_STATE: state },
    stdio: ["ignore", log, log],
    detached,
  });
  closeSync(log);
  child.unref();
  const failed = new Promise<never>((_, fail) => {
    child.on("error", (error) => fail(new Error(`QEMU cannot be started: ${error.message}`)));
    child.on("exit", (code) => fail(new Error(`QEMU ended with ${code}; see ${join(dir, "qemu.log")}`)));
  });
  failed.catch(() => {}); // it may also end later, as somebody wants
  if (child.pid === undefined) return failed;
  const qemu = identify(child.pid);
  return Promise.race([failed, answering(qemu, state !== undefined).then(() => qemu)]);
}

/** Resolves when the machine runs, or, `loaded`, when its state has been read. */
async function answering(qemu: ProcessId, loaded: boolean): Promise<void> {
  const limit = Date.now() + 120_000;
  for (let last = ""; Date.now() < limit; await sleep(100)) {
    if (!alive(qemu)) return; // `failed` tells
    last = await command<{ status: string }>(qemu, "query-status").then(
      ({ status }) => status,
      () => last,
    );
    if (last === (loaded ? "paused" : "running")) return;
  }
  throw new Error("QEMU did not come up within 120 s.");
}

/** By way of the process's own folder, since a socket's path has at most 107 bytes. */
export function command<T = unknown>(
  qemu: ProcessId,
  name: string,
  args?: Record<string, unknown>,
): Promise<T> {
  return qmp<T>(`/proc/${qemu.pid}/cwd/qmp.sock`, name, args);
}
