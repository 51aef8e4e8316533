/** qubesctl in qubes: real Salt in each, by way of a management disposable (qubes-mgmt-salt, qubessalt/__init__.py). */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "./twin.ts";

const TEMPLATE = "fedora-43-xfce";
const DEBIAN = "debian-13-xfce";
const twin = await startTwin({
  dir: mkdtempSync(join(tmpdir(), "twin-targets-")),
  world: {
    distributions: {
      fedora: { blueman: "2.4.6", bluez: "5.83" },
      debian: { lightdm: "1.32.0-6", "xorg-x11-server-Xorg": "21.1.16-1.3" },
    },
  },
});

async function dom0(command: string, code = 0): Promise<string> {
  const result = await twin.exec(command);
  assert.is(result.code, code, `${command}: ${result.code}\n${result.stdout}${result.stderr}`);
  return result.stdout;
}

async function formula(name: string, sls: string): Promise<void> {
  await dom0(`mkdir -p /srv/user_salt/t; cat >/srv/user_salt/t/${name}.sls <<'END'\n${sls}\nEND\n`);
}

const target = (name: string, qubes: string, more = "--show-output") =>
  `qubesctl --skip-dom0 ${more} --targets ${qubes} state.sls t.${name} saltenv=user`;
const states = (text: string) => text.match(/^ *Result: .*$/gm)?.map((line) => line.split(": ")[1]?.trim());
/** What a run must never leave. */
async function nothingLeft(): Promise<void> {
  assert.is(await dom0("qvm-ls --raw-list | grep ^disp-mgmt || true"), "");
  await dom0("ls /etc/qubes/policy.d/30-qubesctl-salt.policy", 2);
}

test("a formula works in a halted template, which is shut down after it; the text is Salt's, by the qube's name", async () => {
  await formula(
    "x",
    "/etc/made:\n  file.managed: [{contents: hello}, {mode: '0640'}]\npackages:\n  pkg.installed: [{pkgs: [bash, blueman]}]\nbluetooth:\n  service.disabled",
  );
  const first = await dom0(target("x", TEMPLATE));
  const lines = first.split("\n");
  assert.equal(lines.slice(0, 4), [
    `${TEMPLATE}:`,
    "  ----------",
    "            ID: /etc/made",
    "      Function: file.managed",
  ]);
  assert.equal(states(first), ["True", "True", "True"]);
  assert.ok(lines.includes(`  Summary for ${TEMPLATE}`) && lines.includes("  Succeeded: 3 (changed=3)"));
  assert.is(await dom0(`qvm-ls --raw-data --fields state ${TEMPLATE}`), "Halted\n");
  await nothingLeft();
  const log = await dom0(`cat /var/log/qubes/mgmt-${TEMPLATE}.log`);
  assert.match(log, /calling 'state.sls t.x saltenv=user'\.\.\.\n.* output: fedora-43-xfce:\n/);
  assert.match(log, /exit code: 0\n$/);
  assert.is(
    await dom0(
      `qvm-run -p -u root vault 'cat /etc/made; stat -c %a /etc/made; rpm -q blueman; systemctl is-enabled bluetooth || true'`,
    ),
    "hello\n640\nblueman-2.4.6-1.fc43.x86_64\ndisabled\n",
  );
  const again = await dom0(target("x", TEMPLATE));
  assert.ok(again.includes("\n  Succeeded: 3\n"), again);
  assert.is(await dom0(target("x", TEMPLATE, "")), `${TEMPLATE}: OK\n`);
  assert.not.match(again, /Warning/);
});

test("what fails is said state by state, with status 20; a template that ran goes on running", async () => {
  await dom0(`qvm-start ${DEBIAN}`);
  await formula(
    "y",
    "packages:\n  pkg.installed: [{pkgs: [lightdm, nosuch]}]\n/etc/y:\n  file.managed: [{contents: y}, {require: [{pkg: packages}]}]",
  );
  const text = await dom0(target("y", DEBIAN), 20);
  assert.equal(states(text), ["False", "False"]);
  assert.match(text, /Unable to locate package nosuch/);
  assert.is(await dom0(`qvm-ls --raw-data --fields state ${DEBIAN}`), "Running\n");
  assert.is(
    await dom0(target("y", DEBIAN, ""), 20),
    `${DEBIAN}: ERROR (exit code 20, details in /var/log/qubes/mgmt-${DEBIAN}.log)\n`,
  );
  await twin.world({ network: false });
  await formula("y", "packages:\n  pkg.installed: [{pkgs: [lightdm]}]");
  assert.match(await dom0(target("y", DEBIAN), 20), /Failed to fetch/);
  await twin.world({
    network: true,
    faults: { packages: { [DEBIAN]: { fail: { lightdm: "dependency problems" } } } },
  });
  assert.match(await dom0(target("y", DEBIAN), 20), /dependency problems/);
  await twin.world({ faults: { packages: undefined } });
  assert.equal(states(await dom0(target("y", DEBIAN))), ["True"]);
  assert.match(
    await dom0(target("nosuch", DEBIAN), 20),
    /No matching sls found for 't.nosuch' in env 'user'/,
  );
  await dom0(`qvm-shutdown --wait ${DEBIAN}`);
  await nothingLeft();
});

test("a highstate skips what no top file names, unless it is told not to; state.sls asks no top file", async () => {
  assert.is(
    await dom0(`qubesctl --skip-dom0 --targets ${TEMPLATE} state.apply`),
    `${TEMPLATE}: SKIP (nothing to do)\n`,
  );
  await formula("z", "/etc/z:\n  file.managed: [{contents: z}]");
  await dom0(`printf 'user:\\n  ${TEMPLATE}:\\n    - t.z\\n' >/srv/user_salt/top.sls`);
  const text = await dom0(
    `qubesctl --skip-dom0 --show-output --targets ${TEMPLATE},vault,nosuch state.apply`,
  );
  assert.match(text, new RegExp(`^${TEMPLATE}:\n(  .*\n)*vault: SKIP \\(nothing to do\\)\n$`));
  assert.equal(states(text), ["True"]);
  // Without the check Salt itself says that there is nothing: a failure.
  assert.match(
    await dom0("qubesctl --skip-dom0 --skip-top-check --show-output --targets vault state.apply", 20),
    /^vault:\n/,
  );
  await dom0("rm /srv/user_salt/top.sls");
});

test("no management disposable, no memory for it, no connector in its template: each is told", async () => {
  await dom0("qubes-prefs management_dispvm ''");
  assert.match(
    await dom0(target("z", TEMPLATE), 1),
    /^fedora-43-xfce: ERROR \(exception DVM template for management not selected\./,
  );
  await dom0("qubes-prefs management_dispvm default-mgmt-dvm");
  await dom0("qvm-prefs default-mgmt-dvm memory 4000");
  const { memory } = twin.surroundings();
  await twin.world({ memory: 11000 });
  assert.is(
    await dom0(target("z", TEMPLATE), 1),
    `${TEMPLATE}: ERROR (exception Not enough memory to start domain 'disp-mgmt-${TEMPLATE}')\n`,
  );
  await twin.world({ memory });
  await dom0("qvm-prefs -D default-mgmt-dvm memory");
  await dom0("qvm-remove -f disp-mgmt-fedora-43-xfce"); // it never ran, so nothing cleaned it up
  await twin.world({
    templates: { [TEMPLATE]: { packages: { "qubes-mgmt-salt-vm-connector": undefined } } },
  });
  assert.match(
    await dom0(target("z", TEMPLATE, ""), 127),
    /missing qubes-mgmt-salt-vm-connector package in fedora-43-xfce \(template of default-mgmt-dvm\)/,
  );
  await twin.world({ templates: { [TEMPLATE]: { packages: { "qubes-mgmt-salt-vm-connector": "4.3.2" } } } });
  await nothingLeft();
});

test("a long run goes on as long as somebody holds it; a kill of the template in the middle is a failure", async () => {
  await dom0(`qvm-run -p -u root ${DEBIAN} 'apt-get -y remove lightdm xorg-x11-server-Xorg'`);
  await dom0(`qvm-shutdown --wait ${DEBIAN}`);
  await formula("y", "packages:\n  pkg.installed: [{pkgs: [lightdm]}]");
  const busy = `pgrep -f 'apt-get.*install lightdm$' >/dev/null`;
  const started = async () => {
    for (const end = Date.now() + 30_000; Date.now() < end; await sleep(50))
      if ((await twin.exec(busy)).code === 0) return;
    assert.unreachable("apt-get did not begin");
  };

  await twin.world({ faults: { packages: { [DEBIAN]: { hold: true } } } });
  let ended = false;
  const slow = dom0(target("y", DEBIAN)).finally(() => {
    ended = true;
  });
  await started();
  await sleep(500);
  assert.not.ok(ended);
  await twin.world({ faults: { packages: undefined } });
  assert.equal(states(await slow), ["True"]);

  await dom0(`qvm-run -p -u root ${DEBIAN} 'apt-get -y remove lightdm xorg-x11-server-Xorg'`);
  await twin.world({ faults: { packages: { [DEBIAN]: { hold: true } } } });
  const cut = dom0(target("y", DEBIAN), 20);
  await started();
  await dom0(`qvm-kill ${DEBIAN}`);
  assert.match(await cut, /retcode:/);
  await twin.world({ faults: { packages: undefined } });
  await nothingLeft();
  assert.is(await dom0(`qvm-ls --raw-data --fields state ${DEBIAN}`), "Halted\n");
});

test("templates come first, and as many at the same time as is allowed", async () => {
  await formula("z", "/etc/z:\n  file.managed: [{contents: zz}]");
  const text = await dom0(target("z", `vault,${DEBIAN},${TEMPLATE}`, "--max-concurrency 2"));
  assert.is(text.split("\n").at(-2), "vault: OK");
  assert.equal(text.split("\n").slice(0, 2).sort(), [`${DEBIAN}: OK`, `${TEMPLATE}: OK`].sort());
  await nothingLeft();
});

test.run();
