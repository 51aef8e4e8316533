// Remote screens through the engine: brought up, seen through the tunnel of `npm run view` and from a viewer, for two people; what is
// refused; gone without a trace. The servers in the twin's qubes listen and greet; tests/remoteServers.test.ts has real ones.
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import { createConnection, createServer } from "node:net";
import path from "node:path";
import { GuiDomain, type GuiDomainArgs } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { GREETS, HELLO } from "../src/report/viewing.ts";
import { hostOf, mustIn, ROOT, scratch, testStack } from "./harness.ts";
import { view } from "./viewing.ts";

const folder = scratch("remote");
const TEMPLATE = "fedora-43-xfce";
const installation = JSON.parse(
  readFileSync(path.join(ROOT, "lab/twin/installs/qubes-4.3.json"), "utf8"),
) as { world: { templates: Record<string, { packages: Record<string, string> }> } };
const { templates } = installation.world;
const bare = templates[TEMPLATE] ?? { packages: {} };
const twin = await startTwin({
  dir: path.join(folder, "twin"),
  world: {
    templates: {
      ...templates,
      [TEMPLATE]: { ...bare, packages: { ...bare.packages, xrdp: "0.10.4", openssl: "3.5.1" } },
    },
  },
});
const must = mustIn(twin);
await must(...["work", "play", "way-alice", "way-bob"].map((name) => `qvm-create --label blue ${name}`));
const pristine = await twin.dump();

const LOGIN = { password: "Geheim, lang & breit" };
const ALICE: Omit<GuiDomainArgs, "host"> = {
  display: ["vnc"],
  clients: ["work"],
  viewers: ["way-alice"],
  remote: { password: "geheim12" },
};
const BOB: Omit<GuiDomainArgs, "host"> = {
  display: ["rdp"],
  clients: ["play"],
  viewers: ["way-bob"],
  login: LOGIN,
};
let domains: Record<string, Omit<GuiDomainArgs, "host">> = {};
const stack = await testStack("remote", folder, { lab: hostOf(twin) }, async () => {
  const made = Object.entries(domains).map(
    ([name, args]) => [name, new GuiDomain(name, { host: "lab", ...args })] as const,
  );
  return Object.fromEntries(
    made.flatMap(([name, { mode, state, endpoint }]) => [
      [`${name} mode`, mode],
      [`${name} state`, state],
      [`${name} endpoint`, endpoint],
    ]),
  );
});
const look = (...args: string[]) => view(folder, "remote", ...args);

/** The first that a server says to `hello` at a port of this machine; "" where it takes no connection or hangs up. */
function firstWords(port: number, hello: Buffer): Promise<Buffer> {
  return new Promise((resolve) => {
    const socket = createConnection({ host: "127.0.0.1", port });
    const end = (bytes: Buffer) => {
      socket.on("error", () => {}).destroy();
      resolve(bytes);
    };
    socket
      .once("connect", () => socket.write(hello))
      .once("data", end)
      .once("error", () => end(Buffer.alloc(0)))
      .once("close", () => end(Buffer.alloc(0)))
      .setTimeout(15_000, () => end(Buffer.alloc(0)));
  });
}

/** What a qube that asks dom0's policy for it gets to hear. */
const asked = async (viewer: string, port: number) =>
  (
    await twin.exec(
      `qvm-run -p -u root ${viewer} 'printf "" | timeout 20 qrexec-client-vm @default qubes.ConnectTCP+${port}'`,
    )
  ).stdout;

test("two people, a GUI domain each: up, and no change after it", async () => {
  domains = { "gui-alice": ALICE, "gui-bob": BOB };
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.equal(up.outputs, {
    "gui-alice mode": "vnc",
    "gui-alice state": "ready",
    "gui-alice endpoint": {
      protocol: "vnc",
      qube: "gui-alice",
      address: "127.0.0.1",
      port: 5900,
      viewers: ["way-alice"],
    },
    "gui-bob mode": "rdp",
    "gui-bob state": "ready",
    "gui-bob endpoint": {
      protocol: "rdp",
      qube: "gui-bob",
      address: "127.0.0.1",
      port: 3389,
      viewers: ["way-bob"],
    },
  });
  assert.not(`${up.output}${JSON.stringify(up.diffs)}`.includes("geheim12"), "the password is shown");
  const preview = await stack.preview();
  assert.equal(preview.changes, { same: 3 }, preview.output);
});

test("the credentials lie where root alone reads them, and nowhere else", async () => {
  for (const secret of ["geheim12", LOGIN.password]) {
    const files = [".pulumi", "Pulumi.remote.yaml"].map((name) => path.join(folder, name));
    assert.is(spawnSync("grep", ["-rlF", "--", secret, ...files], { encoding: "utf8" }).stdout, "");
    const { stdout } = await twin.exec(
      `grep -rlF -- ${JSON.stringify(secret)} /etc /home /root /run /srv /tmp /var 2>/dev/null`,
    );
    const found = stdout.split("\n").filter(Boolean);
    const expected =
      secret === "geheim12"
        ? ["/run/twin/guests/gui-alice/run/guidomain/vnc", "/var/lib/guidomain/secrets/gui-alice/vnc"]
        : []; // dom0 keeps a hash
    assert.equal(found.sort(), expected);
  }
  const { stdout } = await twin.exec(
    "stat -c '%a %U' /var/lib/guidomain/secrets/gui-alice/vnc /var/lib/guidomain/secrets",
  );
  assert.is(stdout, "600 root\n700 root\n");
  const mode = await twin.exec("qvm-run -p -u root gui-alice 'stat -c %a /run/guidomain/vnc'");
  assert.is(mode.stdout, "600\n");
  const processes = await twin.exec(
    "cat /proc/[0-9]*/cmdline | tr '\\0' ' ' | grep -o 'x11vnc [^ ].*passwdfile [^ ]*'",
  );
  assert.match(processes.stdout, /-passwdfile \/run\/guidomain\/vnc/);
});

test("npm run view leads to each, says how to look, and ends with Ctrl-C", async () => {
  for (const [qube, protocol, command] of [
    ["gui-alice", "vnc", /vncviewer 127\.0\.0\.1::15900/],
    ["gui-bob", "rdp", /xfreerdp \/v:127\.0\.0\.1:15900/],
  ] as const) {
    const running = await look("lab", "--qube", qube, "--port", "15900");
    assert.is(running.port, 15900, running.said());
    assert.match(running.said(), command);
    const words = await firstWords(15900, HELLO[protocol]);
    assert.ok(GREETS[protocol](words), `${qube} says ${JSON.stringify(words.toString("latin1"))}`);
    assert.is(await running.interrupt(), 0, running.said());
    assert.is((await firstWords(15900, HELLO[protocol])).length, 0, "nobody listens any more");
  }
});

test("each is reached by its own viewer, by nobody else, and on its own port alone", async () => {
  assert.match(await asked("way-alice", 5900), /^RFB 003\.008/);
  for (const [viewer, port] of [
    ["way-alice", 3389],
    ["way-alice", 5901],
    ["way-bob", 5900],
    ["vault", 5900],
  ] as const)
    assert.is(await asked(viewer, port), "", `${viewer} ${port}`);
  const bob = "qrexec-policy-exec --just-evaluate way-bob @default qubes.ConnectTCP+3389";
  assert.is((await twin.exec(bob)).code, 0);
});

test("what view says where it cannot be", async () => {
  const failing = async (...args: string[]) => {
    const ended = await look(...args);
    assert.is(await ended.ended, 1, ended.said());
    return ended.said();
  };
  assert.match(await failing("lab"), /several remote screens: gui-alice, gui-bob.*--qube/);
  assert.match(await failing("nowhere"), /has no host "nowhere"; it has lab/);
  assert.match(await failing("lab", "--qube", "nosuch"), /host lab has no qube "nosuch"/);
  assert.match(await failing("lab", "--qube", "x;reboot"), /--qube: /);
  assert.match(
    await failing("lab", "--qube", "way-alice"),
    /in no remote mode: it has no service guivm-vnc.*display/,
  );
  const server = createServer().listen(15901, "127.0.0.1");
  assert.match(
    await failing("lab", "--qube", "gui-alice", "--port", "15901"),
    /port 15901 is taken on this machine.*--port/,
  );
  server.close();
  await must("qvm-run -u root gui-alice 'systemctl stop guidomain-vnc'");
  assert.match(
    await failing("lab", "--qube", "gui-alice"),
    /nothing answers at port 5900 of gui-alice: .*npm run preview/s,
  );
  await must("qvm-shutdown --wait play", "qvm-shutdown --wait gui-bob");
  assert.match(
    await failing("lab", "--qube", "gui-bob"),
    /gui-bob on host lab does not run, and looking at a screen starts nothing/,
  );
  assert.is((await twin.exec("qvm-check -q --running gui-bob")).code, 1, "it starts nothing");
  const wrong = await look("--port", "none", "lab");
  assert.is(await wrong.ended, 2);
});

test("a start brings the server back, with its password from dom0; a new password too, at once", async () => {
  await must(
    "qvm-shutdown --wait gui-alice",
    "qvm-start gui-alice",
    "qvm-run -p gui-alice 'systemctl is-system-running --wait'",
  );
  const running = await look("lab", "--qube", "gui-alice", "--port", "15900");
  assert.is(running.port, 15900, running.said());
  await running.interrupt();
  const secret = async () =>
    (await twin.exec("qvm-run -p -u root gui-alice 'cat /run/guidomain/vnc'")).stdout;
  assert.is(await secret(), "geheim12");
  domains = { "gui-alice": { ...ALICE, remote: { password: "anders34" } }, "gui-bob": BOB };
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is(await secret(), "anders34");
  assert.not(`${up.output}`.includes("anders34"), "the password is shown");
});

test("a network that somebody gives it: told, warned of by view, taken away", async () => {
  await must("qvm-prefs gui-alice netvm sys-firewall");
  const preview = await stack.preview();
  assert.match(
    preview.output,
    /gui-alice has a network \(netvm sys-firewall\), so its remote screen may be open/,
  );
  assert.ok(preview.diffs["gui-alice"]?.includes("settings.properties.netvm"), preview.output);
  const running = await look("lab", "--qube", "gui-alice", "--port", "15900");
  assert.match(running.said(), /Warning: gui-alice has a network \(netvm sys-firewall\)/);
  await running.interrupt();
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  assert.is((await twin.exec("qvm-prefs gui-alice netvm")).stdout.trim(), "");
});

test("all of it goes", async () => {
  // Who was asked, or gave a network, runs.
  for (const name of ["vault", "way-alice", "way-bob", "gui-alice", "sys-firewall", "sys-net"])
    await twin.exec(`qvm-shutdown --wait ${name}`);
  domains = {};
  const down = await stack.up();
  assert.ok(down.ok, down.output);
  assert.equal(
    twin.compare(pristine, await twin.dump(), { ignore: ["files./var/lib/guidomain/ledger.json"] }),
    [],
  );
});

test("a server that is open to a network is refused, and all is as before", async () => {
  // A qube of somebody's own, which has such a server at each of its starts.
  await must(
    "qvm-create --label red gui-open",
    "qvm-prefs gui-open netvm ''",
    `qvm-run -u root gui-open 'printf "#!/bin/sh\\nsetsid python3 -m http.server --bind 0.0.0.0 5900 >/dev/null 2>&1 &\\n" >/rw/config/rc.local; chmod 755 /rw/config/rc.local'`,
    "qvm-shutdown --wait gui-open",
  );
  // A package of dom0 may have to be brought, and the network runs for that.
  await must("qvm-start --skip-if-running sys-firewall");
  const before = await twin.dump();
  domains = { "gui-open": { display: ["vnc", "dom0"], clients: ["work"], onFallback: "fail" } };
  const up = await stack.up();
  assert.not(up.ok);
  assert.match(up.output, /it listens on 0\.0\.0\.0:5900, which a network could reach/);
  domains = {};
  assert.ok((await stack.up()).ok);
  // Files that are added to a qube's own volume stay there, inert: which of them are in force is dom0's word.
  const inert = /^volumes\.gui-open\.private\.\/config\/(guidomain|rc\.local\.d\/50-guidomain)/;
  const left = twin.compare(before, await twin.dump(), {
    ignore: ["files./var/lib/guidomain/ledger.json"],
  });
  assert.equal(
    left.filter((line) => !inert.test(line)),
    [],
  );
});

test("a host that does not answer", async () => {
  await stack.hosts({ lab: hostOf(twin, { port: 1 }) });
  const ended = await look("lab", "--qube", "gui-alice");
  assert.is(await ended.ended, 1);
  assert.match(ended.said(), /lab: no connection to 127\.0\.0\.1 port 1: connection refused/);
});

test.run();
