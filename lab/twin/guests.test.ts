/** What stays in qubes and what does not; their volumes as qubesd tells of them; packages, units and what runs at a start. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "./twin.ts";

const TEMPLATE = "fedora-43-xfce";
const DEBIAN = "debian-13-xfce";
const twin = await startTwin({ dir: mkdtempSync(join(tmpdir(), "twin-guests-")) });

async function dom0(command: string, code = 0): Promise<string> {
  const result = await twin.exec(command);
  assert.is(result.code, code, `${command}: ${result.code}\n${result.stdout}${result.stderr}`);
  return result.stdout + result.stderr;
}

/** A command line in a qube, by the shell there; dom0's own quotes must not occur in it. */
const run = (qube: string, command: string, code = 0, user = "root") =>
  dom0(`qvm-run -p -u ${user} ${qube} '${command}'`, code);
const stop = (qube: string) => dom0(`qvm-shutdown --wait ${qube}`);

/** One raw call of the Admin API: the text, or "ERROR kind: text"; "HANGS UP" where it does so. */
async function api(method: string, dest: string, payload = ""): Promise<string> {
  const [name, arg = ""] = method.split("+");
  const request = Buffer.from(`${name}+${arg} dom0 name ${dest}\0${payload}`).toString("hex");
  const script = [
    "import socket, sys",
    "s = socket.socket(socket.AF_UNIX)",
    's.connect("/run/qubesd.sock")',
    "s.sendall(bytes.fromhex(sys.argv[1]))",
    "s.shutdown(socket.SHUT_WR)",
    'print(b"".join(iter(lambda: s.recv(65536), b"")).decode(), end="")',
  ].join("\n");
  const reply = await dom0(`python3 -S -c '${script}' ${request}`);
  if (reply.startsWith("0\0")) return reply.slice(2);
  const [, kind, , text] = reply.split("\0");
  return kind ? `ERROR ${kind}: ${text}` : "HANGS UP";
}

async function eventually(command: string, text: string): Promise<void> {
  for (const end = Date.now() + 5000; Date.now() < end; )
    if ((await twin.exec(command)).stdout.trim() === text) return;
  assert.is((await twin.exec(command)).stdout.trim(), text);
}

test("a template keeps what is written in it; an AppVM has it from its next start, and keeps only /rw, /home and /usr/local", async () => {
  await run("vault", "echo running >/etc/here");
  await run(
    TEMPLATE,
    "echo made >/etc/made; rm /etc/shells; mkdir -p /etc/some/folder; ln -s made /etc/link",
  );
  await run("vault", "test -e /etc/made", 1);
  await stop(TEMPLATE);
  await run("vault", "test -e /etc/made", 1); // it has the root of its own start
  assert.is(await run("vault", "cat /etc/here"), "running\n");
  await run(
    "vault",
    "echo u >/home/user/u; echo l >/usr/local/bin/l; echo r >/rw/config/r; echo t >/tmp/t",
    0,
    "user",
  );
  await stop("vault");
  assert.is(
    await run("vault", "cat /etc/link /home/user/u /usr/local/bin/l /rw/config/r"),
    "made\nu\nl\nr\n",
  );
  assert.is(
    await run("vault", "ls -d /etc/some/folder /etc/here /etc/shells /tmp/t 2>&1 | grep -c cannot; true"),
    "3\n",
  );
  await stop("vault");

  const now = await twin.dump();
  assert.is(now.volumes[TEMPLATE]?.root?.["/etc/made"]?.type, "file");
  assert.is(now.volumes[TEMPLATE]?.root?.["/etc/shells"]?.type, "gone");
  assert.equal(Object.keys(now.volumes.vault ?? {}), ["private"]);
  assert.ok(now.volumes.vault?.private?.["/home/user/u"]);
  // What is taken back leaves no difference to compare.
  await run("vault", "rm /home/user/u /usr/local/bin/l /rw/config/r; echo x >/root/x");
  await stop("vault");
  assert.equal((await twin.dump()).volumes.vault, undefined);
});

test("a disposable has its template's private volume and keeps nothing; a copy has both; a removed qube leaves nothing", async () => {
  await run("default-dvm", "echo base >/home/user/base");
  await stop("default-dvm");
  await dom0("qvm-create --class DispVM --template default-dvm --label red disp7");
  assert.is(await run("disp7", "cat /home/user/base; echo more >/home/user/more"), "base\n");
  await stop("disp7");
  await run("disp7", "test -e /home/user/more", 1);
  await dom0("qvm-shutdown --wait disp7; qvm-remove -f disp7; test ! -e /var/lib/qubes/appvms/disp7");

  await dom0(`qvm-create --standalone --template ${TEMPLATE} --label blue own`);
  assert.is(await run("own", "cat /etc/made; echo own >>/etc/made"), "made\n");
  await stop("own");
  assert.is(await run("own", "cat /etc/made"), "made\nown\n");
  await dom0("qvm-shutdown --wait own; qvm-remove -f own; test ! -e /var/lib/qubes/appvms/own");
  assert.is(await run("default-dvm", "rm /home/user/base; ls /home/user"), "");
  await stop("default-dvm");
});

test("each stop of a template makes a revision; a revert goes back to it, and is refused while the template runs", async () => {
  const list = async () => (await api("admin.vm.volume.ListSnapshots+root", TEMPLATE)).trim();
  const info = await api("admin.vm.volume.Info+root", TEMPLATE);
  assert.is(
    info.replace(/usage=\d+/, "usage=N"),
    `pool=varlibqubes\nvid=vm-templates/${TEMPLATE}/root\nsize=10737418240\nusage=N\nrw=True\nsource=\n` +
      `path=/var/lib/qubes/vm-templates/${TEMPLATE}/root-dirty.img\nsave_on_stop=True\nsnap_on_start=False\nrevisions_to_keep=1\nephemeral=False\nis_outdated=False\n`,
  );
  assert.is(await api("admin.vm.volume.List", TEMPLATE), "root\nprivate\nvolatile\nkernel\n");
  assert.is(await api("admin.vm.volume.List", "dom0"), "");
  assert.is(await api("admin.vm.volume.Info+swap", TEMPLATE), "HANGS UP");
  const before = Number(await list());
  await run(TEMPLATE, "echo bad >/etc/made");
  assert.is(await list(), String(before)); // only its stop makes one
  assert.is(
    await api("admin.vm.volume.Revert+root", TEMPLATE, String(before)),
    `ERROR StoragePoolException: Cannot revert: vm-templates/${TEMPLATE}/root is not cleanly stopped`,
  );
  await dom0(`qvm-kill ${TEMPLATE}`);
  const after = await list();
  assert.is(after, String(before + 1));
  assert.is(await api("admin.vm.volume.Revert+root", TEMPLATE, "99"), "HANGS UP"); // a KeyError in qubesd
  assert.is(await api("admin.vm.volume.Revert+root", TEMPLATE, after), "");
  assert.is(await list(), String(before + 2)); // what it was is a revision now
  assert.is(await run(TEMPLATE, "cat /etc/made"), "made\n");
  await stop(TEMPLATE);

  await api("admin.vm.volume.Set.revisions_to_keep+root", TEMPLATE, "3");
  for (const text of ["a", "b"]) {
    await run(TEMPLATE, `echo ${text} >/etc/made`);
    await stop(TEMPLATE);
  }
  assert.is((await list()).split("\n").length, 3);
  assert.match(
    await api("admin.vm.volume.Set.revisions_to_keep+root", TEMPLATE, "-2"),
    /^ERROR QubesValueError: Invalid/,
  );
  await dom0(`qvm-start ${TEMPLATE}`);
  assert.match(
    await api("admin.vm.volume.Set.revisions_to_keep+root", TEMPLATE, "-1"),
    /^ERROR QubesVMNotHaltedError: Domain is not powered off/,
  );
  await stop(TEMPLATE);
  await api("admin.vm.volume.Set.revisions_to_keep+root", TEMPLATE, "0");
  await dom0(`qvm-start ${TEMPLATE}`);
  await stop(TEMPLATE);
  assert.is(await list(), "");
  await api("admin.vm.volume.Set.revisions_to_keep+root", TEMPLATE, "1");
});

test("an AppVM's root is outdated once its template has another", async () => {
  await dom0(`qvm-start vault`);
  assert.match(
    await api("admin.vm.volume.Info+root", "vault"),
    /snap_on_start=True\n.*\n.*\nis_outdated=False\n$/,
  );
  await run(TEMPLATE, "true");
  await stop(TEMPLATE);
  const info = await api("admin.vm.volume.Info+root", "vault");
  assert.match(info, new RegExp(`\nsource=vm-templates/${TEMPLATE}/root\n`));
  assert.match(info, /is_outdated=True\n$/);
  await stop("vault");
});

test("a power cut leaves what was written, as a state that can be reverted; a clean reboot shuts down", async () => {
  const made = () => run(TEMPLATE, "cat /etc/made");
  await run(TEMPLATE, "echo before >/etc/made");
  await stop(TEMPLATE);
  await run(TEMPLATE, "echo half >/etc/made");
  await twin.powerCycle();
  // qubesd's start stops the volumes of what does not run (core-admin, tools/qubesd.py).
  await dom0(`ls -d /var/lib/qubes/vm-templates/${TEMPLATE}/root-dirty.img`, 2);
  const revision = (await api("admin.vm.volume.ListSnapshots+root", TEMPLATE)).trim();
  assert.is(await api("admin.vm.volume.Revert+root", TEMPLATE, revision), "");
  assert.is(await made(), "before\n");
  // A host that stands still and is switched off by hand is no other case; what ran in the qube stands still with it.
  await run(TEMPLATE, "echo hung >/etc/made; (sleep 1; echo late >/etc/late) >/dev/null 2>&1 &");
  await twin.strike("hang");
  await twin.powerCycle();
  await run(TEMPLATE, "test -e /etc/late", 1);
  assert.is(await made(), "hung\n");
  await run(TEMPLATE, "echo after >/etc/made");
  await twin.reboot();
  assert.is(await made(), "after\n");
  await run(TEMPLATE, "rm -r /etc/made /etc/link /etc/some");
  await stop(TEMPLATE);
});

test("at a start rc.local and what is beside it run as root, with what dom0 tells the qube; nothing runs at another time", async () => {
  const script = (name: string) =>
    `#!/bin/sh\\necho ${name} $(id -u) $(qubesdb-read /vm-config/word) >>/run/ran\\n`;
  await dom0("qvm-features vault vm-config.word one; qvm-features fedora-43-xfce vm-config.other template");
  await run(
    "vault",
    `mkdir /rw/config/rc.local.d; cd /rw/config/rc.local.d; printf "${script("b")}" >b.rc; printf "${script("a")}" >a.rc; printf "${script("x")}" >x; printf "${script("off")}" >off.rc; chmod +x b.rc a.rc x; printf "${script("local")}" >../rc.local`,
  );
  await run("vault", "test -e /run/ran", 1);
  await stop("vault");
  await dom0("qvm-start vault");
  await eventually("qvm-run -p vault systemctl is-system-running", "running");
  assert.is(await run("vault", "cat /run/ran"), "a 0 one\nb 0 one\nlocal 0 one\n");
  await dom0("qvm-features vault vm-config.word two; qvm-features vault service.thing 1");
  assert.is(await run("vault", "qubesdb-read /vm-config/word"), "two\n");
  assert.is(await run("vault", "qubesdb-read /qubes-service/thing"), "1\n");
  await run("vault", "test -e /run/qubes-service/thing", 1); // that was written at its start
  assert.match(await run("vault", "qubesdb-read /vm-config/other", 2), /Failed to read/); // a template's features are not its qubes'
  await dom0("qvm-features vault -D vm-config.word 2>/dev/null || qvm-features --unset vault vm-config.word");
  assert.is(await run("vault", "qubesdb-read -d none /vm-config/word"), "none\n");
  // Qubes runs none of it in a qube that says itself what it keeps.
  await dom0("qvm-shutdown --wait vault; qvm-service vault custom-persist on; qvm-start vault");
  await eventually("qvm-run -p vault systemctl is-system-running", "running");
  await run("vault", "test -e /run/ran", 1);
  await dom0("qvm-shutdown --wait vault; qvm-service vault custom-persist off");
  await run("vault", "rm -r /rw/config/rc.local.d; : >/rw/config/rc.local; chmod +x /rw/config/rc.local");
  await dom0(
    "qvm-shutdown --wait vault; qvm-features --unset vault service.thing; qvm-features --unset fedora-43-xfce vm-config.other",
  );
});

test("units: files and links in the qube decide; one that is not the distribution's runs, and ends with the qube", async () => {
  const unit =
    '[Unit]\\nConditionPathExists=/run/qubes-service/thing\\n[Service]\\nExecStart=/bin/sh -c "echo \\$\\$ >/run/pid; exec sleep 600"\\n[Install]\\nWantedBy=multi-user.target\\n';
  await run(
    TEMPLATE,
    `printf "${unit.replaceAll('"', '\\"')}" >/etc/systemd/system/thing.service; systemctl daemon-reload; systemctl enable thing`,
  );
  assert.is(
    await run(TEMPLATE, "systemctl is-enabled thing; systemctl start thing; systemctl is-active thing", 3),
    "enabled\ninactive\n",
  );
  await stop(TEMPLATE);
  await dom0("qvm-start vault");
  await eventually("qvm-run -p vault systemctl is-system-running", "running");
  assert.is(await run("vault", "systemctl is-active thing", 3), "inactive\n");
  await dom0("qvm-shutdown --wait vault; qvm-service vault thing on; qvm-start vault");
  await eventually("qvm-run -p vault systemctl is-active thing", "active");
  assert.is(await run("vault", "kill -0 $(cat /run/pid) && echo alive"), "alive\n");
  await dom0("pgrep -x sleep");
  await stop("vault");
  await dom0("pgrep -x sleep", 1);
  await run(TEMPLATE, "systemctl disable thing; rm /etc/systemd/system/thing.service");
  await dom0(`qvm-shutdown --wait ${TEMPLATE}; qvm-service -d vault thing`);

  // The login of a GUI domain follows from its template's links.
  await dom0("qvm-service vault lightdm on");
  assert.is(await run("vault", "systemctl is-active lightdm"), "active\n");
  await run(TEMPLATE, "systemctl disable lightdm");
  await dom0(`qvm-shutdown --wait ${TEMPLATE} vault`);
  assert.is(await run("vault", "systemctl is-active lightdm", 3), "inactive\n");
  await run(TEMPLATE, "systemctl enable lightdm; systemctl is-enabled lightdm");
  await dom0(`qvm-shutdown --wait ${TEMPLATE} vault`);
  assert.is(await run("vault", "systemctl is-active lightdm"), "active\n");
  await dom0("qvm-shutdown --wait vault; qvm-service -d vault lightdm");
});

test("packages: dnf and apt record what they did; its files and units come and go; what there is not, or no network, fails", async () => {
  await twin.world({
    distributions: {
      fedora: { blueman: "2.4.6", bluez: "5.83", "qubes-vm-guivm": "4.3.6" },
      debian: { lightdm: "1.32.0-6", "xorg-x11-server-Xorg": "21.1.16-1.3" },
    },
  });
  assert.match(await run(TEMPLATE, "dnf -y install blueman nosuch", 1), /No match for argument: nosuch/);
  await run(TEMPLATE, "rpm -q blueman", 1);
  assert.match(await run(TEMPLATE, "dnf -y install blueman"), /bluez.*\n.*blueman/);
  assert.is(
    await run(TEMPLATE, "rpm -q blueman bluez"),
    "blueman-2.4.6-1.fc43.x86_64\nbluez-5.83-1.fc43.x86_64\n",
  );
  assert.is(await run(TEMPLATE, "systemctl is-enabled bluetooth"), "enabled\n");
  assert.match(await run(TEMPLATE, "dnf -y install blueman"), /already installed/);
  await run(TEMPLATE, "dnf -y remove bluez; rpm -q blueman", 1); // what needs it goes with it
  await run(TEMPLATE, "dnf -y remove qubes-vm-guivm; test -e /etc/qubes-rpc/qubes.GuiVMSession", 1);
  await stop(TEMPLATE);
  await run("vault", "rpm -q qubes-vm-guivm", 1);
  await stop("vault");
  await run(
    TEMPLATE,
    "dnf -y install qubes-vm-guivm && rpm -q qubes-vm-guivm && test -e /etc/qubes-rpc/qubes.GuiVMSession",
  );
  await stop(TEMPLATE);
  await twin.world({ network: false });
  assert.match(await run(TEMPLATE, "dnf -y install blueman", 1), /Curl error/);
  assert.match(await run(DEBIAN, "apt-get -y install lightdm", 100), /E: Failed to fetch/);
  await twin.world({ network: true, faults: { packages: { [DEBIAN]: { fail: { lightdm: "no space" } } } } });
  assert.match(
    await run(DEBIAN, "apt-get -y install lightdm", 100),
    /dpkg: error processing package lightdm/,
  );
  await twin.world({ faults: { packages: undefined } });
  assert.match(await run(DEBIAN, "apt-get -y install nosuch", 100), /E: Unable to locate package nosuch/);
  assert.match(await run(DEBIAN, "apt-get -y install lightdm", 100, "user"), /are you root/);
  await run(DEBIAN, "apt-get -y install lightdm; dpkg-query -W lightdm; systemctl is-enabled lightdm");
  await run(DEBIAN, "dnf -y install x", 127);
  await dom0(`qvm-shutdown --wait ${DEBIAN} ${TEMPLATE}`);
  await run(
    DEBIAN,
    "dpkg-query -W lightdm && apt-get -y remove lightdm xorg-x11-server-Xorg && systemctl is-enabled lightdm",
    4,
  );
  await dom0(`qvm-shutdown --wait ${DEBIAN}`);
  const { volumes } = await twin.dump();
  assert.equal(volumes[DEBIAN], undefined); // nothing is left of it
});

test("a qube that ends while its inside begins leaves nothing of it, and nothing waits for ever", async () => {
  await run("vault", "echo kept >/home/user/kept"); // so that its inside begins with it
  await stop("vault");
  for (let n = 0; n < 6; n += 1) {
    await dom0("qvm-start vault");
    const asked = twin.exec("qvm-run -n -p vault true");
    await dom0(n % 2 ? "qvm-kill vault" : "qvm-shutdown --wait vault");
    await asked;
    await twin.exec("qvm-shutdown --wait vault"); // qvm-run may have started it anew
    await dom0("test ! -e /run/twin/guests/vault/pid");
  }
  assert.is(await run("vault", "cat /home/user/kept; rm /home/user/kept"), "kept\n");
  await stop("vault");
});

test("accounts: a password's hash, and who may change it", async () => {
  await run("vault", "usermod -p \\$6\\$salt\\$hash user && getent passwd user");
  assert.match(await run("vault", "grep ^user: /etc/shadow"), /^user:\$6\$salt\$hash:/);
  assert.match(await run("vault", "usermod -p x user", 1, "user"), /Permission denied/);
  assert.match(await run("vault", "usermod -p x nobody2", 6), /does not exist/);
  await stop("vault");
  assert.match(await run("vault", "grep ^user: /etc/shadow"), /^user:!!:/);
  await stop("vault");
});

test("a qube's network is its own, from its start to its end, and dom0 finds it", async () => {
  await run("vault", "true");
  const inode = await dom0(
    "readlink -f /run/twin/guests/vault/net | cut -d/ -f3 | xargs -I{} readlink /proc/{}/ns/net",
  );
  assert.is.not(inode, await dom0("readlink /proc/self/ns/net"));
  await dom0("nsenter --net=/run/twin/guests/vault/net true");
  assert.is(await dom0("printf 'in\\n' | qvm-run -p -u root vault 'cat; id -un'"), "in\nroot\n");
  await stop("vault");
  await dom0("test ! -e /run/twin/guests/vault");
});

test("servers of screens: what listens is real, and qubes.ConnectTCP leads to it; Qubes' own x11vnc is open until it is ended", async () => {
  for (const service of ["guivm", "guivm-vnc", "lightdm"]) await dom0(`qvm-service vault ${service} on`);
  await dom0("qvm-start vault");
  const listening = async () =>
    (await run("vault", "ss -Hltn")).split("\n").flatMap((row) => row.split(/\s+/)[3] ?? []);
  const connect = (port: number) =>
    `printf "" | timeout 10 qvm-run --pass-io --no-gui --no-autostart --no-filter-escape-chars --service -- vault qubes.ConnectTCP+${port}`;
  assert.equal(await listening(), ["0.0.0.0:5900"]);
  await run("vault", "pkill -x x11vnc");
  assert.equal(await listening(), []);
  await dom0(connect(5900), 125);
  const server = "x11vnc -display :0 -auth /run/lightdm/root/:0 -localhost -nopw";
  await run("vault", `setsid ${server} >/dev/null 2>&1 & sleep 1; true`);
  assert.equal(await listening(), ["127.0.0.1:5900"]);
  assert.match(await dom0(`${connect(5900)}; true`), /^RFB 003\.008\n/);
  await run(
    "vault",
    "setsid x11vnc -display :0 -auth /run/lightdm/root/:0 -rfbport 5902 >/dev/null 2>&1 & sleep 1; true",
  );
  assert.equal((await listening()).sort(), ["0.0.0.0:5902", "127.0.0.1:5900"]);
  await run("vault", "pkill -x x11vnc; sleep 0.3; pkill -x x11vnc", 1);
  assert.equal(await listening(), []);
  await stop("vault");
});

test.run();
