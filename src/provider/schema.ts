/** The package's schema: what every property means. The classes of `src/resources` name the same; a test compares. */
import { MODES } from "../model/modes.ts";

interface Property {
  type?: "string" | "boolean" | "integer" | "number" | "array" | "object";
  description: string;
  items?: object;
  additionalProperties?: object;
  oneOf?: object[];
  $ref?: string;
  secret?: boolean;
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
    description: `The ladder, best first: ${MODES.join(", ")}; "dom0" (the host's own screen, as before) may be the last. Default: xephyr.`,
  },
  gpu: {
    ...any,
    description:
      "The display that mode gpu gives away, by what it is: class, vendor, device, subsystem, position, address, driver. Default: the one that the firmware lit.",
  },
  reboot: {
    ...text,
    description:
      "never (default): what needs a boot is staged and listed in pending. allowed: the machine may restart to prove a mode.",
  },
  retry: {
    oneOf: [text, { type: "number" }],
    ...any,
    description: "A mode that failed is tried again when this changes.",
  },
  onFallback: {
    ...text,
    description:
      "When another mode than the best came up: warn (default), accept, or fail (the run fails with the fallback in place).",
  },
  limits: {
    ...any,
    description:
      "Seconds: start (120) of the qube, checks (30) for each check, boot (900) from the start of a boot until all is proved.",
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
  memory: {
    type: "integer",
    description: "Initial memory, MiB. Default: the host's; 2000 in mode gpu, which takes no less.",
  },
  maxmem: {
    type: "integer",
    description: "Most memory, MiB; 0 switches balancing off. Default: 4000; always 0 in mode gpu.",
  },
  vcpus: { type: "integer", description: "Virtual processors. Default: the host's." },
  autostart: { type: "boolean", description: "Whether it starts with the host. Default: true." },
  audiovm: {
    ...text,
    description: 'Its audio domain; "" for none. Default: dom0 in mode xephyr, else none.',
  },
  hostPackages: {
    ...list,
    description:
      "Packages of dom0 it needs. Default: dummy-psu-sender, in mode xephyr also dummy-backlight-dom0, in mode gpu qubes-input-proxy-sender.",
  },
  viewers: {
    ...list,
    description:
      "Modes vnc and rdp: qubes that may reach the remote screen through qubes.ConnectTCP (+5900 or +3389).",
  },
  login: {
    ...any,
    secret: true,
    description:
      'The password of a user inside it, at the greeter, the lock screen and by RDP: { password, user } ("user" unless given), or { follow: "dom0", user }: that of a user of dom0, whatever it is.',
  },
  remote: {
    ...any,
    secret: true,
    description: "Mode vnc: password, 6 to 8 characters, that is asked of who connects. Needed with viewers.",
  },
  input: {
    ...any,
    description:
      "Which keyboards and mice reach its screen. dom0: allow or deny, its own devices, in mode gpu. usb: a list of qube, mouse, keyboard, tablet (each allow, ask or deny), and devices with the same of single devices. Default: those that reach dom0 without it.",
  },
  level: {
    ...text,
    description:
      "What this GUI domain, and so the person at it, may ask of the host: admin, operator, user, guest or kiosk. Default: what the host's policy says without one.",
  },
  apps: {
    type: "array",
    items: any,
    description: "Level kiosk: all that it may start, each app in a qube or in a new disposable.",
  },
  rules: { ...list, description: "Lines of qrexec policy about what it may ask, before those of its level." },
  power: {
    ...list,
    description:
      "What the person at it may do to the machine: shutdown, reboot, suspend. Default: all at levels admin and operator, else nothing.",
  },
  layout: {
    type: "array",
    items: any,
    description:
      "Mode gpu: how its screens lie, each { output, mode, position, primary, rotate }. Default: as X finds them.",
  },
  suspend: {
    ...text,
    description:
      "allowed (default), or blocked: the host does not sleep, neither by its lid nor when somebody asks.",
  },
  domain: {
    ...any,
    description:
      "Plain Xen alone: what the domain is made of: type (pv, hvm, pvh), kernel, ramdisk, cmdline, disks, networks, display (the VNC display of its framebuffer, 5), reports (what it tells of itself: pci, screen).",
  },
};

const guiOutputs: Record<string, Property> = {
  ...guiInputs,
  settings: {
    ...any,
    description: "Every value on the host that follows from the arguments; a preview is a diff of these.",
  },
  mode: {
    ...text,
    description: "The display mode in force; dom0: the host's own screen, none: after a failure.",
  },
  state: {
    ...text,
    description:
      "ready: set up and checked. inUse: a session runs. staged: it waits for a reboot. rescued: a boot did not bring it up, and the host went back by itself. drifted, unverified, failed: as they say.",
  },
  rights: {
    ...any,
    description:
      "With a level: groups of what it may (allowed) and may not (denied), and what it may beyond its level by an earlier rule of somebody else (wider).",
  },
  attempts: {
    type: "array",
    items: any,
    description:
      "Each rung of the ladder: mode, verdict (ok, refused, failed, staged, skipped), reason, and the evidence of one that failed.",
  },
  remembered: {
    type: "array",
    items: any,
    description: "Modes that failed, and under what circumstances; they are tried again when these change.",
  },
  endpoint: {
    ...any,
    description: "Modes vnc and rdp: protocol, qube, address and port of the remote screen, and its viewers.",
  },
  screens: {
    ...list,
    description: "Mode gpu: connectors that were lit before, and are lit after.",
  },
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

/** What means the same as for a GUI domain. */
const same = (name: string) => guiInputs[name] as Property;

const audioInputs: Record<string, Property> = {
  host: same("host"),
  qube: { ...text, description: "The qube that becomes the audio domain. Default: the resource's name." },
  shared: {
    type: "boolean",
    description:
      "true: the qube has another purpose already, and only what makes it an audio domain is changed. Default: false.",
  },
  domain: same("domain"),
  devices: {
    ...any,
    description:
      "Its sound devices, one selector or a list. Default: class audio, all but those of a display; none where it is shared.",
  },
  usb: {
    ...any,
    description:
      "Single USB devices of USB qubes, one or a list: qube (sys-usb), vendor, device; port, or wherever it is plugged in there.",
  },
  clients: {
    oneOf: [text, list],
    ...any,
    description:
      'Qubes whose sound it plays: a list, or "default" for every qube without an audio domain of its own. Default: none.',
  },
  restartClients: {
    ...text,
    description:
      "never (default) or allowed: whether running clients that cannot be told of their new audio domain are restarted.",
  },
  microphone: {
    ...text,
    description: "denied (default) or allowed: whether its desktop may give its clients the microphone.",
  },
  emulated: {
    ...list,
    description: "HVM clients without Qubes' agent, which get an emulated sound card.",
  },
  bluetooth: {
    type: "boolean",
    description:
      "Whether it plays on headsets that are paired with it, and keeps its pairings. Default: false.",
  },
  retry: {
    oneOf: [text, { type: "number" }],
    ...any,
    description: "What did not work is tried again when this changes.",
  },
  onFallback: {
    ...text,
    description:
      "When the sound has to stay where it was: warn (default), accept, or fail (the run fails with that in place).",
  },
  limits: { ...any, description: "Seconds: start (120) of the qube, checks (30) for each check." },
  onDelete: same("onDelete"),
  unreachable: same("unreachable"),
  template: same("template"),
  label: same("label"),
  memory: {
    type: "integer",
    description: "Memory, MiB; it does not change while the qube runs. Default: 400.",
  },
  vcpus: same("vcpus"),
  autostart: same("autostart"),
};

const audioOutputs: Record<string, Property> = {
  ...audioInputs,
  settings: {
    ...any,
    description: "Every value on the host that follows from the arguments; a preview is a diff of these.",
  },
  sound: { ...text, description: "The qube to which the clients' sound goes now." },
  state: {
    ...text,
    description:
      "ready: set up and checked. inUse: a stream of a client was seen. staged: its qube has to start anew before clients are sent to it. fallback: the sound stayed where it was. drifted, unverified, failed: as they say.",
  },
  attempts: {
    type: "array",
    items: any,
    description:
      "audio, and before where the sound stayed: verdict (ok, refused, failed, staged), reason, evidence of one that failed.",
  },
  remembered: {
    ...any,
    description: "What did not work, and under what circumstances; it is tried again when these change.",
  },
  attached: {
    type: "array",
    items: any,
    description: "Its sound devices now: name, sbdf, port, options, siblings that share the reset.",
  },
  streams: {
    type: "array",
    items: any,
    description: "Clients whose stream the last run has seen, while both qubes run since.",
  },
  pending: {
    type: "array",
    items: any,
    description:
      "What is needed before all takes effect: kind (restart, session, bluetooth, usb), qubes, why.",
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
  connection: { ...any, description: "How the host was reached, without secrets." },
};

const accessInputs: Record<string, Property> = {
  host: { ...text, description: "Name of the host, as `guidomain:hosts` or the inventory has it." },
  guiDomain: { ...text, description: "The GUI domain's qube; it has a level." },
  rules: {
    ...list,
    description: "Lines of qrexec policy about what it and its qubes may ask, before those of the level.",
  },
  onDelete: {
    ...text,
    description: "restore (default): the rules go, what was there before comes back. keep: all stays.",
  },
  unreachable: { ...text, description: "fail (default) or skip, as for a GUI domain." },
};

const accessOutputs: Record<string, Property> = {
  ...accessInputs,
  settings: { ...any, description: "The file; a preview is a diff of it." },
  policy: { ...text, description: "The policy as it stands on the host." },
  allowed: {
    ...list,
    description: "Of the questions that the rules speak of, those that the host's whole policy allows.",
  },
  denied: { ...list, description: "Those that it denies." },
  state: { ...text, description: "ready, drifted, unverified (imported), failed." },
  evidence: { type: "array", items: any, description: "What each check saw: id, ok, seconds, output." },
  looked: {
    type: "boolean",
    description: "false: the host did not answer, this is the state of the last time.",
  },
  connection: { ...any, description: "How the host was reached, without secrets." },
};

const attachmentInputs: Record<string, Property> = {
  host: { ...text, description: "Name of the host, as `guidomain:hosts` or the inventory has it." },
  qube: { ...text, description: "The qube that gets the device, each time it starts." },
  device: {
    ...any,
    description:
      "The device by what it is: class, vendor, device, subsystem, position, address, driver. Class usb or audio may name several.",
  },
  devices: { type: "array", items: any, description: "Several, each by what it is; instead of device." },
  options: {
    ...any,
    description:
      "permissive, noStrictReset. Default: what the device needs there (noStrictReset where it has no reset of its own).",
  },
  onDelete: {
    ...text,
    description: "restore (default): the assignment goes, what was there before comes back. keep: all stays.",
  },
  unreachable: { ...text, description: "fail (default) or skip, as for a GUI domain." },
};

const attachmentOutputs: Record<string, Property> = {
  ...attachmentInputs,
  settings: { ...any, description: "Place and options by identity; a preview is a diff of these." },
  identities: {
    type: "array",
    items: any,
    description: "What each device was when it was attached; it is followed when it moves.",
  },
  attached: {
    type: "array",
    items: any,
    description: "Each device now: name, sbdf, port, identity, options, siblings that share its reset.",
  },
  state: {
    ...text,
    description: "ready, drifted, missing (not in the machine any more), unverified (imported), failed.",
  },
  pending: { type: "array", items: any, description: "restart: the qube gets the device when it restarts." },
  evidence: { type: "array", items: any, description: "What each check saw: id, ok, seconds, output." },
  looked: {
    type: "boolean",
    description: "false: the host did not answer, this is the state of the last time.",
  },
  connection: { ...any, description: "How the host was reached, without secrets." },
};

const templateInputs: Record<string, Property> = {
  host: { ...text, description: "Name of the host, as `guidomain:hosts` or the inventory has it." },
  qube: { ...text, description: "The template. Default: the resource's name." },
  modes: {
    ...list,
    description: 'Display modes of the GUI domains made from it: gpu, xephyr, vnc, rdp. Default: ["xephyr"].',
  },
  audio: { type: "boolean", description: "Whether audio domains are made from it too. Default: false." },
  packages: { ...list, description: "More packages, as the template's own package manager names them." },
  timeout: { type: "integer", description: "Seconds that Salt may take in it. Default: 3600." },
  onDelete: {
    ...text,
    description: "restore (default): what was brought goes again. keep: all stays.",
  },
  unreachable: { ...text, description: "fail (default) or skip, as for a GUI domain." },
};

const templateOutputs: Record<string, Property> = {
  ...templateInputs,
  settings: {
    ...any,
    description:
      "distribution, packages, files, units, and a digest of them and of the template's installation; a preview is a diff of these.",
  },
  brought: { ...list, description: "Packages that were not there before; delete removes these." },
  state: { ...text, description: "ready, drifted, unverified (imported), failed." },
  pending: { type: "array", items: any, description: "restart: qubes made from it that run since before." },
  evidence: { type: "array", items: any, description: "What was done inside: id, ok, seconds, output." },
  looked: {
    type: "boolean",
    description: "false: the host did not answer, this is the state of the last time.",
  },
  connection: { ...any, description: "How the host was reached, without secrets." },
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
  domains: { ...list, description: "Plain Xen: domains that run or have a configuration." },
  pci: {
    type: "array",
    items: any,
    description:
      "PCI functions: sbdf, port, path, class, vendor, device, subsystem, name, parent, driver, module, reset, bootVga, rom, outputs, inputs, disks, nets.",
  },
  modes: {
    ...any,
    description:
      "Verdict (go, options, unknown, no) and reasons by display mode; of gpu for the display that a person looks at.",
  },
  oneShotBoot: {
    type: "boolean",
    description:
      "Whether it can boot an entry once and come back by itself; null: unknown. Without it mode gpu is refused.",
  },
  oneShotBootWhy: { ...text, description: "What that rests on." },
  unattendedBoot: {
    type: "boolean",
    description: "Whether it boots without anybody typing a passphrase; null: unknown.",
  },
  unattendedBootWhy: { ...text, description: "What that rests on." },
  fingerprint: {
    ...any,
    description:
      "GPU, firmware, Xen and kernel: a display mode that failed is tried again when this changes.",
  },
  guard: {
    ...any,
    description:
      "watches: the qube that each boot must bring up. outcome: what the host did last without anybody asking.",
  },
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
      "guidomain:index:AudioDomain": {
        description: "An audio domain with its sound devices, clients and policy.",
        inputProperties: audioInputs,
        requiredInputs: ["host"],
        properties: audioOutputs,
        required: ["host", "qube", "sound", "state", "attempts", "pending", "evidence", "origin"],
      },
      "guidomain:index:Access": {
        description: "Rules of one's own on top of a GUI domain's level.",
        inputProperties: accessInputs,
        requiredInputs: ["host", "guiDomain", "rules"],
        properties: accessOutputs,
        required: ["host", "guiDomain", "rules", "policy", "allowed", "denied", "state", "evidence"],
      },
      "guidomain:index:PciAttachment": {
        description: "A PCI device given to a qube for good, outside any ladder.",
        inputProperties: attachmentInputs,
        requiredInputs: ["host", "qube"],
        properties: attachmentOutputs,
        required: ["host", "qube", "attached", "state", "pending", "evidence"],
      },
      "guidomain:index:Template": {
        description: "A template as the GUI domains and audio domains made from it need it.",
        inputProperties: templateInputs,
        requiredInputs: ["host"],
        properties: templateOutputs,
        required: ["host", "qube", "modes", "brought", "state", "pending", "evidence"],
      },
    },
  };
}
