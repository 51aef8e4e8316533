/** The resource `guidomain:index:Host`: the facts of one machine. It changes nothing. Design §2. */
import * as v from "valibot";
import { HostError } from "../host/errors.ts";
import type { Snapshot } from "../host/protocol.ts";
import { oneOf } from "../model/fields.ts";
import { hostNameFault } from "../model/names.ts";
import { platformOf } from "../model/platform.ts";
import { bootDisplay, bridgePath, pciTree } from "../pci/tree.ts";
import { verdictGpu } from "../pci/verdict.ts";
import { fingerprintOf } from "../plan/fingerprint.ts";
import { requireHost, requireQubes } from "../plan/preflight.ts";
import { diffByPath, replacing } from "./diff.ts";
import { type Context, type Handler, hasUnknown, type Properties } from "./handler.ts";
import type { HostAccess } from "./hosts.ts";

const Unreachable = oneOf("fail", "skip");

export function hostHandler(hosts: HostAccess): Handler {
  return {
    async check(news, _olds, { name: resource }) {
      const { name = resource, unreachable = "fail", ...rest } = news;
      const failures = Object.keys(rest).map((property) => ({
        property,
        reason:
          "not a property of a host; allowed are name, unreachable. How a host is reached stands in the configuration (guidomain:hosts)",
      }));
      const inputs = { name, unreachable };
      if (hasUnknown(inputs)) return { inputs, failures };
      const fault = typeof name === "string" ? hostNameFault(name) : "give a name";
      if (fault) failures.push({ property: "name", reason: fault });
      else {
        const unknown = hosts.unknownName(String(name));
        if (unknown) failures.push({ property: "name", reason: unknown });
      }
      const { issues = [] } = v.safeParse(Unreachable, unreachable);
      for (const { message } of issues) failures.push({ property: "unreachable", reason: message });
      return { inputs, failures };
    },

    async diff({ oldInputs, news }) {
      return { changes: replacing(diffByPath(oldInputs, news), ["name"]) };
    },

    async create(inputs, context) {
      const name = String(inputs["name"]);
      return { id: name, outputs: { ...inputs, ...(await look(name, context)) } };
    },

    async read({ id, outputs, inputs }, context) {
      const kept = Object.keys(inputs).length ? inputs : { name: id, unreachable: "fail" };
      try {
        return { id, inputs: kept, outputs: { ...kept, ...(await look(id, context, outputs)) } };
      } catch (error) {
        if (inputs["unreachable"] !== "skip" || !(error instanceof HostError) || error.kind !== "unreachable")
          throw error;
        hosts.notLookedAt(id, error, context);
        return { id, inputs, outputs: { ...outputs, looked: false } };
      }
    },

    async update({ oldOutputs, news }) {
      return { ...oldOutputs, ...news };
    },

    async delete() {}, // a description of a machine; the machine stays
  };

  async function look(name: string, context: Context, olds: Properties = {}): Promise<Properties> {
    const snapshot = await hosts.snapshot(name, [], context, olds["connection"]);
    return { ...factsOf(name, snapshot), looked: true, connection: hosts.connection(name) };
  }
}

/** What a program can build on; figures that differ at each look (free memory, clock) are left out. */
function factsOf(name: string, snapshot: Snapshot): Properties {
  const platform = requireHost(`Host ${name}`, name, snapshot);
  const { facts } = snapshot;
  const release = platform === "xen" ? (facts.release ?? null) : requireQubes(`Host ${name}`, name, snapshot);
  const templates = Object.entries(snapshot.qubes).flatMap(([qube, { class: is }]) =>
    is === "TemplateVM" ? [qube] : [],
  );
  const { boot } = facts;
  const tree = pciTree(facts.pci);
  return {
    platform,
    release,
    kernel: facts.kernel,
    xen: facts.xen.version,
    virtCaps: facts.xen.virtCaps,
    totalMemory: facts.xen.totalMemory,
    iommu: facts.xen.iommu,
    interruptRemapping: facts.xen.interruptRemapping,
    templates,
    domains: platform === "xen" ? Object.keys(snapshot.qubes).sort() : [],
    pci: facts.pci.map(({ name: label, disks, nets, bridge: _, ...fn }) => ({
      ...fn,
      name: label,
      path: bridgePath(tree, { ...fn, name: label, disks, nets, bridge: _ }),
      disks,
      nets,
    })),
    modes: modesOn(snapshot, templates),
    oneShotBoot: boot.oneShot,
    oneShotBootWhy: boot.oneShotWhy,
    unattendedBoot: boot.unattended,
    unattendedBootWhy: boot.unattendedWhy,
    fingerprint: { ...fingerprintOf(snapshot) },
    guard: guardOf(snapshot),
  };
}

/** What each display mode has for and against it there, before anything is described; "gpu" for the display that a person looks at. */
function modesOn(snapshot: Snapshot, templates: string[]): Properties {
  const isXen = platformOf(snapshot.facts) === "xen";
  const lacking = templates.length || isXen ? [] : ["no template is installed"];
  const simple = { verdict: lacking.length ? "no" : "go", reasons: lacking };
  const rdp = isXen ? { verdict: "no", reasons: ["guidomain puts no server inside a domain of xl"] } : simple;
  const display = bootDisplay(pciTree(snapshot.facts.pci));
  if (!display)
    return {
      gpu: {
        verdict: snapshot.facts.pci.length ? "unknown" : "no",
        reasons: ["which display a person looks at is not known; select one"],
      },
      xephyr: simple,
      vnc: simple,
      rdp,
    };
  const { verdict, reasons } = verdictGpu(snapshot.facts, display);
  return {
    gpu: {
      verdict: lacking.length ? "no" : verdict,
      reasons: [...lacking, ...reasons.filter((r) => r.effect !== "go").map((r) => r.text)],
    },
    xephyr: simple,
    vnc: simple,
    rdp,
  };
}

/** What the guard watches over, and what it did last without anybody asking. */
function guardOf({ watch, outcome }: Snapshot): Properties {
  return {
    watches: watch?.qube ?? null,
    outcome: outcome && { what: outcome.what, why: outcome.why, left: Object.keys(outcome.left) },
  };
}
