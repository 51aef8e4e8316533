// The contract over gRPC, as the engine calls it, without an engine.
import { mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import * as grpc from "@grpc/grpc-js";
import type { DiffResponse } from "@pulumi/pulumi/proto/provider_pb.js";
import proto from "@pulumi/pulumi/proto/provider_pb.js";
import emptyProto from "google-protobuf/google/protobuf/empty_pb.js";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { UNKNOWN } from "./handler.ts";
import { serve } from "./server.ts";
import {
  failureOf,
  fromStruct,
  partialFailureOf,
  secret,
  startEngine,
  TestClient,
  toStruct,
  urnOf,
} from "./testClient.ts";
import { demoPackage, NOTE, notesIn } from "./testPackage.ts";

const folder = mkdtempSync(join(tmpdir(), "guidomain-server-"));
const pkg = demoPackage();
const GRACE = 100;
const served = await serve(pkg, { grace: GRACE });
const engine = await startEngine();
const client = new TestClient(served.port);
await client.handshake(engine.address);
await client.configure({ folder });
const urn = urnOf(NOTE, "n");

const test = suite("provider server");

test.before.each(() => {
  engine.lines.length = 0;
  pkg.calls.length = 0;
});

test.after(async () => {
  client.close();
  await served.stop();
  engine.stop();
  rmSync(folder, { recursive: true });
});

test("says its version and its schema", async () => {
  const info = await client.call((done) => client.raw.getPluginInfo(new emptyProto.Empty(), done));
  assert.equal((info as { toObject(): object }).toObject(), { version: "1.2.3" });
  const schema = await client.call<InstanceType<typeof proto.GetSchemaResponse>>((done) =>
    client.raw.getSchema(new proto.GetSchemaRequest(), done),
  );
  assert.equal(JSON.parse(schema.getSchema()), pkg.schema);
});

test("what it does not have is unimplemented, not broken", async () => {
  const error = await failureOf(
    client.call((done) => client.raw.getMapping(new proto.GetMappingRequest(), done)),
  );
  assert.is(error.code, grpc.status.UNIMPLEMENTED);
});

test("configuration as JSON text or structured reaches the package the same, and secrets are named", async () => {
  const hosts = { lab: { address: "127.0.0.1" } };
  await client.configure({ folder, hosts: JSON.stringify(hosts) });
  await client.configure({ folder, hosts: secret(JSON.stringify(hosts)) });
  await client.configure({ folder, hosts: { lab: { address: secret("127.0.0.1") } } });
  assert.equal(pkg.configured.slice(-3), [
    { args: { folder, hosts }, secretKeys: [] },
    { args: { folder, hosts }, secretKeys: ["hosts"] },
    { args: { folder, hosts }, secretKeys: ["hosts"] },
  ]);
});

test("the stack's present configuration goes before what the state remembers, for the default provider", async () => {
  const own = demoPackage();
  const other = await serve(own, { configuration: { folder: "now", hosts: '{"lab":{}}' } });
  const caller = new TestClient(other.port);
  await caller.configure({ folder: "then" });
  await caller.configure({ folder: "then" }, "default_1_2_3");
  await caller.configure({ folder: "its own" }, "explicit");
  const present = { folder: "now", hosts: { lab: {} } };
  assert.equal(
    own.configured.map(({ args }) => args),
    [present, present, { folder: "its own" }],
  );
  caller.close();
  await other.stop();
});

test("configuration is checked, and goes back as it came", async () => {
  const args = { folder, hosts: secret('{"lab": {}}') };
  assert.equal(await client.checkConfig(args), { inputs: args, failures: [] });
  const { failures } = await client.checkConfig({ folder: [1] });
  assert.equal(failures, [{ property: "folder", reason: "Invalid value for folder: [1]. It is a path." }]);
});

test("a change of configuration is a difference that replaces nothing", async () => {
  const { DIFF_SOME, DIFF_NONE } = proto.DiffResponse.DiffChanges;
  const changed = await client.diffConfig({ hosts: '{"lab":{"port":22}}' }, { hosts: '{"lab":{"port":23}}' });
  assert.is(changed.changes, DIFF_SOME);
  assert.equal(changed.diffsList, ["hosts"]);
  assert.equal(changed.replacesList, []);
  assert.is((await client.diffConfig({ hosts: "{}" }, { hosts: "{ }" })).changes, DIFF_NONE);
});

test("check fills in defaults, keeps secrets and unknowns, and names what is wrong", async () => {
  const good = await client.check(urn, { title: UNKNOWN, password: secret("pass") });
  assert.equal(good, { inputs: { size: "small", title: UNKNOWN, password: secret("pass") }, failures: [] });
  const bad = await client.check(urn, { title: "" });
  assert.equal(bad.failures, [{ property: "title", reason: 'Invalid value for title: "". Name the note.' }]);
});

test("diff names paths in detail, and top-level properties in its lists", async () => {
  const { Kind } = proto.PropertyDiff;
  const olds = { title: "a", tags: ["x", "y"], text: "same", style: { ink: "red" } };
  const news = { title: "b", tags: ["x", "z"], text: "same", style: { ink: "red", "pen.tip": 1 } };
  const diff: DiffResponse.AsObject = await client.diff(urn, "a", olds, news);
  assert.equal(
    new Map(diff.detaileddiffMap),
    new Map([
      ["title", { kind: Kind.UPDATE_REPLACE, inputdiff: true }],
      ["tags[1]", { kind: Kind.UPDATE, inputdiff: true }],
      ['style["pen.tip"]', { kind: Kind.ADD, inputdiff: true }],
    ]),
  );
  assert.equal(new Set(diff.diffsList), new Set(["title", "tags", "style"]));
  assert.equal(diff.replacesList, ["title"]);
  assert.ok(diff.hasdetaileddiff && diff.deletebeforereplace);
  assert.is(diff.changes, proto.DiffResponse.DiffChanges.DIFF_SOME);
});

test("no difference is said as such", async () => {
  const diff = await client.diff(
    urn,
    "a",
    { title: "a", password: secret("p") },
    { title: "a", password: "p" },
  );
  assert.is(diff.changes, proto.DiffResponse.DiffChanges.DIFF_NONE);
});

test("create, read, update and delete carry values, secrets and the wish to be read again", async () => {
  const inputs = { title: "crud", text: "hello", password: secret("open sesame") };
  const made = await client.create(urn, inputs);
  assert.equal(made, {
    id: "crud",
    outputs: { ...inputs, length: 5, token: secret("token-crud") },
    refreshBeforeUpdate: true,
  });
  assert.equal(notesIn(folder).crud, { title: "crud", text: "hello", password: "open sesame" });

  const read = await client.read(urn, "crud", made.outputs, inputs);
  assert.equal(read, { id: "crud", outputs: made.outputs, inputs, refreshBeforeUpdate: true });

  const changed = await client.update(
    urn,
    "crud",
    { inputs, outputs: made.outputs },
    { ...inputs, text: "bye" },
  );
  assert.equal(changed, {
    outputs: { ...inputs, text: "bye", length: 3, token: secret("token-crud") },
    refreshBeforeUpdate: true,
  });

  await client.delete(urn, "crud", made.outputs);
  assert.is(notesIn(folder).crud, undefined);
  assert.equal((await client.read(urn, "crud", made.outputs, inputs)).id, "");
});

test("an import reads with nothing but the id", async () => {
  writeFileSync(join(folder, "found.json"), JSON.stringify({ title: "found", text: "by hand" }));
  const { id, inputs } = await client.read(urn, "found");
  assert.is(id, "found");
  assert.equal(inputs, { title: "found", text: "by hand" });
  rmSync(join(folder, "found.json"));
});

test("a preview knows that it is one, keeps unknowns and writes nothing", async () => {
  const preview = await client.create(urn, { title: "p", text: UNKNOWN }, { preview: true });
  assert.equal(preview.outputs, { title: "p", text: UNKNOWN });
  const olds = { inputs: {}, outputs: { title: "p", length: 1 } };
  const update = await client.update(urn, "p", olds, { title: "p", text: "x" }, { preview: true });
  assert.equal(update.outputs, { title: "p", length: 1, text: "x" });
  assert.equal(notesIn(folder), {});
  assert.equal(pkg.calls, ["preview create n", "preview update n"]);
});

test("a half-made resource keeps its id, outputs, secrets and reasons", async () => {
  const error = await failureOf(
    client.create(urn, { title: "half", password: secret("hunter22"), fail: "half" }),
  );
  assert.is(error.code, grpc.status.UNKNOWN);
  assert.is(error.details, "ink ran out at [secret]\npaper jam");
  const kept = partialFailureOf(error);
  assert.is(kept?.getId(), "half");
  assert.equal(kept?.getReasonsList(), ["ink ran out at [secret]", "paper jam"]);
  assert.is(kept?.getRefreshBeforeUpdate(), true);
  const outputs = fromStruct(kept?.getProperties());
  assert.equal(outputs.password, secret("hunter22"));
  assert.equal(outputs.token, secret("token-half"));
  await client.delete(urn, "half");
});

test("a half-made resource stays so, however well it reads, until an update has made it whole", async () => {
  const inputs = { title: "torn", fail: "half" };
  const failed = partialFailureOf(await failureOf(client.create(urn, inputs)));
  const kept = fromStruct(failed?.getProperties());

  const read = partialFailureOf(await failureOf(client.read(urn, "torn", kept, inputs)));
  assert.is(read?.getId(), "torn");
  assert.equal(read?.getReasonsList(), ["ink ran out at no password", "paper jam"]);
  assert.equal(fromStruct(read?.getProperties()), kept, "and the next read says so again");
  assert.equal(fromStruct(read?.getInputs()), inputs);

  const whole = await client.update(urn, "torn", { inputs, outputs: kept }, { title: "torn", text: "glued" });
  const reread = await client.read(urn, "torn", whole.outputs, { title: "torn", text: "glued" });
  assert.is(reread.id, "torn");
  assert.equal(reread.outputs, whole.outputs);
  await client.delete(urn, "torn");
});

test("a half-made resource may have outputs of 30 kB", async () => {
  const error = await failureOf(client.create(urn, { title: "big", text: "x".repeat(30_000), fail: "half" }));
  assert.is(partialFailureOf(error)?.getId(), "big");
  await client.delete(urn, "big");
});

test("a read may find a resource broken, and says how it found it", async () => {
  writeFileSync(join(folder, "b.json"), JSON.stringify({ title: "b", broken: true }));
  const kept = partialFailureOf(await failureOf(client.read(urn, "b", {}, { title: "b" })));
  assert.equal(kept?.getReasonsList(), ["torn"]);
  assert.equal(fromStruct(kept?.getInputs()), { title: "b", broken: true });
  rmSync(join(folder, "b.json"));
});

test("an error is its message alone, without secrets and without a stack", async () => {
  const error = await failureOf(
    client.create(urn, { title: "x", fail: "whole", password: secret("a canary in a mine") }),
  );
  assert.is(error.code, grpc.status.UNKNOWN);
  assert.is(error.details, "no pen for [secret]");
  assert.is(partialFailureOf(error), undefined);
  const known = await failureOf(client.create(urn, { title: "x", fail: "whole", password: "canary" }));
  assert.is(known.details, "no pen for [canary]", "the package's own scrubbing");
});

test("a type it does not have is refused by name", async () => {
  const error = await failureOf(client.check(urnOf("demo:index:Nothing", "n"), {}));
  assert.is(error.details, "demo 1.2.3 has no resource type demo:index:Nothing; it has demo:index:Note");
});

test("a child's URN names its own type, and a name may contain colons", async () => {
  await client.create(
    `urn:pulumi:s::p::a:b:Parent$${NOTE}::odd::name`,
    { title: "child" },
    { preview: true },
  );
  assert.equal(pkg.calls, ["preview create odd::name"]);
});

test("an operation over its time limit is stopped, and keeps what it made", async () => {
  const error = await failureOf(client.create(urn, { title: "slow", delay: 60_000 }, { timeout: 0.05 }));
  assert.is(error.details, "stopped while writing: timed out after 0.05 s");
  assert.is(partialFailureOf(error)?.getId(), "slow");
  await client.delete(urn, "slow");
});

test("an operation that ignores its time limit is answered for", async () => {
  const started = performance.now();
  const inputs = { title: "stubborn", delay: 600, stubborn: true };
  const error = await failureOf(client.create(urn, inputs, { timeout: 0.05 }));
  assert.ok(performance.now() - started < 500);
  assert.is(error.details, "timed out after 0.05 s; the pen goes on by itself");
  assert.is(partialFailureOf(error)?.getId(), "stubborn");
  const olds = { inputs, outputs: inputs };
  const update = await failureOf(
    client.update(urn, "stubborn", olds, { ...inputs, text: "new" }, { timeout: 0.05 }),
  );
  assert.is(fromStruct(partialFailureOf(update)?.getProperties()).text, "new");
  const removal = await failureOf(client.delete(urn, "stubborn", inputs, { timeout: 0.05 }));
  assert.is(removal.details, "timed out after 0.05 s; the pen goes on by itself");
  assert.is(
    partialFailureOf(removal),
    undefined,
    "a delete has no partial failure: the state stays as it was",
  );
});

test("a handler's own time limit holds where the program sets none", async () => {
  const own = demoPackage();
  const note = own.handlers[NOTE];
  assert.ok(note);
  note.defaultTimeout = 0.05;
  const other = await serve(own, { grace: GRACE });
  const caller = new TestClient(other.port);
  await caller.configure({ folder });
  const error = await failureOf(caller.create(urn, { title: "slow", delay: 60_000 }));
  assert.match(error.details, "timed out after 0.05 s");
  await caller.create(urn, { title: "slow", delay: 100 }, { timeout: 30 });
  await caller.delete(urn, "slow");
  caller.close();
  await other.stop();
  assert.is(own.closed, 1);
});

test("cancel stops what runs, answers for what does not stop, and refuses what comes", async () => {
  const polite = failureOf(client.create(urn, { title: "polite", delay: 60_000 }));
  const stubborn = failureOf(client.create(urn, { title: "rude", delay: 1000, stubborn: true }));
  while (pkg.calls.length < 2) await sleep(5);
  const started = performance.now();
  await client.cancel();
  assert.is((await polite).details, "stopped while writing: cancelled");
  assert.is((await stubborn).details, "cancelled; the pen goes on by itself");
  assert.ok(performance.now() - started < GRACE + 200);
  const late = await failureOf(client.create(urn, { title: "late" }));
  assert.is(late.details, "not started: cancelled");
  await client.cancel(); // again, at the normal end
  await client.handshake(engine.address); // the next engine
  await client.delete(urn, "polite");
  await client.delete(urn, "rude");
});

test("an engine that hangs up stops the operation", async () => {
  const request = new proto.CreateRequest();
  request.setUrn(urn);
  request.setProperties(toStruct({ title: "gone", delay: 60_000 }));
  const hungUp = failureOf(
    client.call((done) => {
      const call = client.raw.create(request, done);
      setTimeout(() => call.cancel(), 50);
      return call;
    }),
  );
  assert.is((await hungUp).code, grpc.status.CANCELLED);
  while (pkg.calls.length < 2) await sleep(5);
  assert.equal(pkg.calls, ["create n", "stop n: the engine has gone"]);
  await client.delete(urn, "gone");
});

test("lines carry the URN, in order, without secrets; ephemeral ones are throttled and the last one comes", async () => {
  await client.create(urn, { title: "lines", progress: 30, password: secret("line 30") });
  const shown = engine.lines;
  assert.ok(shown.every(({ urn: of, ephemeral }) => of === urn && ephemeral));
  assert.ok(shown.length >= 3 && shown.length <= 8, `${shown.length} lines`);
  assert.is(shown[0]?.message, "line 1");
  assert.is(shown.at(-1)?.message, "[secret]");
  const pauses = shown.slice(1, -1).map((line, index) => line.at - (shown[index]?.at ?? 0));
  assert.ok(
    pauses.every((pause) => pause > 80),
    pauses.join(" "),
  );
  await client.delete(urn, "lines");
});

test("lines that are kept are not throttled", async () => {
  writeFileSync(join(folder, "c.json"), JSON.stringify({ title: "c", complain: true }));
  await client.read(urn, "c", {}, {});
  assert.equal(
    engine.lines.map(({ message, severity, ephemeral }) => [message, severity, ephemeral]),
    [["unreadable", 3, false]],
  );
  rmSync(join(folder, "c.json"));
});

test.run();
