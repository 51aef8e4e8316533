/** The resource `guidomain:index:Host`: the facts of one machine. It changes nothing. Design §2. */
import { z } from "zod";
import { HostError } from "../host/errors.ts";
import type { Snapshot } from "../host/protocol.ts";
import { oneOf } from "../model/fields.ts";
import { MODES } from "../model/modes.ts";
import { hostNameFault } from "../model/names.ts";
import { requireQubes } from "../plan/preflight.ts";
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
      const parsed = Unreachable.safeParse(unreachable);
      if (!parsed.success) failures.push({ property: "unreachable", reason: z.prettifyError(parsed.error) });
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
  const release = requireQubes(`Host ${name}`, name, snapshot);
  const { facts } = snapshot;
  const templates = Object.entries(snapshot.qubes).flatMap(([qube, { class: is }]) =>
    is === "TemplateVM" ? [qube] : [],
  );
  const reasons = templates.length ? [] : ["no template is installed"];
  return {
    platform: "qubes",
    release,
    kernel: facts.kernel,
    xen: facts.xen.version,
    virtCaps: facts.xen.virtCaps,
    totalMemory: facts.xen.totalMemory,
    iommu: facts.xen.iommu,
    interruptRemapping: facts.xen.interruptRemapping,
    templates,
    pci: facts.pci.map(({ sbdf, port, class: cls, vendor, device, subsystem, name: label }) => ({
      sbdf,
      port,
      class: cls,
      vendor,
      device,
      subsystem,
      name: label,
    })),
    modes: Object.fromEntries(
      MODES.map((mode) => [mode, { verdict: reasons.length ? "no" : "go", reasons }]),
    ),
  };
}
