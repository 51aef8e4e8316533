/** What several resources want of one host: who has it, who waits, and how it goes from one to the other. Handlers, hosts in memory. */
import fc from "fast-check";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { Refusal } from "../model/failure.ts";
import { differing, everything, HostModel, install, qube } from "../plan/testing/hostModel.ts";
import { audioDomainHandler } from "./audioDomain.ts";
import { guiDomainHandler } from "./guiDomain.ts";
import type { Context, Handler, Properties, ReadResult } from "./handler.ts";
import { TestHosts, urnOf } from "./testHosts.ts";
import { failing } from "./testProgram.ts";

type Args = Properties;

const KINDS: Record<string, { make: (hosts: TestHosts) => Handler; of: string; extra: Args }> = {
  GuiDomain: { make: guiDomainHandler, of: "guivm", extra: {} },
  AudioDomain: { make: audioDomainHandler, of: "audiovm", extra: { devices: [] } },
};

/** One stack of resources of a kind, run again and again as the engine does it. */
class Stack {
  readonly hosts: TestHosts;
  readonly #kind: (typeof KINDS)[string];
  readonly name: string;
  state = new Map<string, ReadResult>();

  constructor(host: HostModel, type = "GuiDomain", name = "lab") {
    this.hosts = new TestHosts({ lab: host });
    this.#kind = KINDS[type] as (typeof KINDS)[string];
    this.hosts.type = type;
    this.name = name;
    this.hosts.stack = name;
  }

  #context(name: string, more: Partial<Context> = {}): Context {
    return this.hosts.context(name, more);
  }

  /** `names` in the order of the program, which is that of their checks; `turns`: the order in which the engine has them done. */
  async #run(
    program: Record<string, Args>,
    preview: boolean,
    turns?: string[],
  ): Promise<Record<string, string[] | "create">> {
    this.hosts.claims = new TestHosts({}).claims;
    const handler = this.#kind.make(this.hosts);
    const changes: Record<string, string[] | "create"> = {};
    const steps = new Map<string, () => Promise<void>>();
    // The refresh before all of it, which asks with what the state says.
    for (const [name, old] of this.state) {
      const found = await handler.read(old, this.#context(name));
      if (!found) continue;
      const { id, inputs: oldInputs, outputs: oldOutputs } = found;
      await handler.diff({ id, oldInputs, oldOutputs, news: old.inputs }, this.#context(name));
      if (name in program) this.state.set(name, found);
    }
    for (const [name, args] of Object.entries(program)) {
      const found = this.state.get(name);
      const given = { host: "lab", ...this.#kind.extra, ...args };
      const { inputs: news, failures } = await handler.check(given, found?.inputs ?? {}, this.#context(name));
      assert.equal(failures, []);
      if (!found) {
        changes[name] = "create";
        steps.set(name, async () => {
          const { id, outputs } = await handler.create(news, this.#context(name, { preview }));
          if (!preview) this.state.set(name, { id, inputs: news, outputs });
        });
        continue;
      }
      const request = { id: found.id, oldInputs: found.inputs, oldOutputs: found.outputs, news };
      const diff = Object.keys((await handler.diff(request, this.#context(name))).changes);
      if (diff.length === 0) continue;
      changes[name] = diff;
      steps.set(name, async () => {
        const outputs = await handler.update(request, this.#context(name, { preview }));
        if (!preview) this.state.set(name, { id: found.id, inputs: news, outputs });
      });
    }
    const order = [...(turns ?? []).filter((name) => steps.has(name)), ...steps.keys()];
    for (const name of new Set(order)) await steps.get(name)?.();
    if (preview) return changes;
    for (const [name, { id, inputs, outputs }] of this.state)
      if (!(name in program)) {
        await handler.delete({ id, inputs, outputs }, this.#context(name));
        this.state.delete(name);
      }
    return changes;
  }

  up = (program: Record<string, Args>, turns?: string[]) => this.#run(program, false, turns);
  preview = (program: Record<string, Args>) => this.#run(program, true);

  async settled(program: Record<string, Args>): Promise<void> {
    assert.equal(await this.preview(program), {}, "a second preview shows no change");
  }

  pending = (name: string) => JSON.stringify(this.state.get(name)?.outputs["pending"]);
  get warnings(): string {
    return this.hosts.log.flatMap((l) => (l.options?.severity === "warning" ? [l.message] : [])).join("\n");
  }
}

const globalOf = (host: HostModel, type = "GuiDomain") =>
  host.snapshot().globals[`default_${KINDS[type]?.of}`]?.value;
const domainOf = (host: HostModel, client: string, type = "GuiDomain") =>
  host.snapshot().qubes[client]?.properties[KINDS[type]?.of ?? ""]?.value;
const ALL = { clients: "default" };

for (const type of Object.keys(KINDS)) {
  test(`${type}: two stacks that both want the default: who came first has it, then the other, then nobody`, async () => {
    for (const first of ["one", "two"]) {
      const host = new HostModel();
      const before = everything(host.snapshot());
      const [one, two] = [new Stack(host, type, "one"), new Stack(host, type, "two")];
      await one.up({ a: ALL });
      await two.preview({ b: ALL });
      assert.match(
        two.warnings,
        new RegExp(`default_.* is with ${type} "a" \\(stack one, .* who comes first`),
      );
      await two.up({ b: ALL });
      assert.equal([globalOf(host, type), two.state.get("b")?.outputs["state"]], ["a", "ready"]);
      assert.match(two.pending("b"), /"claim","why":"the host's default_.* is with .*\\"a\\"/);
      assert.not.match(one.pending("a"), /claim/);
      await one.settled({ a: ALL });
      await two.settled({ b: ALL });

      const [goes, stays, name] = first === "one" ? [one, two, "b"] : [two, one, "a"];
      await goes.up({});
      assert.is(globalOf(host, type), name);
      await stays.settled({ [name]: ALL });
      assert.not.match(stays.pending(name), /claim/);
      await stays.up({});
      assert.equal(differing(before, everything(host.snapshot())), []);
      assert.equal(host.snapshot().ledger, {});
    }
  });

  test(`${type}: negative control: where the ledger does not know who waits, the default falls back although a claim is there`, async () => {
    const host = new HostModel();
    const [one, two] = [new Stack(host, type, "one"), new Stack(host, type, "two")];
    await one.up({ a: ALL });
    await two.up({ b: ALL });
    host.byHand(({ ledger }) => {
      for (const entry of Object.values(ledger)) delete entry.waiting;
    });
    await one.up({});
    assert.is(globalOf(host, type), "dom0");
    assert.equal((await two.preview({ b: ALL }))["b"], [`settings.globals.default_${KINDS[type]?.of}`]);
  });

  test(`${type}: two of one program want the default: in whatever order it is done, the first by name has it`, async () => {
    const everyOrder = [
      ["a", "b", "c"],
      ["a", "c", "b"],
      ["b", "a", "c"],
      ["b", "c", "a"],
      ["c", "a", "b"],
      ["c", "b", "a"],
    ];
    for (const names of everyOrder)
      for (const turns of everyOrder) {
        const host = new HostModel();
        const stack = new Stack(host, type);
        const program = Object.fromEntries(names.map((name) => [name, ALL]));
        await stack.up(program, turns);
        assert.is(globalOf(host, type), "a", `${names} ${turns}`);
        await stack.settled(program);
        assert.match(stack.pending("b"), /claim/);
        await stack.up({ b: ALL, c: ALL });
        assert.match(globalOf(host, type) ?? "", /^[bc]$/);
        await stack.up({});
        assert.equal(host.snapshot().ledger, {});
      }
  });

  test(`${type}: one that comes later does not take the default from who has it, whatever its name`, async () => {
    const host = new HostModel();
    const stack = new Stack(host, type);
    await stack.up({ b: ALL });
    await stack.up({ a: ALL, b: ALL });
    assert.is(globalOf(host, type), "b");
    await stack.settled({ a: ALL, b: ALL });
    await stack.settled({ b: ALL, a: ALL });
    // It lets go of it in the program, and the other has it by the same run.
    await stack.up({ a: ALL, b: { clients: [] } });
    assert.is(globalOf(host, type), "a");
    await stack.settled({ a: ALL, b: { clients: [] } });
  });

  for (const turns of [
    ["a", "b"],
    ["b", "a"],
  ])
    for (const names of [
      ["a", "b"],
      ["b", "a"],
    ])
      test(`${type}: a client moves from a to b in one run, named ${names}, done ${turns}`, async () => {
        const host = new HostModel();
        const before = everything(host.snapshot());
        const stack = new Stack(host, type);
        const program = (a: string[], b: string[]) => {
          const args: Record<string, Args> = { a: { clients: a }, b: { clients: b } };
          return Object.fromEntries(names.map((name) => [name, args[name] as Args]));
        };
        await stack.up(program(["vault", "work"], []), turns);
        const seen: (string | undefined)[] = [];
        const apply = stack.hosts.apply.bind(stack.hosts);
        stack.hosts.apply = async (...args) => {
          const result = await apply(...args);
          seen.push(domainOf(host, "work", type));
          return result;
        };
        const next = program(["vault"], ["work"]);
        await stack.preview(next);
        await stack.up(next, turns);
        assert.equal([domainOf(host, "work", type), domainOf(host, "vault", type)], ["b", "a"]);
        assert.not(seen.includes("dom0"), `nobody else had it in between: ${seen}`);
        await stack.settled(next);
        // And to one that is made for it, from one that goes.
        const last: Record<string, Args> = { b: { clients: [] }, c: { clients: ["vault", "work"] } };
        await stack.up(last);
        assert.equal([domainOf(host, "work", type), domainOf(host, "vault", type)], ["c", "c"]);
        assert.not(seen.includes("dom0"), `${seen}`);
        await stack.settled(last);
        await stack.up({});
        assert.equal(differing(before, everything(host.snapshot())), []);
        assert.equal(host.snapshot().ledger, {});
      });

  test(`${type}: two swap their clients in one run`, async () => {
    for (const turns of [
      ["a", "b"],
      ["b", "a"],
    ]) {
      const host = new HostModel();
      const stack = new Stack(host, type);
      await stack.up({ a: { clients: ["work"] }, b: { clients: ["vault"] } });
      const swapped = { a: { clients: ["vault"] }, b: { clients: ["work"] } };
      await stack.up(swapped, turns);
      assert.equal([domainOf(host, "work", type), domainOf(host, "vault", type)], ["b", "a"]);
      await stack.settled(swapped);
    }
  });

  test(`${type}: what was left for another that never came for it goes back with the next run`, async () => {
    const host = new HostModel();
    const stack = new Stack(host, type);
    await stack.up({ a: { clients: ["work"] }, b: { clients: [] } });
    const apply = stack.hosts.apply.bind(stack.hosts);
    stack.hosts.apply = async (name, request) => {
      if (request.owner.endsWith("::b")) throw new Error("the line is cut");
      return apply(name, request);
    };
    const moved = { a: { clients: [] }, b: { clients: ["work"] } };
    await failing(Error, stack.up(moved, ["a", "b"]));
    assert.is(domainOf(host, "work", type), "a", "still with a, not with nobody");
    stack.hosts.apply = apply;
    const neither = { a: { clients: [] }, b: { clients: [] } };
    const path = type === "GuiDomain" ? "settings.clients.work" : "settings.audioClients.work";
    assert.equal((await stack.preview(neither))["a"], [path]);
    await stack.up(neither);
    assert.equal([domainOf(host, "work", type)], ["dom0"]);
    await stack.settled(neither);
  });

  test(`${type}: another name in the program, the same qube: it is taken over, and the old name's end touches nothing`, async () => {
    const host = new HostModel();
    const before = everything(host.snapshot());
    const stack = new Stack(host, type);
    const args = { qube: "domain", clients: ["work"] };
    await stack.up({ old: args });
    const made = everything(host.snapshot());
    const deleted = stack.hosts.applied.length;
    const preview = await stack.preview({ renamed: args });
    assert.equal(preview, { renamed: "create" });
    await stack.up({ renamed: args });
    assert.equal(differing(made, everything(host.snapshot())), []);
    assert.ok(stack.hosts.applied.length <= deleted + 1, "nothing was done for the old name");
    const owners = new Set(Object.values(host.snapshot().ledger).map((entry) => entry.owner));
    assert.equal([...owners], [urnOf("renamed", type)]);
    assert.is(stack.state.get("renamed")?.outputs["origin"], "created");
    await stack.settled({ renamed: args });
    await stack.up({});
    assert.equal(differing(before, everything(host.snapshot())), []);
    assert.equal(host.snapshot().ledger, {});
  });

  test(`${type}: an alias keeps the state; the ledger follows at the next change, and a destroy without one leaves nothing either`, async () => {
    for (const changes of [true, false]) {
      const host = new HostModel();
      const before = everything(host.snapshot());
      const stack = new Stack(host, type);
      const args = { qube: "domain", clients: ["work"] };
      await stack.up({ old: args });
      stack.state = new Map([["renamed", stack.state.get("old") as ReadResult]]);
      await stack.settled({ renamed: args });
      if (changes) await stack.up({ renamed: { ...args, clients: ["vault"] } });
      await stack.up({});
      assert.equal(differing(before, everything(host.snapshot())), []);
      assert.equal(host.snapshot().ledger, {});
    }
  });

  test(`${type}: a name that an alias has left is not given to another while the ledger has it for the first`, async () => {
    const host = new HostModel();
    const stack = new Stack(host, type);
    const args = { qube: "domain", clients: [] };
    const another = { qube: "another", clients: ["vault"] };
    await stack.up({ old: args });
    stack.state = new Map([["renamed", stack.state.get("old") as ReadResult]]);
    const before = host.snapshot();
    for (const run of [stack.preview, stack.up]) {
      const { message } = await failing(Refusal, run({ renamed: args, old: another }));
      assert.match(message, /ledger has qube "domain" under this resource's name, and .* "renamed"/);
      assert.equal(host.snapshot(), before);
    }
    await stack.up({ renamed: { ...args, clients: ["work"] } });
    await stack.up({ renamed: { ...args, clients: ["work"] }, old: another });
    assert.equal([domainOf(host, "work", type), domainOf(host, "vault", type)], ["domain", "another"]);
  });

  test(`${type}: one that is replaced takes its qube away, also where another is to have one of that name`, async () => {
    const host = new HostModel();
    const before = everything(host.snapshot());
    const stack = new Stack(host, type);
    await stack.up({ a: { qube: "domain", clients: [] } });
    const { claims } = stack.hosts;
    claims.wants(urnOf("a", type), { host: "lab", qube: "another", keys: [] });
    claims.wants(urnOf("b", type), { host: "lab", qube: "domain", keys: [] });
    const { id, inputs, outputs } = stack.state.get("a") as ReadResult;
    await KINDS[type]?.make(stack.hosts).delete({ id, inputs, outputs }, stack.hosts.context("a"));
    assert.equal(differing(before, everything(host.snapshot())), []);
  });

  test(`${type}: a rename whose take-over failed does not lose the qube to the old name's end`, async () => {
    const host = new HostModel();
    const stack = new Stack(host, type);
    const args = { qube: "domain", clients: ["work"] };
    await stack.up({ old: args });
    stack.hosts.claims = new TestHosts({}).claims; // the run of it, whose program has the new name alone
    stack.hosts.claims.wants(urnOf("renamed", type), { host: "lab", qube: "domain", keys: [] });
    const { id, inputs, outputs } = stack.state.get("old") as ReadResult;
    await KINDS[type]?.make(stack.hosts).delete({ id, inputs, outputs }, stack.hosts.context("old"));
    assert.ok(host.snapshot().qubes["domain"]);
  });

  test(`${type}: two of one program that name one qube as theirs, and want one client, are refused whoever has it`, async () => {
    const host = new HostModel();
    const stack = new Stack(host, type);
    await stack.up({ a: { clients: ["work"] } });
    const both = { a: { clients: ["work"] }, b: { clients: ["work"] } };
    for (const program of [both, { b: both.b, a: both.a }]) {
      const before = host.snapshot();
      const error = await failing(Refusal, stack.preview(program));
      assert.match(error.message, /of "work" (is claimed by .* as well|belongs to)/);
      assert.equal(host.snapshot(), before);
    }
    const [a, b] = [
      { qube: "a", clients: ["work"] },
      { qube: "a", clients: [] },
    ];
    for (const [twice, run] of [
      [{ a, b }, stack.preview],
      [{ b, a }, stack.preview],
      [{ b, a }, stack.up],
    ] as const) {
      const before = host.snapshot();
      const error = await failing(Refusal, run(twice));
      assert.match(error.message, /(qube "a"|of "work") (is claimed by|belongs to) .*"(a|b)"/);
      assert.not.match(error.message, /of that stack/);
      assert.equal(host.snapshot(), before);
    }
  });
}

test("a default that the host gives back to nobody: whose qube has gone by hand inherits nothing", async () => {
  const host = new HostModel(install({ qubes: { spare: qube() } }));
  const [one, two] = [new Stack(host, "GuiDomain", "one"), new Stack(host, "GuiDomain", "two")];
  await one.up({ a: ALL });
  await two.up({ b: ALL });
  host.byHand((now) => {
    delete now.qubes["b"];
  });
  await one.up({});
  assert.is(globalOf(host), "dom0");
});

test("whatever stacks come, change and go in whatever order: the default is with one that wants it, else as it was", async () => {
  const step = fc.record({
    who: fc.constantFrom("a", "b", "c", "d"),
    what: fc.constantFrom<Args | null>(
      ALL,
      ALL,
      { clients: [] },
      { clients: "default", onDelete: "keep" },
      null,
    ),
  });
  let held = 0;
  await fc.assert(
    fc.asyncProperty(fc.array(step, { minLength: 3, maxLength: 10 }), fc.boolean(), async (steps, apart) => {
      const host = new HostModel();
      const stacks = new Map<string, Stack>();
      const together = new Stack(host, "GuiDomain", "one");
      const wants: Record<string, Args> = {};
      for (const { who, what } of steps) {
        // What is kept goes on naming it: another story.
        if (wants[who]?.["onDelete"] === "keep") wants[who] = { clients: wants[who]?.["clients"] ?? [] };
        if (what) wants[who] = { ...what, onDelete: "restore" };
        else delete wants[who];
        if (apart) {
          const stack = stacks.get(who) ?? new Stack(host, "GuiDomain", who);
          stacks.set(who, stack);
          const mine: Record<string, Args> = wants[who] ? { [who]: wants[who] } : {};
          await stack.up(mine);
          await stack.settled(mine);
        } else {
          await together.up(wants);
          await together.settled(wants);
        }
        const wanting = Object.keys(wants).filter((name) => wants[name]?.["clients"] === "default");
        const now = globalOf(host) ?? "";
        if (wanting.length === 0) assert.is(now, "dom0");
        else assert.ok(wanting.includes(now), `${now} does not want it; ${wanting} do`);
        if (wanting.length > 1) held++;
        const entry = host.snapshot().ledger["global:default_guivm"];
        assert.is(entry ? 1 + (entry.waiting?.length ?? 0) : 0, wanting.length);
        if (entry) assert.equal(entry.first, { default: false, value: "dom0" });
      }
    }),
    { numRuns: 40 },
  );
  assert.ok(held > 40, `too few cases with several: ${held}`);
});

test.run();
