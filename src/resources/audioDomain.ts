import * as pulumi from "@pulumi/pulumi";
import { DEFAULT_TEMPLATE } from "../model/guiDomain.ts";
import type { Attempt, Evidence, Pending, XenDomain } from "./guiDomain.ts";
import { Host } from "./host.ts";
import type { Selector } from "./selector.ts";
import { afterItsTemplate } from "./template.ts";
import { failAtTheEnd } from "./unreached.ts";

export interface AudioDomainArgs {
  /** The machine, or its name in the configuration. */
  host: Host | pulumi.Input<string>;
  /** The qube that becomes the audio domain. Default: the resource's name. */
  qube?: pulumi.Input<string>;
  /**
   * true: the qube has another purpose already (a GUI domain in mode "gpu", sys-usb), and only what makes it an audio domain is changed:
   * service, devices, policy, clients. Default false: a qube of its own, which is converged.
   */
  shared?: pulumi.Input<boolean>;
  /** Its sound devices, each by what it is. Default: { class: "audio" }, all but those of a display; none where it is shared. */
  devices?: pulumi.Input<Selector | pulumi.Input<Selector>[]>;
  /** Single USB sound devices of USB qubes, as `qvm-usb assign` gives them. Default: none. */
  usb?: pulumi.Input<UsbDevice | pulumi.Input<UsbDevice>[]>;
  /** Qubes whose sound it plays; "default": every qube without an audio domain of its own. Default: none. */
  clients?: pulumi.Input<"default" | pulumi.Input<string>[]>;
  /** Whether running clients that cannot be told of their new audio domain are restarted. Default: "never"; they are then listed in `pending`. */
  restartClients?: pulumi.Input<"never" | "allowed">;
  /** Whether its desktop may give its clients the microphone, and take it away. Default: "denied". */
  microphone?: pulumi.Input<"denied" | "allowed">;
  /** HVM clients without Qubes' agent, which get an emulated sound card. */
  emulated?: pulumi.Input<pulumi.Input<string>[]>;
  /** Whether it plays on headsets that are paired with it, and keeps its pairings. Default: false. */
  bluetooth?: pulumi.Input<boolean>;
  /** What did not work is tried again when this changes. */
  retry?: pulumi.Input<string | number>;
  /** When the sound has to stay where it was: "warn" (default), "accept", or "fail": the run fails with that in place. */
  onFallback?: pulumi.Input<"warn" | "accept" | "fail">;
  /** Seconds: for its start (120) and for each check (30). */
  limits?: pulumi.Input<{ start?: pulumi.Input<number>; checks?: pulumi.Input<number> }>;
  /** "restore" (default): everything goes back to what it was, a qube that was created here is removed. "keep": all stays. */
  onDelete?: pulumi.Input<"restore" | "keep">;
  unreachable?: pulumi.Input<"fail" | "skip">;
  /** TemplateVM. Default: "fedora-43-xfce". This and what follows only of a qube of its own. */
  template?: pulumi.Input<string>;
  /** Default: "black". */
  label?: pulumi.Input<string>;
  /** MiB; it does not change while the qube runs. Default: 400. */
  memory?: pulumi.Input<number>;
  vcpus?: pulumi.Input<number>;
  /** Default: true. */
  autostart?: pulumi.Input<boolean>;
  /** Plain Xen, and only there: what the domain is made of (docs/xen.md). */
  domain?: pulumi.Input<XenDomain>;
}

/** A USB device by what it is; qvm-usb lists what is plugged in. */
export interface UsbDevice {
  /** The qube that has the controller. Default: "sys-usb". */
  qube?: pulumi.Input<string>;
  /** 4 hex digits: "0d8c". */
  vendor: pulumi.Input<string>;
  device: pulumi.Input<string>;
  /** Only there, such as "1-2"; else wherever it is plugged in. */
  port?: pulumi.Input<string>;
}

export interface AttachedSound {
  name: string;
  sbdf: string;
  /** As Qubes names its place. */
  port: string;
  /** Options of the assignment that are on. */
  options: string[];
  /** What shares its reset and stays where it is. */
  siblings: string[];
}

/** A client whose stream the last run has seen in the audio domain, while both run since then. */
export interface Stream {
  client: string;
  started: string;
  audioStarted: string;
}

/** An audio domain: the qube that plays the sound of its clients. Its import id is `host/qube`. */
export class AudioDomain extends pulumi.CustomResource {
  declare readonly host: pulumi.Output<string>;
  declare readonly qube: pulumi.Output<string>;
  declare readonly shared: pulumi.Output<boolean>;
  declare readonly devices: pulumi.Output<Selector[]>;
  declare readonly usb: pulumi.Output<UsbDevice[]>;
  declare readonly clients: pulumi.Output<"default" | string[]>;
  declare readonly restartClients: pulumi.Output<"never" | "allowed">;
  declare readonly microphone: pulumi.Output<"denied" | "allowed">;
  declare readonly emulated: pulumi.Output<string[]>;
  declare readonly bluetooth: pulumi.Output<boolean>;
  declare readonly retry: pulumi.Output<string>;
  declare readonly onFallback: pulumi.Output<"warn" | "accept" | "fail">;
  declare readonly limits: pulumi.Output<{ start: number; checks: number }>;
  declare readonly onDelete: pulumi.Output<"restore" | "keep">;
  declare readonly unreachable: pulumi.Output<"fail" | "skip">;
  declare readonly template: pulumi.Output<string | undefined>;
  declare readonly label: pulumi.Output<string | undefined>;
  declare readonly memory: pulumi.Output<number | undefined>;
  declare readonly vcpus: pulumi.Output<number | undefined>;
  declare readonly autostart: pulumi.Output<boolean | undefined>;
  declare readonly domain: pulumi.Output<XenDomain | undefined>;
  /** Every value on the host that follows from the arguments; a preview is a diff of these. */
  declare readonly settings: pulumi.Output<Record<string, unknown>>;
  /** The qube to which the clients' sound goes now; "dom0" where it stayed there. */
  declare readonly sound: pulumi.Output<string>;
  /**
   * "ready" (set up and checked), "inUse" (a stream of a client was seen, and both run since), "staged" (its qube has to start anew
   * before clients are sent to it), "fallback" (the sound stayed where it was), "drifted", "unverified" (imported) or "failed".
   */
  declare readonly state: pulumi.Output<string>;
  declare readonly attempts: pulumi.Output<Attempt[]>;
  declare readonly pending: pulumi.Output<Pending[]>;
  declare readonly evidence: pulumi.Output<Evidence[]>;
  /** What did not work, and under what circumstances. */
  declare readonly remembered: pulumi.Output<Record<string, unknown> | undefined>;
  declare readonly attached: pulumi.Output<AttachedSound[]>;
  declare readonly streams: pulumi.Output<Stream[]>;
  declare readonly origin: pulumi.Output<"created" | "adopted">;
  /** false: the host did not answer, this is the state of the last time. */
  declare readonly looked: pulumi.Output<boolean>;
  /** How the host was reached, without secrets. */
  declare readonly connection: pulumi.Output<Record<string, unknown>>;

  constructor(name: string, args: AudioDomainArgs, options?: pulumi.CustomResourceOptions) {
    const { host, ...rest } = args;
    const inputs = { ...AUDIO_OUTPUTS, ...rest, host: host instanceof Host ? host.name : host };
    super(
      "guidomain:index:AudioDomain",
      name,
      inputs,
      afterItsTemplate(host, args.template ?? DEFAULT_TEMPLATE, options),
    );
    failAtTheEnd(`Audio domain ${name}`, this.looked);
  }
}

/** Every output has to be named, or it is not there. */
const AUDIO_OUTPUTS = {
  qube: undefined,
  shared: undefined,
  devices: undefined,
  usb: undefined,
  clients: undefined,
  restartClients: undefined,
  microphone: undefined,
  emulated: undefined,
  bluetooth: undefined,
  retry: undefined,
  onFallback: undefined,
  limits: undefined,
  onDelete: undefined,
  unreachable: undefined,
  template: undefined,
  label: undefined,
  memory: undefined,
  vcpus: undefined,
  autostart: undefined,
  domain: undefined,
  settings: undefined,
  sound: undefined,
  state: undefined,
  attempts: undefined,
  pending: undefined,
  evidence: undefined,
  remembered: undefined,
  attached: undefined,
  streams: undefined,
  origin: undefined,
  looked: undefined,
  connection: undefined,
};
