import * as pulumi from "@pulumi/pulumi";
import { DEFAULT_TEMPLATE } from "../model/guiDomain.ts";
import { Host } from "./host.ts";
import type { Selector } from "./selector.ts";
import { afterItsTemplate } from "./template.ts";
import { failAtTheEnd } from "./unreached.ts";

export interface GuiDomainArgs {
  /** The machine, or its name in the configuration. */
  host: Host | pulumi.Input<string>;
  /** The qube that becomes the GUI domain. Default: the resource's name. */
  qube?: pulumi.Input<string>;
  /**
   * The ladder, best first: each mode is tried in turn until one comes up. "gpu": it drives the screen itself. "xephyr" (default):
   * inside one full-screen window of dom0. "vnc", "rdp": a remote screen, reached through qrexec (docs/remote.md). Below the last lies the host's own screen, as
   * before; "dom0" as the last says that this will do, and is no error.
   */
  display?: pulumi.Input<pulumi.Input<"gpu" | "xephyr" | "vnc" | "rdp" | "dom0">[]>;
  /** The display that mode "gpu" gives away, by what it is. Default: the one that the firmware lit. */
  gpu?: pulumi.Input<Selector>;
  /** "never" (default): what needs a boot is staged and listed in `pending`. "allowed": the machine may restart to prove a mode. */
  reboot?: pulumi.Input<"never" | "allowed">;
  /** A mode that failed is tried again when this changes. */
  retry?: pulumi.Input<string | number>;
  /** When another mode than the best came up: "warn" (default), "accept", or "fail": the run fails with the fallback in place. */
  onFallback?: pulumi.Input<"warn" | "accept" | "fail">;
  /** Seconds: for its start (120), for each check (30), and from the start of a boot until all is proved (900). */
  limits?: pulumi.Input<{
    start?: pulumi.Input<number>;
    checks?: pulumi.Input<number>;
    boot?: pulumi.Input<number>;
  }>;
  /** Qubes whose windows it shows; "default": every qube without a GUI domain of its own. Default: none. */
  clients?: pulumi.Input<"default" | pulumi.Input<string>[]>;
  /** Whether running clients are restarted so that a change takes effect. Default: "never"; they are then listed in `pending`. */
  restartClients?: pulumi.Input<"never" | "allowed">;
  /** At dom0's greeter: a person chooses (default), it is chosen beforehand, or `sessionUser` is logged in without a password. */
  session?: pulumi.Input<"choose" | "preselect" | "autologin">;
  sessionUser?: pulumi.Input<string>;
  /** "restore" (default): everything goes back to what it was, a qube that was created here is removed. "keep": all stays. */
  onDelete?: pulumi.Input<"restore" | "keep">;
  unreachable?: pulumi.Input<"fail" | "skip">;
  /** TemplateVM. Default: "fedora-43-xfce". */
  template?: pulumi.Input<string>;
  /** Default: "black". */
  label?: pulumi.Input<string>;
  /** MiB. Default: the host's; 2000 with "gpu", which takes no less. */
  memory?: pulumi.Input<number>;
  /** MiB; 0 switches memory balancing off. Default: 4000; always 0 with "gpu". */
  maxmem?: pulumi.Input<number>;
  vcpus?: pulumi.Input<number>;
  /** Default: true. */
  autostart?: pulumi.Input<boolean>;
  /** Its audio domain, "" for none. Default: "dom0" with "xephyr", none with the others. */
  audiovm?: pulumi.Input<string>;
  /** Packages of dom0. Default: dummy-psu-sender, with "xephyr" also dummy-backlight-dom0, with "gpu" qubes-input-proxy-sender. */
  hostPackages?: pulumi.Input<pulumi.Input<string>[]>;
  /** "vnc" and "rdp": qubes that may reach the remote screen through qubes.ConnectTCP (+5900 or +3389). */
  viewers?: pulumi.Input<pulumi.Input<string>[]>;
  /** "vnc": what is asked of who connects, 6 to 8 characters. A secret, whether it is given as one or not. Needed with `viewers`. */
  remote?: pulumi.Input<{ password: pulumi.Input<string> }>;
  /**
   * The password at its greeter, its lock screen and by RDP: one of its own, or that of a user of dom0, whatever that is. Without one its
   * screen does not lock. What the host keeps is a hash.
   */
  login?: pulumi.Input<GuiDomainLogin>;
  /** Which keyboards and mice reach its screen (docs/input.md). Default: those that reach dom0 without it. */
  input?: pulumi.Input<GuiDomainInput>;
  /**
   * What this GUI domain, and so the person at it, may ask of the host (docs/levels.md). Default: what windows and menus need, and what
   * the host's own policy allows it.
   */
  level?: pulumi.Input<"admin" | "operator" | "user" | "guest" | "kiosk">;
  /** Level "kiosk": all that it may start, each in one of its clients or in a new disposable of a template for these. */
  apps?: pulumi.Input<pulumi.Input<KioskApp>[]>;
  /** Lines of qrexec policy about what it and its clients may ask, before those of its level, which must allow such a thing. */
  rules?: pulumi.Input<pulumi.Input<string>[]>;
  /**
   * What the person at it may do to the machine (docs/power.md). Default: all at levels "admin" and "operator", nothing at the others and
   * without a level.
   */
  power?: pulumi.Input<pulumi.Input<"shutdown" | "reboot" | "suspend">[]>;
  /** Plain Xen, and only there: what the domain is made of (docs/xen.md). */
  domain?: pulumi.Input<XenDomain>;
  /** "blocked": the host does not sleep, neither by its lid nor when somebody asks. Default: "allowed". */
  suspend?: pulumi.Input<"allowed" | "blocked">;
  /** Mode "gpu": how its screens lie. One that is not connected keeps nobody from the others. Default: as X finds them. */
  layout?: pulumi.Input<pulumi.Input<ScreenLayout>[]>;
}

export interface ScreenLayout {
  /** Connector, as in `screens`: "eDP-1". */
  output: pulumi.Input<string>;
  /** "2560x1440", "1920x1080@60". Default: the screen's own choice. */
  mode?: pulumi.Input<string>;
  /** Pixels of its left upper corner, "1920x0". */
  position?: pulumi.Input<string>;
  primary?: pulumi.Input<boolean>;
  rotate?: pulumi.Input<"normal" | "left" | "right" | "inverted">;
}

/** `user` of the first is one inside it, "user" unless given; of the second one of dom0. */
export type GuiDomainLogin =
  | { password: pulumi.Input<string>; user?: pulumi.Input<string> }
  | { follow: "dom0"; user: pulumi.Input<string> };

/** "ask": a person at the GUI domain that shows the USB qube is asked, each time. */
type Answer = pulumi.Input<"allow" | "ask" | "deny">;
export interface InputKinds {
  mouse?: Answer;
  keyboard?: Answer;
  tablet?: Answer;
}

export interface GuiDomainInput {
  /** dom0's own devices, which mode "gpu" alone passes on. Default: "allow". */
  dom0?: pulumi.Input<"allow" | "deny">;
  /** Qubes that hold USB controllers. What is not named is as the host's own policy has it. */
  usb?: pulumi.Input<pulumi.Input<UsbInput>[]>;
}

export interface UsbInput extends InputKinds {
  /** Default: "sys-usb". */
  qube?: pulumi.Input<string>;
  /** Single devices, which come before their kind: each as its call names it, "usb-0000_00_06.0-1+3-46d-c31c-110". */
  devices?: pulumi.Input<pulumi.Input<InputKinds & { device: pulumi.Input<string> }>[]>;
}

/** The name of a menu entry without ".desktop", and where it runs. */
export type KioskApp =
  | { app: pulumi.Input<string>; qube: pulumi.Input<string> }
  | { app: pulumi.Input<string>; disposable: pulumi.Input<string> };

/** What a GUI domain with a level may ask. */
export interface Rights {
  /** In groups; part of each, perhaps after a question. */
  allowed: string[];
  /** Groups in which nothing is allowed. */
  denied: string[];
  /** What it may beyond its level, by a rule of somebody else that comes earlier. */
  wider: string[];
}

/** A remote screen, on the loopback interface of its qube. */
export interface Endpoint {
  protocol: "vnc" | "rdp";
  qube: string;
  address: "127.0.0.1";
  port: number;
  viewers: string[];
}

/** A domain of xl. What is left out stays as its configuration has it. */
export interface XenDomain {
  type: pulumi.Input<"pv" | "hvm" | "pvh">;
  /** Paths in dom0. */
  kernel?: pulumi.Input<string>;
  ramdisk?: pulumi.Input<string>;
  cmdline?: pulumi.Input<string>;
  /** As xl-disk-configuration(5) spells them: "phy:/dev/vg/gui,xvda,w". */
  disks?: pulumi.Input<pulumi.Input<string>[]>;
  /** As xl-network-configuration(5) spells them. */
  networks?: pulumi.Input<pulumi.Input<string>[]>;
  /** VNC display of dom0's loopback that shows its framebuffer. Default: 5. */
  display?: pulumi.Input<number>;
  /** What it writes into its own folder of xenstore; it counts as up only once it has. Default: nothing. */
  reports?: pulumi.Input<pulumi.Input<"pci" | "screen">[]>;
}

export interface Evidence {
  id: string;
  ok: boolean;
  seconds: number;
  output: string;
}

export interface Attempt {
  mode: string;
  /** "refused": by the facts, before anything was touched. "failed": tried, and put back. "staged": it waits for a reboot. */
  verdict: "ok" | "refused" | "failed" | "staged" | "skipped";
  reason: string;
  /** What the checks of a failed mode saw. */
  evidence?: Evidence[];
}

export interface Pending {
  /**
   * "session": somebody has to sit down at that qube's desktop. "bluetooth": what keeps it from its headsets. "claim": somebody else has what it
   * wants as well, and came first.
   */
  kind: "restart" | "reboot" | "session" | "bluetooth" | "claim";
  /** Of "restart" and "session". */
  qubes?: string[];
  why: string;
}

/** A mode that did not come up, and under what circumstances: it is tried again when these change. */
export interface Remembered {
  mode: string;
  reason: string;
  key: { hardware: string; inputs: string; retry: string };
  reset: boolean;
  boot: boolean;
  evidence?: Evidence[];
}

/** A GUI domain: the qube that shows the windows of its clients. Its import id is `host/qube`. */
export class GuiDomain extends pulumi.CustomResource {
  declare readonly host: pulumi.Output<string>;
  declare readonly qube: pulumi.Output<string>;
  declare readonly display: pulumi.Output<string[]>;
  declare readonly gpu: pulumi.Output<Selector | undefined>;
  declare readonly reboot: pulumi.Output<"never" | "allowed">;
  declare readonly retry: pulumi.Output<string>;
  declare readonly onFallback: pulumi.Output<"warn" | "accept" | "fail">;
  declare readonly limits: pulumi.Output<{ start: number; checks: number; boot: number }>;
  declare readonly clients: pulumi.Output<"default" | string[]>;
  declare readonly restartClients: pulumi.Output<"never" | "allowed">;
  declare readonly session: pulumi.Output<"choose" | "preselect" | "autologin">;
  declare readonly sessionUser: pulumi.Output<string | undefined>;
  declare readonly onDelete: pulumi.Output<"restore" | "keep">;
  declare readonly unreachable: pulumi.Output<"fail" | "skip">;
  declare readonly template: pulumi.Output<string>;
  declare readonly label: pulumi.Output<string>;
  declare readonly memory: pulumi.Output<number | undefined>;
  declare readonly maxmem: pulumi.Output<number>;
  declare readonly vcpus: pulumi.Output<number | undefined>;
  declare readonly autostart: pulumi.Output<boolean>;
  declare readonly audiovm: pulumi.Output<string>;
  declare readonly hostPackages: pulumi.Output<string[]>;
  declare readonly viewers: pulumi.Output<string[]>;
  declare readonly login: pulumi.Output<GuiDomainLogin | undefined>;
  declare readonly remote: pulumi.Output<{ password: string } | undefined>;
  declare readonly input: pulumi.Output<GuiDomainInput | undefined>;
  declare readonly level: pulumi.Output<"admin" | "operator" | "user" | "guest" | "kiosk" | undefined>;
  declare readonly apps: pulumi.Output<KioskApp[] | undefined>;
  declare readonly rules: pulumi.Output<string[] | undefined>;
  declare readonly power: pulumi.Output<("shutdown" | "reboot" | "suspend")[] | undefined>;
  declare readonly suspend: pulumi.Output<"allowed" | "blocked">;
  declare readonly layout: pulumi.Output<ScreenLayout[] | undefined>;
  declare readonly domain: pulumi.Output<XenDomain | undefined>;
  /** Every value on the host that follows from the arguments; a preview is a diff of these. */
  declare readonly settings: pulumi.Output<Record<string, unknown>>;
  /** The display mode in force; "dom0": the host's own screen; "none" after a failure. */
  declare readonly mode: pulumi.Output<string>;
  /**
   * "ready", "inUse", "staged" (waits for a reboot), "rescued" (a boot did not bring it up, the host went back by itself), "drifted",
   * "unverified" (imported, never applied) or "failed".
   */
  declare readonly state: pulumi.Output<string>;
  declare readonly rights: pulumi.Output<Rights | undefined>;
  declare readonly attempts: pulumi.Output<Attempt[]>;
  declare readonly pending: pulumi.Output<Pending[]>;
  declare readonly evidence: pulumi.Output<Evidence[]>;
  declare readonly remembered: pulumi.Output<Remembered[] | undefined>;
  /** "vnc" and "rdp": where the remote screen is found inside the host; `npm run view` or a viewer leads there. */
  declare readonly endpoint: pulumi.Output<Endpoint | undefined>;
  /** Connectors of the display that mode "gpu" gave away which were lit before, and are lit after. */
  declare readonly screens: pulumi.Output<string[] | undefined>;
  declare readonly origin: pulumi.Output<"created" | "adopted">;
  /** false: the host did not answer, this is the state of the last time. */
  declare readonly looked: pulumi.Output<boolean>;
  /** How the host was reached, without secrets. */
  declare readonly connection: pulumi.Output<Record<string, unknown>>;

  constructor(name: string, args: GuiDomainArgs, options?: pulumi.CustomResourceOptions) {
    const { host, remote, login, ...rest } = args;
    const secrets = {
      ...(remote !== undefined && { remote: pulumi.secret(remote) }),
      ...(login !== undefined && { login: pulumi.secret(login) }),
    };
    const inputs = { ...GUI_OUTPUTS, ...rest, ...secrets, host: host instanceof Host ? host.name : host };
    super(
      "guidomain:index:GuiDomain",
      name,
      inputs,
      afterItsTemplate(host, args.template ?? DEFAULT_TEMPLATE, options),
    );
    failAtTheEnd(`GUI domain ${name}`, this.looked);
  }
}

/** Every output has to be named, or it is not there. */
const GUI_OUTPUTS = {
  qube: undefined,
  display: undefined,
  gpu: undefined,
  reboot: undefined,
  retry: undefined,
  onFallback: undefined,
  limits: undefined,
  clients: undefined,
  restartClients: undefined,
  session: undefined,
  sessionUser: undefined,
  onDelete: undefined,
  unreachable: undefined,
  template: undefined,
  label: undefined,
  memory: undefined,
  maxmem: undefined,
  vcpus: undefined,
  autostart: undefined,
  audiovm: undefined,
  hostPackages: undefined,
  viewers: undefined,
  remote: undefined,
  login: undefined,
  input: undefined,
  level: undefined,
  apps: undefined,
  rules: undefined,
  power: undefined,
  suspend: undefined,
  layout: undefined,
  domain: undefined,
  settings: undefined,
  mode: undefined,
  state: undefined,
  rights: undefined,
  attempts: undefined,
  pending: undefined,
  evidence: undefined,
  remembered: undefined,
  endpoint: undefined,
  screens: undefined,
  origin: undefined,
  looked: undefined,
  connection: undefined,
};
