/** What the tests of the product on real Xen share: hosts of the Xen lab, a stack on one, and the host's own state to compare. */
import { join } from "node:path";
import {
  AudioDomain,
  type AudioDomainArgs,
  GuiDomain,
  type GuiDomainArgs,
  Host,
  PciAttachment,
  type PciAttachmentArgs,
} from "guidomain";
import * as assert from "uvu/assert";
import { consoleOf, INITRD, UNPACKED } from "../lab/xen/guest.ts";
import { type Machine, startXenHost, type XenHost } from "../lab/xen/xenHost.ts";
import { type Outcome, scratch, type TestStack, testStack } from "./harness.ts";

/** The lab's guest, which tells what it sees, as a program describes it. */
export const GUEST = {
  type: "pv" as const,
  kernel: UNPACKED,
  ramdisk: INITRD,
  cmdline: "console=hvc0 console=tty0 quiet",
  reports: ["pci"] as ("pci" | "screen")[],
};
/** An emulated machine takes its time. */
export const LIMITS = { start: 600, checks: 300, boot: 1800 };

export interface Program {
  gui?: Partial<GuiDomainArgs>;
  audio?: Partial<AudioDomainArgs>;
  usb?: Partial<PciAttachmentArgs>;
}

export class XenLab {
  readonly host: XenHost;
  readonly stack: TestStack;
  /** What the stack's program describes now. */
  program: Program = {};

  constructor(host: XenHost, stack: TestStack) {
    this.host = host;
    this.stack = stack;
  }

  static async start(
    name: string,
    machine: Partial<Machine> = {},
    say?: (line: string) => void,
  ): Promise<XenLab> {
    const folder = scratch(name);
    const host = await startXenHost({ dir: join(folder, name), machine, ...(say && { say }) });
    let lab: XenLab | undefined;
    const stack = await testStack(name, folder, { lab: connectionOf(host) }, async () => {
      const { gui, audio, usb } = lab?.program ?? {};
      const machine = new Host("lab");
      const common = { host: machine };
      const made =
        gui && new GuiDomain("sys-gui", { ...common, domain: GUEST, memory: 192, limits: LIMITS, ...gui });
      const sound =
        audio &&
        new AudioDomain("sys-audio", {
          ...common,
          domain: GUEST,
          memory: 128,
          limits: { start: 600, checks: 300 },
          ...audio,
        });
      if (usb) new PciAttachment("usb", { ...common, qube: "sys-gui", ...usb } as PciAttachmentArgs);
      return {
        release: machine.release,
        modes: machine.modes,
        ...(made && { mode: made.mode, state: made.state, attempts: made.attempts, pending: made.pending }),
        ...(sound && { sound: sound.sound, soundState: sound.state }),
      };
    });
    lab = new XenLab(host, stack);
    return lab;
  }

  async up(program: Program): Promise<Outcome> {
    this.program = program;
    const done = await this.stack.up();
    assert.ok(done.ok, done.output);
    return done;
  }

  /** A preview of what is described finds nothing to do. */
  async isSettled(): Promise<void> {
    const { ok, changes, output } = await this.stack.preview();
    assert.ok(ok, output);
    assert.equal(Object.keys(changes), ["same"], output);
  }

  /** What a guest has told on its console since the host began to keep it. */
  consoleOf = (name: string): Promise<string> => this.host.must(`cat ${consoleOf(name)} | tr -d '\\r'`);

  /** The host by what it is and not by what it says: files by digest, packages, drivers, domains, units. */
  async dump(): Promise<Record<string, string>> {
    const lines = await this.host.must(DUMP, { timeout: 300_000 });
    return Object.fromEntries(
      lines
        .trimEnd()
        .split("\n")
        .map((line) => line.split("\t", 2) as [string, string]),
    );
  }
}

/** What differs, each as "key: before → after". */
export function differences(before: Record<string, string>, after: Record<string, string>): string[] {
  return [...new Set([...Object.keys(before), ...Object.keys(after)])]
    .filter((key) => before[key] !== after[key])
    .sort()
    .map((key) => `${key}: ${before[key] ?? "nothing"} → ${after[key] ?? "nothing"}`);
}

export const attemptsOf = (
  outputs: Record<string, unknown>,
): { mode: string; verdict: string; reason: string }[] =>
  outputs["attempts"] as { mode: string; verdict: string; reason: string }[];
export const rungs = (outputs: Record<string, unknown>): string[] =>
  attemptsOf(outputs).map(({ mode, verdict }) => `${mode} ${verdict}`);

/** How the configuration names it. */
export const connectionOf = (host: XenHost) => ({
  address: "127.0.0.1",
  port: host.port,
  user: host.user,
  identityFile: host.identityFile,
  hostKey: host.hostKey,
});

/**
 * Everything that a change may touch, a line each: KEY<TAB>VALUE. An empty folder counts; what other programs write by themselves (logs,
 * Salt's cache, GRUB's memory of an entry that it has booted, the folder that xendomains makes, the word of a boot that was a trial's) does not.
 */
const DUMP = `
for folder in /etc/xen /etc/lightdm /usr/share/xsessions /usr/local /etc/systemd/system /etc/salt /var/lib/guidomain /srv /etc/default /boot/grub /root; do
  find $folder \\( -type f -o -type l -o -type d -empty \\) ! -path /boot/grub/grubenv ! -path '/boot/grub/i386-pc/*' ! -path '*/__pycache__*' 2> /dev/null
done | sort | while read -r name; do
  if [ -h "$name" ]; then printf '%s\\tlink to %s\\n' "$name" "$(readlink "$name")"
  elif [ -d "$name" ]; then printf '%s\\tempty\\n' "$name"
  else printf '%s\\t%s %s\\n' "$name" "$(stat -c %a "$name")" "$(sha256sum < "$name" | cut -c 1-16)"; fi
done
grub-editenv list | grep -v '^next_entry=$' | sed 's/^\\([^=]*\\)=/grubenv \\1\\t/'
dpkg-query -W -f 'package \${Package}\\t\${Version}\\n'
for device in /sys/bus/pci/devices/*; do printf '%s\\t%s\\n' "\${device##*/}" "$(basename "$(readlink "$device/driver" || echo none)")"; done
xl list | awk 'NR > 1 && $1 != "Domain-0" { print "domain " $1 "\\tis there" }'
printf 'lightdm\\t%s\\n' "$(systemctl is-active lightdm)"
tr ' ' '\\n' < /proc/cmdline | grep -E 'pciback|guidomain' | grep -v '^guidomain.trial=' | sed 's/^/boot word /; s/$/\\tset/'
true
`;
