/** The resource `guidomain:index:PciAttachment`: a device given to a qube for good, outside any ladder. Design §2, §6. */
import { createHash } from "node:crypto";
import { devicesFormulaOf } from "../formula/formula.ts";
import { HostError } from "../host/errors.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal, sentence } from "../model/failure.ts";
import type { DeviceValue, KeyValue } from "../model/keys.ts";
import { attachmentFaults, type PciAttachment, parsePciAttachment } from "../model/pciAttachment.ts";
import type { Platform } from "../model/platform.ts";
import { assignmentOf, othersOf, type Settings } from "../model/settings.ts";
import { find, type Identity, identityText, parseIdentity, reached } from "../pci/identity.ts";
import type { Selector } from "../pci/selector.ts";
import { pciTree } from "../pci/tree.ts";
import { devicesShown, placeText, type Resolved, resolve } from "../plan/attachment.ts";
import { isNoted, type Plan, planApply, planDelete } from "../plan/changes.ts";
import { liveSettings } from "../plan/live.ts";
import { requireHost } from "../plan/preflight.ts";
import { partsOf, sameValue } from "../plan/values.ts";
import { type Applying, apply } from "./applying.ts";
import { diffByPath, replacing, topLevel, unlessRefused } from "./diff.ts";
import {
  type Context,
  type Handler,
  hasUnknown,
  knownOf,
  PartialFailure,
  type Properties,
  UNKNOWN,
} from "./handler.ts";
import { type ApplyRequest, type HostAccess, inTurn, lookOrSkip } from "./hosts.ts";
import { platformIn } from "./rungRequest.ts";

const REPLACING = ["host", "qube"];
/** They reach the host through `settings` alone; `identities` is what the device was, for the check of the next run. */
const MIRRORED = new Set(["device", "devices", "options", "identities"]);

const plain = (value: object): Properties => JSON.parse(JSON.stringify(value)) as Properties;

export function pciAttachmentHandler(hosts: HostAccess): Handler {
  return inTurn(hosts, {
    async check(news, olds, context) {
      const { settings: _, identities: __, ...args } = news;
      if (hasUnknown(args)) {
        const known = knownOf(args);
        const failures = attachmentFaults(known).filter((f) => known[topLevel(f.property)] !== undefined);
        return { inputs: { ...args, settings: UNKNOWN }, failures };
      }
      const parsed = parsePciAttachment(args);
      if ("faults" in parsed) return { inputs: news, failures: parsed.faults };
      const { attachment } = parsed;
      const inputs = described(attachment, args);
      const known = sameValue(selectorsOf(olds), attachment.devices) ? identitiesOf(olds) : [];
      try {
        const snapshot = await hosts.snapshot(attachment.host, [], context);
        const resolved = resolve(attachment, snapshot, known);
        return { inputs: { ...inputs, ...settled(resolved) }, failures: [] };
      } catch (error) {
        // Whoever needs the host is told: a description can be checked without it.
        if (!(error instanceof HostError || error instanceof Refusal)) throw error;
        // Not unknown: outside a preview the engine takes none, and would say that in place of the reason.
        const { settings = plain({ devices: {} }) } = olds;
        // What other selectors meant says nothing about these.
        const identities = known.length > 0 && { identities: known.map(plain) };
        return { inputs: { ...inputs, settings, ...identities }, failures: [] };
      }
    },

    async diff({ oldInputs, oldOutputs, news }, context) {
      const changes = Object.fromEntries(
        Object.entries(replacing(diffByPath(oldInputs, news), REPLACING)).filter(
          ([path]) => !MIRRORED.has(topLevel(path)),
        ),
      );
      if (oldOutputs["looked"] !== false && !hasUnknown(withoutSettings(news))) {
        const look = await unlessRefused(() => prepare(news, oldOutputs, context));
        if (look === null || look.resolved.stale.length) changes["settings.devices"] = "update";
      }
      return { changes, deleteBeforeReplace: true };
    },

    async create(inputs, context) {
      // What only another resource's apply will tell leaves nothing to judge yet.
      if (context.preview && hasUnknown(inputs)) return { id: "", outputs: inputs };
      const { attachment, resolved, plan, snapshot } = await prepare(inputs, {}, context);
      if (context.preview) {
        announce(attachment, resolved, plan, snapshot, context);
        return { id: "", outputs: { ...inputs, ...settled(resolved) } };
      }
      const id = idOf(attachment, resolved);
      return { id, outputs: await bringUp(id, inputs, {}, context) };
    },

    async read({ id, outputs, inputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const imported = Object.keys(inputs).length === 0;
      const snapshot = await lookOrSkip(hosts, host, { inputs, outputs }, context);
      if (!snapshot) return { id, outputs: { ...outputs, looked: false }, inputs };
      if (!snapshot.qubes[qube]) return null;
      const made = imported ? importedFrom(id, snapshot) : inputs;
      if (!made) return null;
      const attachment = attachmentOf(made);
      const identities = identitiesOf(made);
      let resolved: Resolved;
      try {
        resolved = resolve(attachment, snapshot, identities);
      } catch (error) {
        if (!(error instanceof Refusal)) throw error;
        // The device is gone, or cannot be told: what it was stays, and whoever wants it is refused with that reason.
        context.log(error.message, { severity: "warning" });
        return { id, inputs: made, outputs: { ...outputs, ...made, state: "missing", looked: true } };
      }
      const live = ofDevices(liveSettings(qube, resolved.settings, snapshot));
      const asWanted = sameValue(live, ofDevices(resolved.settings)) && resolved.stale.length === 0;
      const { state: last } = outputs;
      const state =
        last === "failed"
          ? "failed"
          : !asWanted
            ? "drifted"
            : imported
              ? "unverified"
              : (last ?? "unverified");
      return {
        id,
        inputs: {
          ...made,
          settings: live,
          // Still what they were: a move is a difference until an update has followed it.
          identities: (identities.length ? identities : resolved.identities).map(plain),
        },
        outputs: {
          evidence: [],
          ...made,
          ...outputs,
          ...shown(attachment, resolved, snapshot),
          settings: live,
          state: state === "missing" || state === "drifted" ? (asWanted ? "ready" : "drifted") : state,
          looked: true,
          connection: hosts.connection(host),
        },
      };
    },

    async update({ id, oldInputs, oldOutputs, news: asked }, context) {
      if (oldOutputs["looked"] === false && asked["unreachable"] === "skip")
        return { ...oldOutputs, ...asked };
      // The check has followed the device already; from where, only what was there before it tells.
      const isSame = sameValue(selectorsOf(oldInputs), selectorsOf(asked)) && oldInputs["identities"];
      const news = isSame ? { ...asked, identities: oldInputs["identities"] ?? [] } : asked;
      if (!context.preview) return bringUp(id, news, oldOutputs, context);
      const { state: _, evidence: __, pending: ___, ...kept } = oldOutputs;
      if (hasUnknown(news)) return { ...kept, ...news };
      const { attachment, resolved, plan, snapshot } = await prepare(news, oldOutputs, context);
      announce(attachment, resolved, plan, snapshot, context);
      return { ...kept, ...news, ...settled(resolved) };
    },

    async delete({ id, outputs }, context) {
      const [host = "", qube = ""] = id.split("/");
      const connection = outputs["connection"];
      const snapshot = await hosts.snapshot(host, [], context, connection);
      const plan = planDelete(snapshot, context.urn, outputs["onDelete"] === "keep" ? "keep" : "restore");
      if (plan.release.length === 0) return;
      const resource = `PCI attachment ${context.name}`;
      await apply(
        { hosts, host, resource, context, connection },
        requestOf(qube, context, plan, [], platformIn(snapshot)),
      );
    },

    abandoned(request, { signal, name }) {
      const why = signal.reason instanceof Error ? signal.reason.message : "stopped";
      const inputs = request.operation === "update" ? request.news : request.inputs;
      const id = request.operation === "create" ? idOfInputs(inputs) : request.id;
      const reason = sentence({
        resource: `PCI attachment ${name}`,
        host: String(inputs["host"]),
        what: why,
        changed: "The host puts back by itself what was half done, and then gives its lock back",
        next: 'Run "pulumi up" again to go on',
      });
      const before =
        request.operation === "create" ? {} : "oldOutputs" in request ? request.oldOutputs : request.outputs;
      return {
        id,
        outputs: { ...before, ...inputs, state: "failed", pending: [], evidence: [] },
        reasons: [reason],
      };
    },
  });

  /** What the description means there now, and what that takes; refused where it cannot work. */
  async function prepare(inputs: Properties, olds: Properties, context: Context) {
    const attachment = attachmentOf(inputs);
    const { host, qube } = attachment;
    const snapshot = await hosts.snapshot(host, [], context, olds["connection"]);
    requireHost(`PCI attachment ${context.name}`, host, snapshot);
    const resolved = resolve(attachment, snapshot, identitiesOf(inputs));
    const plan = planApply(qube, resolved.settings, snapshot, context.urn);
    const given = Object.values(resolved.settings.devices).map((device) => `given:${device.port}`);
    hosts.claims.claim(
      host,
      context.urn,
      `PCI attachment ${context.name}`,
      [...plan.touch, ...given],
      snapshot,
    );
    return { attachment, snapshot, resolved, plan };
  }

  function announce(
    attachment: PciAttachment,
    { moves, notices, stale }: Resolved,
    plan: Plan,
    snapshot: Snapshot,
    context: Context,
  ): void {
    const { qube } = attachment;
    for (const { from, to } of moves) context.log(`the device moved: ${placeText(from)} → ${placeText(to)}`);
    if (plan.changes.length) for (const { text, severity } of notices) context.log(text, { severity });
    for (const key of stale)
      context.log(
        `an assignment to ${qube} that reaches ${partsOf(key).name.startsWith("*:") ? "not just what is asked for" : "nothing any more"} is taken away: ${partsOf(key).name}`,
      );
    if (plan.changes.length && snapshot.qubes[qube]?.state !== "Halted")
      context.log(`${qube} runs: it gets the device when it restarts. Nothing is ever restarted for you`);
  }

  async function bringUp(
    id: string,
    inputs: Properties,
    olds: Properties,
    context: Context,
  ): Promise<Properties> {
    const { attachment, snapshot, resolved, plan } = await prepare(inputs, olds, context);
    const { host, qube } = attachment;
    announce(attachment, resolved, plan, snapshot, context);
    const outputs = (now: Snapshot, more: Properties): Properties => ({
      ...inputs,
      ...settled(resolved),
      ...shown(attachment, resolved, now),
      state: "ready",
      evidence: olds["evidence"] ?? [],
      looked: true,
      connection: hosts.connection(host),
      ...more,
    });
    const claimed = isNoted(plan, snapshot, context.urn);
    const isDone = plan.changes.length + plan.release.length + resolved.stale.length === 0;
    if (claimed && isDone && olds["state"] !== "failed") return outputs(snapshot, {});
    const applying: Applying = {
      hosts,
      host,
      resource: `PCI attachment ${context.name}`,
      context,
      connection: olds["connection"],
      partial: (reason) =>
        new PartialFailure({
          id,
          outputs: {
            ...olds,
            ...inputs,
            state: "failed",
            pending: [],
            evidence: [],
            looked: true,
            connection: hosts.connection(host),
          },
          reasons: [reason],
        }),
    };
    const request = requestOf(qube, context, plan, resolved.stale, platformIn(snapshot));
    const verify = resolved.functions.map(({ sbdf }) => ({
      kind: "host" as const,
      id: `${sbdf} is in the machine`,
      argv: ["test", "-e", `/sys/bus/pci/devices/${sbdf}`],
      timeout: 30,
    }));
    const result = await apply(applying, { ...request, verify });
    return outputs(result.snapshot, { evidence: result.evidence.map(plain) });
  }
}

/** `stale`: assignments that go without being anybody's. */
function requestOf(
  qube: string,
  context: Context,
  plan: Plan,
  stale: string[],
  platform: Platform,
): ApplyRequest {
  const assign: Record<string, Record<string, string>> = {};
  const unassign = stale.map((key) => partsOf(key).name);
  const assignable: { add: string[]; remove: string[] } = { add: [], remove: [] };
  const put = (key: string, value: KeyValue) => {
    const { kind, name } = partsOf(key);
    if (kind === "assignable") assignable[value === null ? "remove" : "add"].push(name);
    else if (value === null) unassign.push(name);
    else assign[name] = (value as DeviceValue).options;
  };
  for (const { wish } of plan.changes) put(wish.key, wish.value);
  for (const { key, to } of plan.restores) put(key, to);
  const isNothing =
    Object.keys(assign).length + unassign.length + assignable.add.length + assignable.remove.length === 0;
  const name = shortName(context.urn);
  const formula = devicesFormulaOf({ platform, qube, name, assign, unassign, assignable });
  return {
    owner: context.urn,
    touch: [...plan.touch, ...stale],
    release: [...plan.release, ...stale],
    shutdown: [],
    formula: isNothing ? {} : formula.files,
    sls: isNothing ? "" : formula.sls,
    verify: [],
    restart: [],
  };
}

/** A resource's own part of a path on the host: names of resources may hold anything. */
const shortName = (urn: string) => createHash("sha256").update(urn).digest("hex").slice(0, 12);

const idOf = ({ host, qube }: PciAttachment, { identities }: Resolved) =>
  `${host}/${qube}/${identities.map(identityText).join(",")}`;
const idOfInputs = (inputs: Properties) =>
  `${inputs["host"]}/${inputs["qube"]}/${identitiesOf(inputs).map(identityText).join(",")}`;

/** Device by device as the program spells it, so that a difference shows where the program has it. */
function described(attachment: PciAttachment, args: Properties): Properties {
  const { device, devices, options } = args;
  const { host, qube, onDelete, unreachable } = attachment;
  return {
    host,
    qube,
    ...(device !== undefined && { device }),
    ...(devices !== undefined && { devices }),
    ...(options !== undefined && { options }),
    onDelete,
    unreachable,
  };
}

const withoutSettings = ({ settings: _, ...inputs }: Properties) => inputs;

function attachmentOf(inputs: Properties): PciAttachment {
  const { settings: _, identities: __, ...args } = inputs;
  const parsed = parsePciAttachment(args);
  if ("faults" in parsed)
    throw new Error(
      `the state does not describe a PCI attachment: ${parsed.faults.map((f) => `${f.property}: ${f.reason}`).join("; ")}`,
    );
  return parsed.attachment;
}

function selectorsOf(inputs: Properties): Selector[] | null {
  const { settings: _, identities: __, ...args } = inputs;
  const parsed = parsePciAttachment(args);
  return "faults" in parsed ? null : parsed.attachment.devices;
}

const identitiesOf = ({ identities }: Properties): Identity[] =>
  Array.isArray(identities) ? (identities as unknown as Identity[]) : [];

/** Of settings what an attachment speaks of. */
const ofDevices = ({ devices, assignable }: Settings): Properties =>
  plain({ devices, ...(assignable && { assignable }) });

const settled = ({ settings, identities }: Resolved): Properties => ({
  settings: ofDevices(settings),
  identities: identities.map(plain),
});

/** Outputs that the live host tells. */
function shown({ qube }: PciAttachment, resolved: Resolved, snapshot: Snapshot): Properties {
  const started = Number(snapshot.qubes[qube]?.properties["start_time"]?.value || "NaN");
  const isRunning = (snapshot.qubes[qube]?.state ?? "Halted") !== "Halted";
  const changed = Object.entries(resolved.settings.devices)
    .flatMap(([name, device]) => [assignmentOf(name, device), ...othersOf(name, device)])
    .some((name) => {
      const entry = snapshot.ledger[`device:${qube}:${name}`];
      return entry && !(started >= entry.at);
    });
  return {
    attached: devicesShown(resolved, snapshot).map(plain),
    pending:
      isRunning && changed
        ? [{ kind: "restart", qubes: [qube], why: "it gets the device when it restarts" }]
        : [],
  };
}

/** What the id says, where the qube has it: "host/qube/00_14.0:8086:a0ed:0c0330", several with commas between. */
function importedFrom(id: string, snapshot: Snapshot): Properties | null {
  const [host = "", qube = "", ...rest] = id.split("/");
  const resource = `PCI attachment to ${qube}`;
  const tree = pciTree(snapshot.facts.pci);
  const identities = rest
    .join("/")
    .split(",")
    .map((text) => {
      const identity = parseIdentity(text);
      if (identity) return identity;
      throw new Refusal({
        resource,
        host,
        what: `${JSON.stringify(text)} does not say what device it is`,
        next: "Give host/qube/PORT:VENDOR:DEVICE:CLASS, such as lab/sys-usb/00_14.0:8086:a0ed:0c0330",
      });
    });
  const found = identities.map((identity) => find(tree, identity));
  const lost = found.find((one) => "refused" in one);
  if (lost && "refused" in lost) throw new Refusal({ resource, host, ...lost.refused });
  const functions = found.flatMap((one) => ("fn" in one ? [one.fn] : []));
  const options: Record<string, boolean> = {};
  for (const fn of functions) {
    const is = snapshot.qubes[qube]?.pci.find((one) => reached(tree, one).includes(fn));
    if (!is) return null; // not assigned: there is nothing to import
    options["permissive"] = Boolean(is.options["permissive"]);
    options["noStrictReset"] = Boolean(is.options["no-strict-reset"]);
  }
  const selectors = functions.map((fn) => ({
    vendor: fn.vendor,
    device: fn.device,
    address: fn.port ?? fn.sbdf,
  }));
  const [only, ...more] = selectors;
  return plain({
    host,
    qube,
    ...(more.length ? { devices: selectors } : { device: only }),
    options,
    onDelete: "restore",
    unreachable: "fail",
  });
}
