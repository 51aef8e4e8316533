/** The twin boots, shows a screen and fails on demand: the machine of dom0/machine with a real dom0 on it. */
import { spawn } from "node:child_process";
import { mkdtempSync } from "node:fs";
import { connect } from "node:net";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { attachTwin, startTwin } from "./twin.ts";

const dir = mkdtempSync(join(tmpdir(), "twin-boot-"));
const twin = await startTwin({ dir, world: { watchdogSeconds: 0.5 } });
const bootId = async () => (await twin.exec("cat /proc/sys/kernel/random/boot_id")).stdout.trim();
const sshd = () =>
  new Promise<string>((done) => {
    const socket = connect({ host: "127.0.0.1", port: twin.port });
    socket.setTimeout(400, () => done("silent"));
    socket.once("data", (data) => done(data.toString().slice(0, 7)));
    socket.once("error", (error) => done((error as NodeJS.ErrnoException).code ?? ""));
    socket.once("close", () => done("closed"));
  }).finally(() => undefined);
const ssh = (command: string) =>
  spawn(
    "ssh",
    [
      ...["-F", "/dev/null", "-p", String(twin.port), "-i", twin.identityFile],
      ...["-o", "StrictHostKeyChecking=no", "-o", "UserKnownHostsFile=/dev/null", "-o", "BatchMode=yes"],
      `${twin.user}@127.0.0.1`,
      command,
    ],
    { stdio: ["ignore", "pipe", "ignore"] },
  );
const ended = (child: ReturnType<typeof ssh>) =>
  new Promise<number | null>((done) => child.once("close", (code) => done(code)));

/** The GPU column of qubes-host.md (b), by hand, for a card on pciback since the boot. */
const GPU = `
qvm-create --class AppVM --label black gui
qvm-prefs gui netvm ''; qvm-prefs gui guivm ''; qvm-prefs gui memory 2000
qvm-service gui lightdm on; qvm-service gui guivm on; qvm-features gui input-dom0-proxy true
qvm-pci assign --required -o permissive=true gui dom0:00_02.0
echo TARGET_DOMAIN=gui > /etc/qubes/input-proxy-target
qubes-dom0-update -y qubes-input-proxy-sender >/dev/null 2>&1`;
const kernelLine = (words: string) =>
  twin.exec(
    `sed -i 's/quiet"/quiet ${words}"/' /etc/default/grub && grub2-mkconfig -o /boot/grub2/grub.cfg 2>/dev/null`,
  );
const inGuest = (command: string) => twin.exec(`qvm-run -p --no-gui -u root gui '${command}'`);

test.before.each(() => twin.reset());
test.after(() => twin.remove());

test("a reboot is a new boot under the same address; what ran in the old one is gone", async () => {
  await twin.exec("touch /run/x /tmp/x /root/x; qvm-start vault");
  const before = await bootId();
  const session = ssh("sleep 60");
  const closed = ended(session);
  assert.is((await twin.reboot()).state, "running");
  assert.is.not(await closed, 0);
  assert.is.not(await bootId(), before);
  assert.is((await twin.exec("ls /run/x /tmp/x /root/x 2>/dev/null; uptime >/dev/null")).stdout, "/root/x\n");
  assert.is((await twin.exec("qvm-ls --raw-data --fields state vault")).stdout, "Halted\n");
  assert.is(await sshd(), "SSH-2.0");
  assert.is((await attachTwin(dir))?.port, twin.port);
});

test("a reboot asked for over SSH ends the session, and the boot is that of the one-shot entry, once", async () => {
  await twin.exec(`cat > /boot/grub2/custom.cfg <<'END'
menuentry 'trial' --id trial {
  multiboot2 /xen-4.19.4.gz placeholder
  module2 /vmlinuz-6.12.59-1.qubes.fc41.x86_64 placeholder root=x ro a.trial=1
  module2 /initramfs-6.12.59-1.qubes.fc41.x86_64.img
}
END
grub2-script-check /boot/grub2/custom.cfg && grub2-reboot trial && grub2-editenv list`);
  const { number } = twin.machine();
  await ended(ssh("systemctl reboot; sleep 20"));
  const { boot } = await twin.waitForBoot({ after: number });
  assert.equal([boot?.entry, boot?.oneShot, boot?.cleared], ["trial", true, true]);
  assert.is((await twin.exec("cat /proc/cmdline")).stdout, "placeholder root=x ro a.trial=1\n");
  assert.is((await twin.exec("grub2-editenv list")).stdout, "next_entry=\n");
  assert.match((await twin.powerCycle()).boot?.entry ?? "", "xen-gnulinux-simple-");
});

test("a boot that stops leaves nobody in until a power cycle", async () => {
  await kernelLine("rd.qubes.hide_pci=05_00.0");
  const stopped = await twin.reboot();
  assert.equal([stopped.state, stopped.boot?.stage], ["stopped", "initramfs"]);
  assert.match(stopped.why, "Cannot unbind PCI devices.");
  assert.is(await sshd(), "ECONNREFUSED");
  assert.is((await twin.exec("true")).code, 255);
  assert.equal((await twin.screen()).usable, false);
  assert.is((await attachTwin(dir))?.port, twin.port);
  assert.is((await twin.powerCycle()).state, "stopped"); // it is in grub.cfg
  await twin.reset();
  assert.is((await twin.exec("true")).code, 0);
  assert.is(await sshd(), "SSH-2.0");
});

test("a display that is pulled from its driver hangs the host; the watchdog resets it, if it runs", async () => {
  await twin.exec(GPU);
  const start = twin.exec("qvm-start gui");
  assert.match((await twin.until("hung")).why, "0000:00:02.0 was pulled from i915");
  assert.is(await sshd(), "silent");
  assert.is((await twin.exec("true")).code, 255);
  assert.is((await twin.screen()).usable, false);
  await sleep(700);
  assert.is(twin.machine().state, "hung");
  assert.is((await twin.powerCycle()).state, "running");
  await start;

  await twin.exec("systemctl start xenwatchdogd.service");
  const { number } = twin.machine();
  void twin.exec("qvm-start gui");
  const again = await twin.waitForBoot({ after: number });
  assert.is(again.log.at(-2)?.what, "watchdog");
  assert.is((await twin.screen()).drivenBy, "dom0 (lightdm)");
  assert.is(await sshd(), "SSH-2.0");
});

test("gpu mode: the qube drives the screen, and answers as one that does", async () => {
  await twin.exec(GPU);
  await kernelLine("rd.qubes.hide_pci=00_02.0 systemd.mask=lightdm.service guidomain.gpu=gui");
  await twin.reboot();
  assert.is(
    (await twin.exec("lspci -k -s 00:02.0 | tail -1; systemctl is-active lightdm; xl pci-assignable-list"))
      .stdout,
    "\tKernel driver in use: pciback\ninactive\n0000:00:02.0\n0000:00:14.3\n0000:00:1f.6\n",
  );
  assert.is((await twin.exec("systemctl start lightdm")).stderr.includes("masked"), true);
  assert.is((await twin.screen()).drivenBy, "dom0 (console)");
  assert.is((await twin.exec("qvm-start gui")).stderr, "");
  assert.equal(await twin.screen(), {
    drivenBy: "gui",
    keyboards: ["ps2"],
    usable: true,
    why: "lightdm in gui is on it",
    wayIn: true,
  });
  assert.match((await inGuest("lspci -k")).stdout, "Kernel driver in use: i915");
  assert.match((await inGuest("cat /sys/class/drm/*/status")).stdout, /^connected$/m);
  assert.is((await inGuest("systemctl is-active lightdm")).stdout, "active\n");
  assert.match(
    (await inGuest("XAUTHORITY=/var/run/lightdm/root/:0 DISPLAY=:0 xrandr")).stdout,
    "eDP-1 connected",
  );
  assert.match((await inGuest("cat /proc/bus/input/devices")).stdout, "dom0: AT Translated Set 2 keyboard");
  assert.match(
    (await twin.exec("systemctl list-units 'qubes-input-sender-*@event*.service'")).stdout,
    "qubes-input-sender-keyboard@event0.service",
  );
  await twin.fault("guest-no-drm");
  assert.is((await twin.screen()).usable, false);
  assert.not.match((await inGuest("lspci -k")).stdout, "in use");
  assert.is((await inGuest("systemctl is-active lightdm")).stdout, "inactive\n");
  await twin.clearFaults();
  assert.is((await twin.screen()).usable, true);
});

test("units of one's own run for real, as process 1's children", async () => {
  await twin.exec(`cat > /etc/systemd/system/guard.service <<'END'
[Unit]
Description=Guard
[Service]
ExecStartPre=/bin/sh -c 'echo first >> /root/log'
ExecStart=/bin/sh -c 'echo watch >> /root/log; exec sleep 1000'
[Install]
WantedBy=multi-user.target
END
cat > /etc/systemd/system/guard.path <<'END'
[Path]
PathChanged=/boot/grub2/grub.cfg
END
systemctl daemon-reload; systemctl enable guard.service`);
  assert.is(
    (await twin.exec("systemctl is-enabled guard; systemctl is-active guard")).stdout,
    "enabled\ninactive\n",
  );
  const session = ssh("systemctl start guard.service guard.path; systemctl is-active guard");
  await ended(session);
  assert.is(
    (
      await twin.exec("systemctl show -p ActiveState,MainPID guard | grep -v =0; cat /root/log")
    ).stdout.replace(/=\d+/, "=N"),
    "ActiveState=active\nMainPID=N\nfirst\nwatch\n",
  );
  await twin.exec("systemctl stop guard");
  assert.is((await twin.exec("pgrep -c sleep; systemctl is-active guard")).stdout, "0\ninactive\n");
  await twin.exec("grub2-mkconfig -o /boot/grub2/grub.cfg");
  for (let wait = 0; wait < 100 && (await twin.exec("systemctl is-active guard")).code !== 0; wait++)
    await sleep(20);
  assert.is((await twin.exec("systemctl is-active guard")).stdout, "active\n");
  await twin.reboot(); // somebody gets in before it has started
  for (let wait = 0; wait < 100 && (await twin.exec("systemctl is-active guard")).code !== 0; wait++)
    await sleep(20);
  assert.is((await twin.exec("systemctl is-active guard; wc -l < /root/log")).stdout, "active\n6\n");
});

test("faults that wait for a call, a command or a file", async () => {
  await twin.fault({ at: "admin.vm.Start vault", do: "power" });
  await twin.exec("qvm-start vault");
  await twin.until("off");
  assert.is(await sshd(), "ECONNREFUSED");
  await twin.powerCycle();
  assert.is((await twin.exec("qvm-start vault")).code, 0);

  await twin.fault({ at: "command qubesctl * state.sls", do: "reset" });
  const { number } = twin.machine();
  await twin.exec("qubesctl --dom0-only test.ping 2>/dev/null; qubesctl --dom0-only state.sls x");
  await twin.waitForBoot({ after: number });

  await twin.fault({ at: 'file /root/trial ~ "phase": "staged"', do: "hang" });
  await twin.exec("echo no > /root/trial; sleep 0.05");
  assert.is(twin.machine().state, "running");
  void twin.exec(`echo '"phase": "staged"' > /root/trial; sleep 1; touch /root/late`);
  await twin.until("hung");
  await twin.powerCycle();
  assert.is((await twin.exec("ls /root/late")).code, 2);

  const session = ssh("echo there; sleep 60");
  await new Promise((there) => session.stdout.once("data", there));
  await twin.fault({ at: "admin.vm.feature.Set+x vault", do: "cut-line", when: "after" });
  const closed = ended(session);
  await twin.exec("qvm-features vault x 1");
  assert.is(await closed, 255);
  assert.is((await twin.exec("qvm-features vault x")).stdout, "1\n");
  assert.is(await sshd(), "SSH-2.0");
});

test("faults that kill what runs in dom0, and nothing else; a second controller", async () => {
  const sleeps = "import time; print(1, flush=True); time.sleep(60)";
  const folder = "/var/lib/guidomain/guard";
  await twin.exec(
    `mkdir -p ${folder}; echo '${sleeps}' > ${folder}/guard.py; ln -s /bin/sleep /tmp/salt-call`,
  );
  const kinds = {
    "kill-agent": `exec python3 -IS -c '${sleeps}' digest`,
    "kill-guard": `exec python3 -I ${folder}/guard.py watch`,
    "kill-salt": "echo 1; exec /tmp/salt-call 60",
  };
  const left = new Map<string, Promise<number | null>>();
  for (const [name, command] of Object.entries(kinds)) {
    const session = ssh(command);
    await new Promise((there) => session.stdout.once("data", there));
    left.set(name, ended(session));
  }
  // Each names what it kills: a session that is not asked for yet would be gone when its turn comes.
  for (const [name, end] of left) {
    const before = await twin.exec(`pgrep -c -f '[g]uard.py watch|[s]alt-call 60|[-]IS -c'`);
    await twin.fault(name);
    assert.is.not(await end, 0, name);
    const after = await twin.exec(`pgrep -c -f '[g]uard.py watch|[s]alt-call 60|[-]IS -c'`);
    assert.is(Number(before.stdout) - Number(after.stdout), 1, name);
  }
  const wanted = { at: "admin.vm.feature.Set+x vault", do: "kill-salt" } as const;
  const session = ssh(kinds["kill-salt"]);
  await new Promise((there) => session.stdout.once("data", there));
  await twin.fault(wanted);
  const end = ended(session);
  assert.is((await twin.exec("qvm-features vault x 1")).code, 0, "the call itself goes on");
  assert.is.not(await end, 0);

  await twin.fault("second-controller");
  assert.is((await twin.exec("flock -n /run/guidomain.lock true")).code, 1);
  assert.match((await twin.exec("cat /run/guidomain.lock")).stdout, /another controller/);
});

test("the wall clock jumps under a program, the time since boot does not", async () => {
  const program =
    "import time; a = time.time(); b = time.clock_gettime(time.CLOCK_BOOTTIME); time.sleep(1); print(round(time.time() - a), round(time.clock_gettime(time.CLOCK_BOOTTIME) - b))";
  await twin.fault("clock-right");
  const running = twin.exec(`python3 -I -c '${program}'`);
  await sleep(400);
  await twin.fault("clock-ahead");
  assert.is((await running).stdout, "86401 1\n");
  assert.is((await twin.exec("echo $(($(date +%s) - $(/usr/bin/date +%s))) | cut -c1-3")).stdout, "864\n");
  await twin.clearFaults();
  assert.is((await twin.exec("which python3")).stdout, "/usr/bin/python3\n");
});

test("updates after the fact: kernel, firmware", async () => {
  await twin.fault("kernel-update");
  await twin.fault("firmware-renumber");
  const { boot } = await twin.reboot();
  assert.is(boot?.kernel, "6.12.60-1.qubes.fc41.x86_64");
  assert.is((await twin.exec("uname -r")).stdout, "6.12.60-1.qubes.fc41.x86_64\n");
  assert.match((await twin.exec("qvm-pci list --with-sbdf")).stdout, /00_01\.0-00_00\.0 .*0000:02:00\.0/);
});

test("a passphrase waits for somebody", async () => {
  const locked = await startTwin({
    dir: mkdtempSync(join(tmpdir(), "twin-locked-")),
    machine: "thinkpad-x230",
    world: { passphrase: true, person: false },
  });
  try {
    assert.equal([locked.machine().state, locked.machine().boot?.stage], ["stopped", "prompt"]);
    await locked.world({ person: true });
    assert.is((await locked.waitForBoot({ after: 0 })).boot?.stage, "prompt");
    await locked.until("running");
    assert.is((await locked.exec("cat /etc/crypttab | wc -l; qvm-pci | grep -c sys-net")).stdout, "1\n0\n");
    assert.is((await locked.exec("qvm-start sys-net; qvm-pci | grep -c sys-net")).stdout, "2\n");
  } finally {
    await locked.remove();
  }
});

test.run();
