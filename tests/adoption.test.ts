// Qubes that were there before, and changes of mind: import, adoption, every kind of update, and what a destroy leaves. On the real
// engine, OpenSSH, agent, Salt and twin; the twin's dump is the witness. Issue 3 "Must show".
import { spawnSync } from "node:child_process";
import { cpSync, mkdirSync, symlinkSync } from "node:fs";
import path from "node:path";
import type { CustomResourceOptions } from "@pulumi/pulumi";
import { GuiDomain, type GuiDomainArgs } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { TwinDump } from "../lab/twin/dump.ts";
import { startTwin } from "../lab/twin/twin.ts";
import { pulumiRoot } from "../scripts/pulumi.ts";
import { hostOf, type Outcome, ROOT, scratch, testStack } from "./harness.ts";

const folder = scratch("adoption");
const twin = await startTwin({ dir: `${folder}/twin` });

/** What the program describes now. */
let domains: Record<string, Omit<GuiDomainArgs, "host">> = {};
let options: CustomResourceOptions = {};
const stack = await testStack("adoption", folder, { lab: hostOf(twin) }, async () => {
  for (const [name, args] of Object.entries(domains)) new GuiDomain(name, { host: "lab", ...args }, options);
  return {};
});

// As a person types it who follows qubes-host.md (b), column Xephyr.
const STOCK = `set -e
qvm-create --class AppVM --template fedora-43-xfce --label black sys-gui
qvm-prefs sys-gui netvm ''
qvm-prefs sys-gui guivm dom0
qvm-prefs sys-gui audiovm dom0
qvm-prefs sys-gui autostart True
qvm-prefs sys-gui maxmem 4000
qvm-service sys-gui guivm on
qvm-service sys-gui guivm-gui-agent on
qvm-features sys-gui gui-allow-fullscreen 1
qvm-features sys-gui gui-secure-copy-sequence none
qvm-features sys-gui gui-secure-paste-sequence none
qubes-dom0-update -y dummy-psu-sender dummy-backlight-dom0
qubes-prefs default_guivm sys-gui
mkdir -p /usr/share/xsessions
cat > /usr/share/xsessions/sys-gui.desktop <<'END'
[Desktop Entry]
Type=Application
# the session inside the qube
Exec=qubes-guivm-session sys-gui
Name=GUI Domain (sys-gui)
END
cat > /etc/qubes/policy.d/50-gui-sys-gui.policy <<'END'
## GUI domain
policy.EvalGUI\t+qubes.ClipboardPaste\tsys-gui\tdom0\tallow
qubes.GetImageRGBA * sys-gui @tag:guivm-sys-gui allow
qubes.GetAppmenus * sys-gui @tag:guivm-sys-gui allow
qubes.ClipboardCopy + sys-gui @tag:guivm-sys-gui allow
qubes.ClipboardPaste + sys-gui @tag:guivm-sys-gui allow
qubes.GetAppmenus * sys-gui @type:TemplateVM allow
qubes.SetMonitorLayout * sys-gui @tag:guivm-sys-gui allow
qubes.StartApp * sys-gui @tag:guivm-sys-gui allow
qubes.StartApp * sys-gui @dispvm:@tag:guivm-sys-gui allow

# what the qubes ask of it
qubes.SyncAppMenus       *  @tag:guivm-sys-gui  dom0      allow  target=sys-gui
qubes.WindowIconUpdater  *  @tag:guivm-sys-gui  dom0      allow  target=sys-gui
qubes.Notifications      *  @tag:guivm-sys-gui  @default  allow  target=sys-gui autostart=no
qubes.WaitForSession * sys-gui @tag:guivm-sys-gui allow
qubes.PowerSupply * sys-gui @default allow target=dom0
qubes.SetBrightness * sys-gui @default allow target=dom0

admin.vm.List * sys-gui dom0 allow
admin.vm.List * sys-gui @tag:guivm-sys-gui allow target=dom0
admin.Events * sys-gui dom0 allow
admin.Events * sys-gui @tag:guivm-sys-gui allow target=dom0
admin.label.Get * sys-gui dom0 allow
admin.label.Index * sys-gui dom0 allow
admin.vm.feature.Set +keyboard-layout sys-gui sys-gui allow target=dom0
admin.vm.property.Get * sys-gui dom0 allow
admin.vm.volume.List * sys-gui dom0 allow
admin.vm.device.pci.Available * sys-gui dom0 allow
admin.vm.device.mic.Available * sys-gui dom0 allow
admin.vm.feature.Get +internal sys-gui dom0 allow
admin.vm.feature.Get +servicevm sys-gui dom0 allow
admin.vm.CurrentState * sys-gui dom0 allow
END
qubes-policy-lint /etc/qubes/policy.d/50-gui-sys-gui.policy
cat >> /etc/qubes/policy.d/include/admin-local-rwx <<'END'
sys-gui @tag:guivm-sys-gui allow target=dom0
sys-gui sys-gui allow target=dom0
END`;

/** A fresh installation, as somebody has changed it. Returns its dump. */
async function installed(byHand = ""): Promise<TwinDump> {
  await twin.reset();
  // As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
  await twin.exec("qvm-start sys-firewall");
  const { code, stderr } = await twin.exec(byHand);
  assert.is(code, 0, stderr);
  return twin.dump();
}

async function good(run: () => Promise<Outcome>): Promise<Outcome> {
  const outcome = await run();
  assert.ok(outcome.ok, outcome.output);
  assert.equal(outcome.errors, []);
  return outcome;
}

const noChange = async () => {
  const { changes, diffs, output } = await good(stack.preview);
  assert.equal(Object.keys(changes), ["same"], `${JSON.stringify(diffs)}\n${output}`);
};

const reads = async (command: string) => (await twin.exec(command)).stdout.trim();

/** What a running qube shows of its run. */
const runOf = (qube: string) =>
  ["state", "properties.xid", "properties.stubdom_xid", "attached"].map((at) => `qubes.qubes.${qube}.${at}`);

// ------------------------------------------------------------------------------------------------ import

test("a sys-gui with the stock settings is imported: no changes, and a destroy leaves it as it was", async () => {
  const before = await installed(STOCK);
  domains = { "sys-gui": { clients: "default" } };
  await stack.stack.import({
    resources: [{ type: "guidomain:index:GuiDomain", name: "sys-gui", id: "lab/sys-gui" }],
    protect: false,
    generateCode: false,
  });
  const { outputs } = await stack.resource("sys-gui");
  assert.equal([outputs["origin"], outputs["state"]], ["adopted", "unverified"]);
  await noChange();
  await good(stack.refresh);
  await noChange();
  const { changes } = await good(stack.up);
  assert.equal(changes, { same: 2 });
  assert.equal(twin.compare(before, await twin.dump()), [], "nothing was written for an import");
  await good(stack.destroy);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test('the resource option "import" does the same', async () => {
  const before = await installed(STOCK);
  domains = { "sys-gui": { clients: "default" } };
  options = { import: "lab/sys-gui" };
  await good(stack.up);
  options = {};
  await noChange();
  await good(stack.destroy);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test("the command of the README imports into the real project, whose preview then shows no change of it", async () => {
  const before = await installed(STOCK);
  const project = path.join(folder, "project");
  mkdirSync(path.join(folder, "backend"));
  for (const part of ["Pulumi.yaml", "package.json", "provider", "stacks"])
    cpSync(path.join(ROOT, part), path.join(project, part), { recursive: true });
  for (const part of ["node_modules", "salt", "scripts", "src", "templates"])
    symlinkSync(path.join(ROOT, part), path.join(project, part));
  const cli = (...args: string[]) => {
    const { status, stdout, stderr } = spawnSync(
      path.join(pulumiRoot(), "bin/pulumi"),
      [...args, "--non-interactive"],
      {
        cwd: project,
        encoding: "utf8",
        env: {
          ...process.env,
          PATH: `${path.join(ROOT, "node_modules/.bin")}:${path.join(pulumiRoot(), "bin")}:${process.env["PATH"]}`,
          PULUMI_BACKEND_URL: `file://${folder}/backend`,
          PULUMI_CONFIG_PASSPHRASE: "test",
          PULUMI_SKIP_UPDATE_CHECK: "true",
        },
      },
    );
    assert.is(status, 0, `pulumi ${args.join(" ")}\n${stdout}${stderr}`);
    return stdout;
  };
  cli("stack", "init", "workstation");
  cli("config", "set", "guidomain:hosts", JSON.stringify({ t14: hostOf(twin) }));
  cli("config", "set", "host", "t14");
  cli("config", "set", "--path", "settings.clients", "default");
  cli(
    "import",
    "guidomain:index:GuiDomain",
    "sys-gui",
    "t14/sys-gui",
    "--generate-code=false",
    "--protect=false",
    "--yes",
  );
  const { steps = [] } = JSON.parse(cli("preview", "--json")) as { steps?: { op: string; urn: string }[] };
  const ops = steps.map(({ op, urn }) => `${op} ${urn.split("::").at(-1)}`).sort();
  assert.equal(ops, ["create t14", "refresh sys-gui", "same gui-domains-workstation"]);
  cli("destroy", "--yes");
  assert.equal(twin.compare(before, await twin.dump()), []);
});

// ---------------------------------------------------------------------------------------------- adoption

const DIFFERENT = `set -e
qvm-create --class AppVM --template debian-13-xfce --label red sys-gui
qvm-prefs sys-gui maxmem 1234
qvm-prefs sys-gui netvm sys-firewall
qvm-features sys-gui gui-allow-fullscreen 0
qvm-features sys-gui mine "1"
qvm-tags sys-gui add owner-alice
qvm-service sys-gui cups off
qvm-prefs personal guivm ''
mkdir -p /usr/share/xsessions
printf '[Desktop Entry]\\nName=Mine\\n' > /usr/share/xsessions/sys-gui.desktop
chmod 600 /usr/share/xsessions/sys-gui.desktop`;

test("a qube that differs is adopted by up without an import; a destroy gives back the values of before", async () => {
  const before = await installed(DIFFERENT);
  domains = { "sys-gui": { clients: ["personal"] } };
  const { output } = await good(stack.up);
  assert.match(output, /sys-gui/);
  assert.equal(
    await Promise.all(
      ["maxmem", "autostart", "template", "netvm"].map((p) => reads(`qvm-prefs sys-gui ${p}`)),
    ),
    ["4000", "True", "fedora-43-xfce", ""],
  );
  assert.is(await reads("qvm-features sys-gui mine"), "1");
  assert.is(await reads("qvm-tags sys-gui | grep owner"), "owner-alice");
  assert.is((await stack.resource("sys-gui")).outputs["origin"], "adopted");
  await noChange();
  // It runs since: a template goes back only where the qube is halted.
  await twin.exec("qvm-shutdown --wait sys-gui");
  await good(stack.destroy);
  assert.equal(twin.compare(before, await twin.dump()), []);
});

test('onDelete: "keep" leaves everything, and nothing of ours', async () => {
  const pristine = await installed();
  domains = { "sys-gui": { clients: ["vault"], onDelete: "keep" } };
  await good(stack.up);
  const kept = await twin.dump();
  await good(stack.destroy);
  const after = await twin.dump();
  const gone = twin.compare(kept, after);
  assert.ok(gone.length > 0);
  assert.equal(
    gone.filter(
      (line) =>
        !/^files\.\/(var\/lib\/guidomain|srv\/user_salt|etc\/salt\/minion\.d\/guidomain\.conf|etc\/systemd\/system\/\S*guidomain-guard)/.test(
          line,
        ),
    ),
    [],
  );
  const ours = twin.compare(pristine, after).filter((line) => /guidomain|user_salt/.test(line));
  assert.equal(ours, []);
});

// ----------------------------------------------------------------------------------------------- updates

test("clients, mode and session change and change back; a destroy then leaves a pristine host", async () => {
  const pristine = await installed();
  const guivms = async () => [
    await reads("qvm-prefs vault guivm"),
    await reads("qvm-prefs personal guivm"),
    await reads("qubes-prefs default_guivm"),
  ];
  const to = async (args: Omit<GuiDomainArgs, "host">): Promise<string[]> => {
    domains = { "sys-gui": args };
    return (await good(stack.up)).diffs["sys-gui"] ?? [];
  };

  await to({ clients: ["vault"] });
  assert.equal(await guivms(), ["sys-gui", "dom0", "dom0"]);
  const first = await twin.dump();
  const shown = await to({ clients: "default" });
  assert.equal(shown, ["settings.clients.vault", "settings.globals.default_guivm"]);
  assert.equal(await guivms(), ["sys-gui", "sys-gui", "sys-gui"]);
  await to({ clients: ["personal"] });
  assert.equal(await guivms(), ["dom0", "sys-gui", "dom0"]);
  await to({ clients: ["vault"] });
  // The ledger has times, the formula what went back last.
  const ledger = { ignore: ["files./var/lib/guidomain/ledger.json", "files./srv/user_salt"] };
  assert.equal(twin.compare(first, await twin.dump(), ledger), [], "back to the first list");

  const vnc = await to({ clients: ["vault"], display: ["vnc"], audiovm: "dom0" });
  assert.ok(vnc.includes("settings.services.guivm-vnc"), vnc.join(", "));
  assert.is((await twin.exec("qvm-run -p --no-gui -u root sys-gui 'systemctl is-active lightdm'")).code, 0);
  assert.is((await twin.exec("test -e /usr/share/xsessions/sys-gui.desktop")).code, 1);
  await to({ clients: ["vault"] });
  assert.is((await twin.exec("qvm-run -p --no-gui -u root sys-gui 'systemctl is-active lightdm'")).code, 3);
  // What mode vnc has put into the qube's own volume stays there, named by nobody and so in force nowhere.
  assert.equal(await reads("qvm-features sys-gui vm-config.guidomain || echo none"), "none");
  const ignore = [...ledger.ignore, ...runOf("sys-gui"), "volumes.sys-gui"];
  assert.equal(twin.compare(first, await twin.dump(), { ignore }), [], "back to the first mode");

  const session = await to({ clients: ["vault"], session: "preselect" });
  assert.equal(session, ['settings.files["/etc/lightdm/lightdm.conf.d/50-guidomain-session.conf"]']);
  assert.match(
    await reads("cat /etc/lightdm/lightdm.conf.d/50-guidomain-session.conf"),
    /^user-session=sys-gui$/m,
  );
  await noChange();
  await to({ clients: ["vault"], session: "choose" });
  assert.is((await twin.exec("test -e /etc/lightdm/lightdm.conf.d/50-guidomain-session.conf")).code, 1);

  await twin.exec("qvm-prefs sys-gui maxmem 1234");
  await good(stack.refresh);
  assert.equal((await good(stack.preview)).diffs["sys-gui"], ["settings.properties.maxmem"]);
  await good(stack.up);
  await good(stack.refresh);
  await noChange();

  await good(stack.destroy);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("a mode does not change under the windows of a running client; the preview says so", async () => {
  await installed();
  domains = { "sys-gui": { clients: ["vault"] } };
  await good(stack.up);
  await twin.exec("qvm-start vault");
  const before = await twin.dump();
  domains = { "sys-gui": { clients: ["vault"], display: ["vnc"] } };
  for (const run of [stack.preview, stack.up]) {
    const { ok, errors } = await run();
    assert.not(ok);
    assert.match(
      errors.join("\n"),
      /GUI domain sys-gui on host lab: its mode cannot change from "xephyr" to "vnc" while it shows the windows of running qubes: "vault"\. Nothing was changed/,
    );
    assert.equal(twin.compare(before, await twin.dump()), []);
  }
  await twin.exec("qvm-shutdown --wait vault");
  await good(stack.up);
  await good(stack.destroy);
});

test("an update without Salt changes nothing and says what is missing", async () => {
  await installed();
  domains = { "sys-gui": { clients: ["vault"] } };
  await good(stack.up);
  const before = await twin.dump();
  await twin.world({ faults: { saltMissing: true } });
  for (const change of [{ maxmem: 3000 }, { clients: ["personal"] }, { display: ["vnc" as const] }]) {
    domains = { "sys-gui": { clients: ["vault"], ...change } };
    const { ok, errors } = await stack.up();
    assert.not(ok);
    assert.match(errors.join("\n"), /qubesctl is not in dom0/);
    assert.equal(twin.compare(before, await twin.dump()), []);
  }
  domains = { "sys-gui": { clients: ["vault"] } };
  assert.not((await stack.destroy()).ok, "giving values back is a change, too");
  assert.equal(twin.compare(before, await twin.dump()), []);
  await twin.world({ faults: { saltMissing: undefined } });
  await good(stack.up);
  await good(stack.destroy);
});

test("another qube is another GUI domain: the old one goes first", async () => {
  const pristine = await installed();
  domains = { gui: { qube: "sys-gui", clients: ["vault"] } };
  await good(stack.up);
  domains = { gui: { qube: "sys-gui-2", clients: ["vault"] } };
  assert.ok((await good(stack.preview)).diffs["gui"]?.includes("qube"));
  await good(stack.up);
  assert.is((await twin.exec("qvm-check -q sys-gui")).code, 1);
  assert.is(await reads("qvm-prefs vault guivm"), "sys-gui-2");
  await noChange();
  await good(stack.destroy);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("two GUI domains on one host: when one goes, the other's settings and the shared packages stay", async () => {
  const pristine = await installed();
  domains = { "gui-a": { clients: ["vault"] }, "gui-b": { clients: ["personal"], display: ["vnc"] } };
  await good(stack.up);
  await noChange();
  const both = await twin.dump();
  domains = { "gui-b": domains["gui-b"] ?? {} };
  await good(stack.up);
  const lines = twin.compare(both, await twin.dump());
  const other = lines.filter((line) => /gui-b|personal|dummy-psu-sender/.test(line));
  assert.equal(other, []);
  assert.is(await reads("qvm-prefs vault guivm"), "dom0");
  assert.is(await reads("rpm -q --qf '%{NAME}' dummy-psu-sender >/dev/null && echo there"), "there");
  assert.is((await twin.exec("rpm -q dummy-backlight-dom0")).code, 1);
  await noChange();
  await good(stack.destroy);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
