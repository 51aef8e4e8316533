/** What a dom0 is: that of Qubes, or a Debian host of plain Xen. Each says what its disk holds at first and what runs on it. */
import type { Install, World } from "./world.ts";

export type PlatformName = "qubes" | "xen";

export interface Platform {
  /** What a start takes that names neither: a profile of machines/, a fixture of installs/. */
  machine: string;
  install: string;
  /** A folder of lab/twin that is copied onto dom0's disk. */
  skel: string;
  /** Folders that are there from the first. */
  folders: string[];
  /** Files of a fresh installation; the fixture's own come on top. */
  files(install: Install, world: World): NonNullable<Install["files"]>;
  /** Where its commands are, first of PATH after those that a fault puts there. */
  bin: string;
  /** What process 1 keeps running; none of it where Xen was not booted. */
  daemons: { argv: string[]; log: string; socket: string }[];
}

const words = (text: string) => text.trim().split(/\s+/);

const qubes: Platform = {
  machine: "laptop",
  install: "qubes-4.3",
  skel: "skel",
  folders: words(`
    dev etc/lightdm/lightdm.conf.d etc/qubes-rpc/policy etc/qubes/policy.d/include etc/salt/minion.d etc/systemd/system home/user
    media mnt opt proc root run srv/formulas/base srv/pillar srv/salt sys tmp usr/local/bin usr/local/sbin
    usr/share/xsessions var/cache var/lib/qubes var/lib/rpm var/log/libvirt/libxl var/log/lightdm var/log/qubes
    var/log/salt var/log/xen/console var/tmp`),
  files(install, world) {
    const number = world.release.replace(/^R/, "");
    return {
      "/etc/qubes-release": `Qubes release ${number} (${world.release})\n`,
      "/etc/system-release": `Qubes release ${number} (${world.release})\n`,
      "/etc/os-release": qubesRelease(number),
      "/var/lib/rpm/.rpm.lock": "",
      "/var/lib/rpm/twin.json": `${JSON.stringify({ packages: install.packages ?? {} }, null, 1)}\n`,
    };
  },
  bin: "/usr/lib/twin/bin",
  daemons: [
    { argv: ["/usr/lib/twin/bin/qubesd"], log: "/var/log/qubes/qubesd.log", socket: "/run/qubesd.sock" },
    {
      argv: ["/usr/lib/twin/bin/qrexecd"],
      log: "/var/log/qubes/qrexec.log",
      socket: "/run/qubes/qrexec/.control",
    },
  ],
};

const xen: Platform = {
  machine: "xen-lab",
  install: "debian-12",
  skel: "skel-debian",
  folders: words(`
    boot/grub dev etc/default/grub.d etc/lightdm/lightdm.conf.d etc/modprobe.d etc/modules-load.d etc/systemd/system home/user
    media mnt opt proc root run srv sys tmp usr/local/bin usr/local/sbin usr/share/xsessions var/cache var/lib/dpkg var/lib/xen/save
    var/lib/xenstored var/log/lightdm var/log/xen/console var/tmp`),
  files: (install) => ({
    "/var/lib/dpkg/lock-frontend": "",
    "/var/lib/dpkg/status": dpkgStatus(install.packages ?? {}),
  }),
  bin: "/usr/lib/twin/xen/bin",
  daemons: [
    {
      argv: ["/usr/lib/twin/xen/bin/twin-xen"],
      log: "/var/log/xen/twin.log",
      socket: "/run/xenstored/socket",
    },
  ],
};

export const platforms: Record<PlatformName, Platform> = { qubes, xen };

export const platformOf = (world: Pick<World, "platform">): Platform => platforms[world.platform ?? "qubes"];

const qubesRelease = (number: string) => `NAME="Qubes OS"
VERSION="${number} (R${number})"
ID=qubes
ID_LIKE="fedora"
VERSION_ID="${number}"
PRETTY_NAME="Qubes OS ${number} (R${number})"
CPE_NAME="cpe:/o:ITL:qubes:${number}"
`;

/** dpkg's database (deb-control(5)), as xen/packages.py reads and writes it. */
function dpkgStatus(packages: Record<string, string>): string {
  return Object.entries(packages)
    .sort(([a], [b]) => (a < b ? -1 : 1))
    .map(
      ([name, version]) =>
        `Package: ${name}\nStatus: install ok installed\nArchitecture: amd64\nVersion: ${version}\n`,
    )
    .join("\n");
}
