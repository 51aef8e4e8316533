/** The package's schema: what every property means. The classes of `src/resources` name the same; a test compares. */
import { MODES } from "../model/modes.ts";

interface Property {
  type?: "string" | "boolean" | "integer" | "number" | "array" | "object";
  description: string;
  items?: object;
  additionalProperties?: object;
  oneOf?: object[];
  $ref?: string;
}

const text = { type: "string" as const };
const list = { type: "array" as const, items: text };
const any = { $ref: "pulumi.json#/Any" };

const guiInputs: Record<string, Property> = {
  host: { ...text, description: "Name of the host, as `guidomain:hosts` or the inventory has it." },
  qube: { ...text, description: "The qube that becomes the GUI domain. Default: the resource's name." },
  display: {
    type: "array",
    items: text,
    description: `Display modes, best first: ${MODES.join(", ")}. Default: xephyr.`,
  },
  clients: {
    oneOf: [text, list],
    ...any,
    description:
      'Qubes whose windows it shows: a list, or "default" for every qube without a GUI domain of its own. Default: none.',
  },
  restartClients: {
    ...text,
    description:
      "never (default) or allowed: whether running clients are restarted so that a change takes effect.",
  },
  session: {
    ...text,
    description: "At dom0's greeter: choose (default), preselect, autologin. Mode xephyr only.",
  },
  sessionUser: { ...text, description: "The user of dom0 that autologin logs in." },
  onDelete: {
    ...text,
    description:
      "restore (default): everything goes back to what it was, a qube that was created is removed. keep: all stays.",
  },
  unreachable: {
    ...text,
    description:
      "fail (default) or skip: whether a host that does not answer ends the run, or is left as it was and reported.",
  },
  template: { ...text, description: "TemplateVM of the qube. Default: fedora-43-xfce." },
  label: { ...text, description: "Colour label. Default: black." },
  memory: { type: "integer", description: "Initial memory, MiB. Default: the host's." },
  maxmem: { type: "integer", description: "Most memory, MiB; 0 switches balancing off. Default: 4000." },
  vcpus: { type: "integer", description: "Virtual processors. Default: the host's." },
  autostart: { type: "boolean", description: "Whether it starts with the host. Default: true." },
  audiovm: {
    ...text,
    description: 'Its audio domain; "" for none. Default: dom0 in mode xephyr, none in mode vnc.',
  },
  hostPackages: {
    ...list,
    description:
      "Packages of dom0 it needs. Default: dummy-psu-sender, in mode xephyr also dummy-backlight-dom0.",
  },
  viewers: {
    ...list,
    description: "Mode vnc: qubes that may reach the display through qubes.ConnectTCP +5900.",
  },
};

const guiOutputs: Record<string, Property> = {
  ...guiInputs,
  settings: {
    ...any,
    description: "Every value on the host that follows from the arguments; a preview is a diff of these.",
  },
  mode: { ...text, description: "The display mode in force." },
  state: {
    ...text,
    description:
      "ready: set up and checked. inUse: a session runs. drifted, unverified, failed: as they say.",
  },
  attempts: { type: "array", items: any, description: "Modes that were tried: mode, verdict, reason." },
  pending: {
    type: "array",
    items: any,
    description: "What is needed before all takes effect: kind, qubes, why.",
  },
  evidence: { type: "array", items: any, description: "What each check saw: id, ok, seconds, output." },
  origin: {
    ...text,
    description: "created: this resource made the qube. adopted: it was there before, and stays.",
  },
  looked: {
    type: "boolean",
    description: "false: the host did not answer, this is the state of the last time.",
  },
  connection: {
    ...any,
    description: "How the host was reached, without secrets; used when the configuration no longer names it.",
  },
};

const hostInputs: Record<string, Property> = {
  name: { ...text, description: "The host's name in the configuration. Default: the resource's name." },
  unreachable: { ...text, description: "fail (default) or skip, as for a GUI domain." },
};

const hostOutputs: Record<string, Property> = {
  ...hostInputs,
  platform: { ...text, description: "qubes." },
  release: { ...text, description: "R4.3." },
  kernel: { ...text, description: "dom0's kernel." },
  xen: { ...text, description: "Xen's version." },
  virtCaps: { ...list, description: "What `xl info` says of virtualisation." },
  totalMemory: { type: "integer", description: "MiB." },
  iommu: { type: "boolean", description: "null: unknown, the hypervisor's messages have been overwritten." },
  interruptRemapping: { type: "boolean", description: "null: unknown." },
  templates: { ...list, description: "Installed templates." },
  pci: {
    type: "array",
    items: any,
    description: "PCI functions: sbdf, port, class, vendor, device, subsystem, name.",
  },
  modes: { ...any, description: "Verdict and reasons by display mode." },
  looked: { type: "boolean", description: "false: the host did not answer, this is what the last look saw." },
  connection: { ...any, description: "How the host was reached, without secrets." },
};

export function schemaOf(version: string): object {
  const config = {
    hosts: {
      ...any,
      description:
        "How hosts are reached, by name: address, port, user, identityFile or agent, hostKey or knownHosts, via, proxyCommand.",
    },
    inventory: { ...text, description: "A YAML file with the same under `hosts`." },
  };
  return {
    name: "guidomain",
    version,
    description: "GUI domains as code for Qubes OS and Xen hosts.",
    license: "Apache-2.0",
    config: { variables: config },
    provider: { inputProperties: config },
    resources: {
      "guidomain:index:Host": {
        description: "The facts of one machine.",
        inputProperties: hostInputs,
        properties: hostOutputs,
        required: ["name", "platform", "release", "kernel", "xen", "templates", "pci", "modes"],
      },
      "guidomain:index:GuiDomain": {
        description: "A GUI domain with its display mode, clients, session and policy.",
        inputProperties: guiInputs,
        requiredInputs: ["host"],
        properties: guiOutputs,
        required: ["host", "qube", "mode", "state", "attempts", "pending", "evidence", "origin"],
      },
    },
  };
}
