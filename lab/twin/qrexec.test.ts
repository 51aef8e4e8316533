/** Calls of a qube in the twin: dom0's policy judges them, and a service of dom0 runs as core-qrexec 4.3 runs it. */
import { mkdtempSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "./twin.ts";

const twin = await startTwin({ dir: mkdtempSync(join(tmpdir(), "twin-qrexec-")) });
test.after(() => twin.remove());

const quote = (text: string) => `'${text.replaceAll("'", "'\\''")}'`;
/** What a command in the qube says: exit status, output, errors. */
async function inside(command: string, qube = "vault"): Promise<[number, string, string]> {
  const { code, stdout, stderr } = await twin.exec(`qvm-run -p --no-gui ${qube} ${quote(command)}`);
  return [code, stdout.trimEnd(), stderr.trimEnd().split("\n")[0] ?? ""];
}
const written = (path: string, text: string, mode: string) =>
  twin.exec(`mkdir -p "$(dirname ${path})" && printf %s ${quote(text)} >${path} && chmod ${mode} ${path}`);
const service = (name: string, script: string, mode = "755") =>
  written(`/etc/qubes-rpc/${name}`, `#!/bin/sh\n${script}\n`, mode);
const policy = (...lines: string[]) =>
  written("/etc/qubes/policy.d/30-test.policy", lines.map((line) => `${line}\n`).join(""), "644");
const denials = async () =>
  (await twin.exec("journalctl -u qubes-qrexec-policy-daemon")).stdout.trimEnd().split("\n").at(-1) ?? "";

test("a call that no rule allows is refused, and the journal says so", async () => {
  assert.equal(await inside("qrexec-client-vm dom0 test.Echo"), [126, "", "Request refused"]);
  assert.match(await denials(), "qrexec: test.Echo+: vault -> dom0: denied: no matching rule found");
});

test("what the service gets: who asks, what for, its input; its output and exit status come back", async () => {
  await policy("test.Echo * vault dom0 allow", "test.Echo * vault @default allow target=dom0");
  await service(
    "test.Echo",
    'echo "$QREXEC_REMOTE_DOMAIN|$QREXEC_SERVICE_FULL_NAME|$QREXEC_SERVICE_ARGUMENT|$QREXEC_REQUESTED_TARGET_TYPE|$QREXEC_REQUESTED_TARGET$QREXEC_REQUESTED_TARGET_KEYWORD|$#|$1|$USER"; cat; exit 3',
  );
  assert.equal(await inside("echo hello | qrexec-client-vm dom0 test.Echo+one+two"), [
    3,
    "vault|test.Echo+one+two|one+two|name|dom0|1|one+two|user\nhello",
    "",
  ]);
  // No argument counts as an empty one; whoever names no target gets the policy's.
  assert.equal(await inside("qrexec-client-vm @default test.Echo </dev/null"), [
    3,
    "vault|test.Echo+||keyword|default|0||user",
    "",
  ]);
  // The environment of the caller stays with the caller.
  const [, said] = await inside("QREXEC_REMOTE_DOMAIN=dom0 qrexec-client-vm -- dom0 test.Echo </dev/null");
  assert.match(said, /^vault\|/);
});

test("the file of a service and its argument comes first; one that is none, or cannot be run", async () => {
  await policy("* * vault dom0 allow");
  await service("test.Which", "echo any");
  await service("test.Which+that", "echo that");
  assert.equal(await inside("qrexec-client-vm dom0 test.Which+that </dev/null"), [0, "that", ""]);
  assert.equal(await inside("qrexec-client-vm dom0 test.Which+other </dev/null"), [0, "any", ""]);
  assert.is((await inside("qrexec-client-vm dom0 test.Nosuch </dev/null"))[0], 127);
  await service("test.Text", "echo never", "644");
  assert.is((await inside("qrexec-client-vm dom0 test.Text </dev/null"))[0], 125);
  // What is no name becomes one, as in qrexec-daemon: nothing leads out of the folder.
  assert.is((await inside("qrexec-client-vm dom0 ../qubes-rpc/test.Which </dev/null"))[0], 127);
  assert.equal(await inside("qrexec-client-vm dom0 'test.Which+a b/$(id)' </dev/null"), [0, "any", ""]);
  assert.is((await inside("qrexec-client-vm dom0 +test.Which </dev/null"))[0], 126);
});

test("a service of dom0 is no root, and becomes it by sudo, which forgets who asked", async () => {
  await policy("* * vault dom0 allow");
  await twin.exec("mkdir -p /var/lib/guidomain; echo secret >/var/lib/guidomain/x");
  await service(
    "test.Write",
    "echo x >/etc/written || echo refused; cat /var/lib/guidomain/x || echo unseen; echo x >/tmp/service",
  );
  assert.equal((await inside("qrexec-client-vm dom0 test.Write </dev/null")).slice(0, 2), [
    0,
    "refused\nunseen",
  ]);
  await service(
    "test.Root",
    "sudo -n sh -c 'cat /var/lib/guidomain/x; echo x >/etc/written; echo \"[$QREXEC_REMOTE_DOMAIN]\"'",
  );
  assert.equal((await inside("qrexec-client-vm dom0 test.Root </dev/null")).slice(0, 2), [0, "secret\n[]"]);
  assert.is((await twin.exec("cat /etc/written; rm -r /var/lib/guidomain /etc/written")).stdout, "x\n");
});

test("another qube, a local program, and who is asked", async () => {
  await policy(
    "qubes.GetDate * vault personal allow",
    "qubes.GetDate * vault @default allow target=dom0",
    "test.Echo * vault dom0 ask",
  );
  const [code, date] = await inside("qrexec-client-vm personal qubes.GetDate </dev/null");
  assert.is(code, 0);
  assert.match(date, /^\d{4}-\d\d-\d\dT/);
  assert.is((await twin.exec("qvm-check --running personal")).code, 0);
  assert.is((await inside("qrexec-client-vm dom0 test.Echo </dev/null"))[0], 126);
  await policy("test.Echo * vault dom0 allow");
  await service("test.Echo", "cat");
  const [, said] = await inside(
    "qrexec-client-vm dom0 test.Echo /bin/sh -c 'echo through; exec >&-; cat >&$SAVED_FD_1'",
  );
  assert.is(said, "through");
});

test("what a service writes into the journal", async () => {
  await policy("test.Log * vault dom0 allow");
  await service("test.Log", 'logger -t guidomain -- "asked by $QREXEC_REMOTE_DOMAIN"');
  await inside("qrexec-client-vm dom0 test.Log </dev/null");
  assert.match(
    (await twin.exec("journalctl -t guidomain")).stdout,
    / dom0 guidomain\[\d+\]: asked by vault\n$/,
  );
});

test.run();
