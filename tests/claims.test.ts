// What two GUI domains want of one host, and how it goes from one to the other: real engine, plugin, OpenSSH, agent, Salt, twin. Issue 5
// "Must show": deleting one GUI domain of two that both wanted `default_guivm` leaves the other's claim in force.

import type { CustomResourceOptions } from "@pulumi/pulumi";
import { AudioDomain, GuiDomain, type GuiDomainArgs, Host } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { hostOf, mustIn, scratch, testStack } from "./harness.ts";

const folder = scratch("claims");
const twin = await startTwin({ dir: `${folder}/twin` });
// As on any host, the network runs; a download by qubes-dom0-update would start it otherwise.
await mustIn(twin)("qvm-start sys-firewall");
const pristine = await twin.dump();

type Domains = [name: string, args: Omit<GuiDomainArgs, "host">, options?: CustomResourceOptions][];
const of = async (name: string) => {
  const at = { domains: [] as Domains, sounds: [] as string[] };
  const stack = await testStack(name, folder, { lab: hostOf(twin) }, async () => {
    const host = new Host("lab");
    for (const [qube, args, options] of at.domains) new GuiDomain(qube, { host, ...args }, options);
    for (const qube of at.sounds) new AudioDomain(qube, { host, devices: [], clients: "default" });
    return {};
  });
  return {
    stack,
    async up(...domains: Domains) {
      at.domains = domains;
      const up = await stack.up();
      assert.ok(up.ok, up.output);
      return up;
    },
    sounds: (...names: string[]) => {
      at.sounds = names;
    },
    async settled() {
      const before = await twin.dump();
      const preview = await stack.preview();
      assert.equal(preview.changes, { same: 2 + at.domains.length + at.sounds.length }, preview.output);
      assert.equal(twin.compare(before, await twin.dump()), []);
    },
  };
};
const one = await of("one");
const two = await of("two");
const stdout = async (command: string) => (await twin.exec(command)).stdout.trim();
const shows = () => stdout("qubes-prefs default_guivm");
const DEFAULT = { clients: "default" } as const;

test("two stacks want to show every qube: who came first does, then the other, then dom0 as before", async () => {
  await one.up(["gui-alice", DEFAULT]);
  const later = await two.up(["gui-bob", DEFAULT]);
  assert.match(
    later.output,
    /the host's default_guivm is with GuiDomain "gui-alice" \(stack one, project guidomain-tests\), who comes first/,
  );
  assert.is(await shows(), "gui-alice");
  const { outputs } = await two.stack.resource("gui-bob");
  assert.is(outputs["state"], "ready");
  assert.match(JSON.stringify(outputs["pending"]), /"claim"/);
  await two.settled();
  await one.settled();

  const gone = await one.stack.destroy();
  assert.ok(gone.ok, gone.output);
  assert.is(await shows(), "gui-bob");
  await two.settled();
  const last = await two.stack.destroy();
  assert.ok(last.ok, last.output);
  assert.is(await shows(), "dom0");
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test("two audio domains for every qube: the one that goes leaves the default to the other", async () => {
  const plays = () => stdout("qubes-prefs default_audiovm");
  one.sounds("sound-a", "sound-b");
  await one.up();
  assert.is(await plays(), "sound-a");
  one.sounds("sound-b");
  await one.up();
  assert.is(await plays(), "sound-b");
  await one.settled();
  one.sounds();
  await one.up();
  assert.is(await plays(), "dom0");
});

test("two of one program: the first by name; the one that goes leaves it to the other", async () => {
  await one.up(["gui-bob", DEFAULT], ["gui-alice", DEFAULT]);
  assert.is(await shows(), "gui-alice");
  await one.settled();
  await one.up(["gui-bob", DEFAULT]);
  assert.is(await shows(), "gui-bob");
});

test("a client and the default go from one to the other in one up; then no change", async () => {
  const shown = () => stdout("qvm-prefs personal guivm");
  await one.up(["gui-bob", DEFAULT], ["gui-alice", { clients: ["personal"] }]);
  assert.equal([await shows(), await shown()], ["gui-bob", "gui-alice"]);
  await one.up(["gui-bob", { clients: ["personal"] }], ["gui-alice", DEFAULT]);
  assert.equal([await shows(), await shown()], ["gui-alice", "gui-bob"]);
  await one.settled();
});

test("another name for a resource, with an alias and without: the host keeps what it has", async () => {
  // Whose it is, and the formula of the last change.
  const OURS = { ignore: ["files./var/lib/guidomain/ledger.json", "files./srv/user_salt/guidomain/gui-bob"] };
  await one.up(["gui-bob", DEFAULT]);
  const before = await twin.dump();
  const renamed = await one.up(["bob", { ...DEFAULT, qube: "gui-bob" }]);
  assert.equal([renamed.changes["create"], renamed.changes["delete"]], [1, 1]);
  assert.equal(twin.compare(before, await twin.dump(), OURS), []);
  await one.settled();
  const aliased = await one.up(["robert", { ...DEFAULT, qube: "gui-bob" }, { aliases: [{ name: "bob" }] }]);
  assert.not(aliased.changes["create"], aliased.output);
  await one.settled();
  const destroy = await one.stack.destroy();
  assert.ok(destroy.ok, destroy.output);
  assert.equal(twin.compare(pristine, await twin.dump()), []);
});

test.run();
