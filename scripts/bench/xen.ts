/** Facts and a no-change preview of a real Xen host (QEMU, emulated) beside the same look by plain `ssh`, in turn. Issue 7. */
import { execFile } from "node:child_process";
import { writeFileSync } from "node:fs";
import path from "node:path";
import { promisify } from "node:util";
import { lacking } from "../../lab/xen/needs.ts";
import { parseHosts } from "../../src/host/inventory.ts";
import { HostPool } from "../../src/host/pool.ts";
import { Scrubber } from "../../src/host/scrub.ts";
import { XEN_PACKAGES } from "../../src/model/guiDomain.ts";
import { scratch } from "../../tests/harness.ts";
import { connectionOf, XenLab } from "../../tests/xenLab.ts";
import { median, print, show, timed } from "./figures.ts";

const run = promisify(execFile);

/** What mode "xephyr" asks of dom0: the most that a look has to tell. */
const PACKAGES = XEN_PACKAGES.xephyr;

/** What a person would look at to know the same: hypervisor, domains, devices, boot, files, packages. */
const LOOK = [
  "xl info; xl dmesg; xl list; cat /proc/cmdline /etc/xen/*.cfg; ls -l /etc/xen/auto",
  "lspci -vmmnnkD 2> /dev/null || cat /sys/bus/pci/devices/*/uevent; ls -l /sys/bus/pci/drivers/pciback",
  "cat /etc/default/grub /boot/grub/grub.cfg /boot/grub/grubenv; findmnt -n /boot/grub -T /boot/grub",
  "cat /usr/share/xsessions/* /etc/lightdm/lightdm.conf.d/*; systemctl is-active lightdm",
  `dpkg-query -W ${PACKAGES.join(" ")}`,
  "true",
].join("; ");

export async function benchXen(runs: number): Promise<void> {
  const missing = lacking();
  if (missing.length) {
    print(`Real Xen: left out, since the machine has no ${missing.join(", ")}`);
    return;
  }
  const lab = await XenLab.start("bench");
  try {
    await lab.up({ gui: { display: ["vnc"] } });
    await lab.isSettled(); // warm
    const { host } = lab;
    const known = path.join(scratch("bench-known"), "known_hosts");
    writeFileSync(known, `[127.0.0.1]:${host.port} ${host.publicKey()}\n`);
    const ssh = () =>
      run("ssh", [
        ...["-F", "none", "-i", host.identityFile, "-p", String(host.port)],
        ...["-o", `UserKnownHostsFile=${known}`, "-o", "BatchMode=yes", `${host.user}@127.0.0.1`, LOOK],
      ]);
    const hosts = parseHosts({ lab: connectionOf(host) }, "the bench");
    const look = async () => {
      const pool = new HostPool({
        hosts,
        packages: [...PACKAGES],
        usb: [],
        scrubber: new Scrubber(),
      });
      await pool.session("lab").snapshot();
      await pool.close();
    };
    const times = { ssh: [] as number[], facts: [] as number[], preview: [] as number[] };
    for (let i = 0; i < runs; i++) {
      times.ssh.push(await timed(ssh));
      times.facts.push(await timed(look));
      times.preview.push(await timed(() => lab.isSettled()));
    }
    const ratio = (ours: number[]) => `${(median(ours) / median(times.ssh)).toFixed(2)} times plain ssh`;
    print(`Real Xen 4.17 in QEMU without KVM, ${runs} runs in turn; median (least–most)
  the same look by plain ssh        ${show(times.ssh)}
  facts and snapshot                ${show(times.facts)}  ${ratio(times.facts)}
  no-change preview, 2 resources    ${show(times.preview)}  ${ratio(times.preview)}`);
  } finally {
    await lab.host.stop();
  }
}
