// Every error that issue 3 names, read as the person reads it, on the real engine; and the host after it. A refusal or an undone
// apply leaves dom0 byte for byte as it was.
import { spawn } from "node:child_process";
import net from "node:net";
import path from "node:path";
import { GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, type Outcome, scratch, testStack } from "./harness.ts";

const folder = scratch("errors");
const twin = await startTwin({ dir: path.join(folder, "twin") });
await twin.exec("qvm-start sys-firewall"); // a download would start it

/** What the program describes now. */
let domains: Record<string, Omit<GuiDomainArgs, "host">> = {};
let unreachable: "fail" | "skip" = "fail";
const stack = await testStack("errors", folder, { lab: hostOf(twin) }, async () => {
  const host = new Host("lab", { unreachable });
  for (const [name, args] of Object.entries(domains)) new GuiDomain(name, { host, unreachable, ...args });
  return {};
});

async function expectRefusal(run: () => Promise<Outcome>, ...words: RegExp[]): Promise<Outcome> {
  const before = await twin.dump();
  const outcome = await run();
  const said = outcome.errors.join("\n");
  assert.not(outcome.ok, `it went through:\n${outcome.output}`);
  for (const word of words) assert.match(said, word, `${word} is not in: ${said}`);
  assert.not.match(said, /\bat .*\(?(file|node):/, "a stack trace is no message");
  assert.equal(twin.compare(before, await twin.dump()), []);
  return outcome;
}

const NOTHING = /Nothing was changed on the host\./;

test("template missing", async () => {
  domains = { "sys-gui": { template: "fedora-99-xfce" } };
  await expectRefusal(
    stack.preview,
    /GUI domain sys-gui on host lab: template "fedora-99-xfce" is not installed; installed are "debian-13-xfce", "fedora-43-xfce"/,
    NOTHING,
    /qvm-template install fedora-99-xfce/,
  );
  await expectRefusal(stack.up, /template "fedora-99-xfce" is not installed/, NOTHING);
});

test("qube name not allowed", async () => {
  domains = { gui: { qube: "sys gui" } };
  await expectRefusal(stack.preview, /qube/, /"sys gui" is not a qube's name; allowed are a letter first/);
});

test("qube exists with another class", async () => {
  domains = { gui: { qube: "debian-13-xfce" } };
  await expectRefusal(
    stack.up,
    /qube "debian-13-xfce" is there already, of class TemplateVM; a GUI domain is an AppVM/,
    NOTHING,
  );
});

test("two GUI domains claim one client: seen in preview, both named", async () => {
  domains = { "gui-a": { clients: ["personal"] }, "gui-b": { clients: ["personal"] } };
  await expectRefusal(
    stack.preview,
    /the GUI domain of "personal" is claimed by GuiDomain "gui-[ab]"/,
    NOTHING,
  );
});

test("a GUI domain that is its own GUI domain", async () => {
  domains = { "sys-gui": { clients: ["sys-gui"] } };
  await expectRefusal(stack.preview, /clients/, /"sys-gui" cannot be its own client/);
});

test("a Windows client and an HVM without agent, with what is supported", async () => {
  await twin.exec("qvm-features personal os Windows");
  domains = { "sys-gui": { clients: ["personal"] } };
  await expectRefusal(
    stack.up,
    /client "personal" runs Windows/,
    /Supported are Linux qubes with the Qubes GUI agent/,
    NOTHING,
  );
  await twin.exec(
    "qvm-features --unset personal os; qvm-create --class StandaloneVM --label red --property virt_mode=hvm appliance",
  );
  domains = { "sys-gui": { clients: ["appliance"] } };
  await expectRefusal(stack.up, /client "appliance" is an HVM without a GUI agent/, /Supported are/, NOTHING);
  await twin.exec("qvm-remove -f appliance");
});

test("a policy that would not lint stops the apply, and everything is put back", async () => {
  await twin.exec("echo 'nonsense line' > /etc/qubes/policy.d/30-broken.policy");
  domains = { "sys-gui": { clients: ["personal"] } };
  await expectRefusal(stack.up, /GUI domain sys-gui on host lab: /, /30-broken\.policy/, /put back/i);
  await twin.exec("rm /etc/qubes/policy.d/30-broken.policy");
});

test("a dom0 package that cannot be had", async () => {
  domains = { "sys-gui": { hostPackages: ["no-such-package"] } };
  await expectRefusal(stack.up, /no-such-package/, /GUI domain sys-gui on host lab/);
  await twin.world({ network: false });
  domains = { "sys-gui": {} };
  await expectRefusal(stack.up, /dummy-(psu-sender|backlight-dom0)/, /GUI domain sys-gui on host lab/);
  await twin.world({ network: true });
});

test("Salt fails in one state: which property, what was changed, what was undone", async () => {
  await twin.world({
    faults: { refuse: { "sys-gui": { "admin.vm.property.Set+maxmem": "Not on my watch" } } },
  });
  domains = { "sys-gui": { maxmem: 3000 } };
  await expectRefusal(
    stack.up,
    /maxmem: Not on my watch/,
    /put back/i,
    /qube "sys-gui"/,
    /npm run up|pulumi up/,
  );
  await twin.world({ faults: { refuse: undefined } });
});

test("another run holds the lock: its holder is named", async () => {
  await twin.exec(
    `python3 -c 'import fcntl,json,os,time,sys
f=open("/run/guidomain.lock","w"); fcntl.flock(f,fcntl.LOCK_EX)
f.write(json.dumps({"holder":"bob@desk, stack other","since":time.time(),"pid":os.getpid()})); f.flush()
sys.stdout.close(); os.close(1); os.close(2)
if os.fork(): os._exit(0)
time.sleep(60)' >/dev/null 2>&1`,
  );
  domains = { "sys-gui": {} };
  await expectRefusal(stack.up, /bob@desk, stack other/, /Wait until that run has ended/);
  await twin.exec("pkill -f guidomain.lock; rm -f /run/guidomain.lock");
});

test("disk full on the host", async () => {
  await twin.world({ faults: { diskFull: true } });
  domains = { "sys-gui": {} };
  const outcome = await stack.up();
  await twin.world({ faults: { diskFull: undefined } });
  assert.not(outcome.ok);
  assert.match(outcome.errors.join("\n"), /GUI domain sys-gui on host lab: .*(space|free)/i);
  assert.match(outcome.errors.join("\n"), /Make room in dom0/);
  assert.is((await twin.exec("qvm-check -q sys-gui")).code, 1);
});

test("Salt is missing: no forward apply succeeds", async () => {
  await twin.world({ faults: { saltMissing: true } });
  domains = { "sys-gui": {} };
  await expectRefusal(stack.up, /qubesctl is not in dom0/, /Nothing was changed/);
  await twin.world({ faults: { saltMissing: undefined } });
});

test("a release that is not supported, and a machine that is no Qubes host", async () => {
  domains = { "sys-gui": {} };
  await twin.exec("cp /etc/qubes-release /root/kept; echo 'Qubes release 4.2.4 (R4.2)' > /etc/qubes-release");
  await expectRefusal(stack.preview, /release R4\.2 is not supported; supported is R4\.3/);
  await twin.exec("rm /etc/qubes-release");
  await expectRefusal(stack.preview, /not a Qubes host: it has no \/etc\/qubes-release/);
  await twin.exec("mv /root/kept /etc/qubes-release");
});

test("wrong host key, refused key, no answer", async () => {
  domains = { "sys-gui": {} };
  const wrong = "SHA256:AAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAAA";
  await stack.hosts({ lab: hostOf(twin, { hostKey: wrong }) });
  await expectRefusal(
    stack.preview,
    /lab/,
    /host key/i,
    new RegExp(wrong),
    new RegExp(twin.hostKey.replaceAll("+", "\\+")),
  );

  const key = path.join(folder, "other-key");
  await new Promise((done) =>
    spawn("ssh-keygen", ["-q", "-t", "ed25519", "-N", "", "-f", key]).on("exit", done),
  );
  await stack.hosts({ lab: hostOf(twin, { identityFile: key }) });
  await expectRefusal(stack.preview, /lab/, /other-key/);

  const closed = net.createServer().listen(0, "127.0.0.1");
  await new Promise((done) => closed.once("listening", done));
  const { port } = closed.address() as net.AddressInfo;
  await new Promise((done) => closed.close(done));
  await stack.hosts({ lab: hostOf(twin, { port }) });
  await expectRefusal(stack.preview, /lab/, new RegExp(`${port}`));
  await stack.hosts({ lab: hostOf(twin) });
});

test('unreachable: "skip" keeps the state, says "not looked at", and does not end well', async () => {
  domains = { "sys-gui": {} };
  unreachable = "skip";
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  const before = await stack.resource("sys-gui");
  await stack.hosts({ lab: hostOf(twin, { port: 1 }) });
  const skipped = await stack.up();
  assert.not(skipped.ok, "a host that was not looked at is not all well");
  assert.match(skipped.errors.join("\n"), /lab was not looked at/);
  assert.equal((await stack.resource("sys-gui")).outputs["settings"], before.outputs["settings"]);
  await stack.hosts({ lab: hostOf(twin) });
  const again = await stack.preview();
  assert.ok(again.ok, again.output);
  assert.equal(again.errors, []);
  assert.equal(again.changes, { same: 3 });
});

test("a host taken out of the configuration can still be destroyed", async () => {
  await stack.hosts({});
  const destroy = await stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.is((await twin.exec("qvm-check -q sys-gui")).code, 1);
  await stack.hosts({ lab: hostOf(twin) });
});

test.run();
