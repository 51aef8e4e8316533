/** What a program may say about a GUI domain, and the rules it must keep. Pure. Sources: design §2, §4; qubes-host.md (b), (h). */
import * as v from "valibot";
import { Selector } from "../pci/selector.ts";
import { GPU_MEMORY } from "../pci/verdict.ts";
import {
  APPS,
  type App,
  LEVELS,
  type Level,
  type Principal,
  parsePrincipal,
  RULES,
} from "../policy/principal.ts";
import { integer, isMap, listOf, named, oneOf, only, pathOf, shown, text, wrong } from "./fields.ts";
import { INPUT, type Input, inputFaults, inputOf, inputRules } from "./input.ts";
import type { Key } from "./keys.ts";
import { LAYOUT, layoutFaults, layoutOf, type Screen } from "./layout.ts";
import { isRemote, MODES, type Mode, type Rung } from "./modes.ts";
import { guiDomainNameFault, hostNameFault, qubeNameFault } from "./names.ts";
import { PARTS, POWER, POWERLESS, type PowerAction, type PowerPart, powerIn } from "./power.ts";
import { onlyQubesFaults, PVH_WORDS, XEN_DOMAIN, type XenDomain, xenDomainOf } from "./xenDomain.ts";

const allowedModes = MODES.map((m) => `"${m}"`).join(", ");

/** The newest template that the supported release offers (qubes-host.md (b)). */
export const DEFAULT_TEMPLATE = "fedora-43-xfce";
const DEFAULT_LABEL = "black";

/** What takes devices of a USB qube in dom0, and what passes dom0's own on. */
const RECEIVER = "qubes-input-proxy";
const SENDER = "qubes-input-proxy-sender";

/** dom0 packages per mode (qubes-host.md (b), row "dom0 packages"): power and brightness for the desktop in the qube. */
const HOST_PACKAGES: Record<Mode, string[]> = {
  gpu: ["dummy-psu-sender", SENDER],
  xephyr: ["dummy-backlight-dom0", "dummy-psu-sender"],
  vnc: ["dummy-psu-sender"],
  rdp: ["dummy-psu-sender"],
};

/** Debian's names, on plain Xen: what serves framebuffers and emulated machines, and dom0's window. */
export const XEN_PACKAGES: Record<Mode, string[]> = {
  gpu: [],
  xephyr: ["qemu-system-xen", "xauth", "xserver-xephyr", "xtightvncviewer"],
  vnc: ["qemu-system-xen"],
  rdp: [],
};

/** Seconds: for the GUI domain to start, for one check, and from the start of a trial (or of a boot) until all is proved. */
export const LIMITS = { start: 120, checks: 30, boot: 900 };

const SECONDS = "a whole number of seconds";
const MIB = "a whole number of MiB";

const qubeName = named(qubeNameFault);
const templateOrQube = qubeName;

const mode = named(
  (value) =>
    (MODES as readonly string[]).includes(value) || value === "dom0"
      ? null
      : `${shown(value)} is not a display mode; allowed are ${allowedModes}`,
  `a mode: ${allowedModes}`,
);

/** RFB 3.8 §7.2.2: the password is the key of a DES, 8 bytes; of a longer one the rest would count for nothing. The value is never shown. */
const REMOTE_PASSWORD =
  "the password must be a text of 6 to 8 letters, digits or signs of ASCII: VNC uses no more (the value is not shown)";

const LOGIN = "the password must be a text of 1 to 256 characters of one line (the value is not shown)";
const LOGIN_PARTS = "there is no such part; allowed are password and user, or follow and user";

const qubeUser = named((name) =>
  /^[a-z_][a-z0-9_-]{0,31}$/.test(name) ? null : `${shown(name)} is not the name of a user`,
);
const PASSWORD = only(
  {
    password: v.pipe(v.string(LOGIN), v.regex(/^[^\n\r\0]{1,256}$/, LOGIN)),
    user: v.optional(qubeUser),
  },
  () => 'give { password } or { follow: "dom0", user } (the value is not shown)',
  LOGIN_PARTS,
);
const FOLLOWS = only(
  { follow: oneOf("dom0"), user: qubeUser },
  wrong("a user of dom0 whose password it follows"),
  LOGIN_PARTS,
);

const packageName = named((name) =>
  /^[A-Za-z0-9][A-Za-z0-9+._-]{0,99}$/.test(name) ? null : `${shown(name)} is not the name of a package`,
);

const userName = named((name) =>
  /^[a-z_][a-z0-9_-]{0,31}$/.test(name) ? null : `${shown(name)} is not the name of a user of dom0`,
);

const allowedLevels = LEVELS.map((level) => `"${level}"`).join(", ");

const fields = {
  host: named(hostNameFault),
  /** The qube; the resource's own name unless given. */
  qube: v.optional(named(guiDomainNameFault)),
  display: v.optional(listOf(mode)),
  gpu: v.optional(Selector),
  reboot: v.optional(oneOf("never", "allowed")),
  retry: v.optional(v.union([v.string(), v.number()], wrong("a number or a text"))),
  onFallback: v.optional(oneOf("warn", "accept", "fail")),
  limits: v.optional(
    only(
      {
        start: v.optional(integer(10, 3600, SECONDS)),
        checks: v.optional(integer(1, 600, SECONDS)),
        boot: v.optional(integer(60, 7200, SECONDS)),
      },
      wrong("limits in seconds: start, checks, boot"),
      "there is no such part",
    ),
  ),
  clients: v.optional(
    v.union(
      [v.literal("default"), v.array(qubeName)],
      ({ input }) => `${shown(input)} is not allowed; give "default" or a list of qubes`,
    ),
  ),
  restartClients: v.optional(oneOf("never", "allowed")),
  session: v.optional(oneOf("choose", "preselect", "autologin")),
  sessionUser: v.optional(userName),
  onDelete: v.optional(oneOf("restore", "keep")),
  unreachable: v.optional(oneOf("fail", "skip")),
  template: v.optional(templateOrQube),
  label: v.optional(text),
  memory: v.optional(integer(64, 1_048_576, MIB)),
  maxmem: v.optional(integer(0, 1_048_576, MIB)),
  vcpus: v.optional(integer(1, 128, "a whole number of virtual processors")),
  autostart: v.optional(v.boolean(({ input }) => `${shown(input)} is not allowed; give true or false`)),
  audiovm: v.optional(
    v.union(
      [v.literal(""), v.literal("dom0"), qubeName],
      ({ input }) => `${shown(input)} is not allowed; give a qube, "dom0", or "" for none`,
    ),
  ),
  hostPackages: v.optional(listOf(packageName)),
  viewers: v.optional(listOf(qubeName)),
  remote: v.optional(
    only(
      { password: v.pipe(v.string(REMOTE_PASSWORD), v.regex(/^[!-~]{6,8}$/, REMOTE_PASSWORD)) },
      () => "give { password } (the value is not shown)",
      "there is no such part; allowed is password",
    ),
  ),
  login: v.optional(v.lazy((value) => (isMap(value) && "follow" in value ? FOLLOWS : PASSWORD))),
  input: v.optional(INPUT),
  level: v.optional(oneOf(...LEVELS)),
  apps: v.optional(APPS),
  rules: v.optional(RULES),
  power: v.optional(listOf(oneOf(...POWER))),
  suspend: v.optional(oneOf("allowed", "blocked")),
  layout: v.optional(LAYOUT),
  domain: v.optional(XEN_DOMAIN),
};

/** What a program may give; every argument but `host` may be left out. */
export const ARGUMENTS = Object.keys(fields).sort();

const GuiDomainArgs = only(
  fields,
  wrong("the properties of a GUI domain"),
  `not a property of a GUI domain; allowed are ${ARGUMENTS.join(", ")}`,
);
type GuiDomainArgs = v.InferOutput<typeof GuiDomainArgs>;

/** Of a user inside it: one of its own, or whatever that of a user of dom0 is. */
export type Login = { follow?: never; user: string; password: string } | { follow: "dom0"; user: string };

/** The user of Qubes' templates. */
const QUBE_USER = "user";

/** A GUI domain as described: every default filled in, every rule that needs no host kept. */
export interface GuiDomain {
  host: string;
  qube: string;
  /** The ladder, best first. Below its last rung lies "as before"; "dom0" as its last says that this will do. */
  display: Rung[];
  /** The display that mode "gpu" gives away; null: the only one, or the one that the firmware lit. */
  gpu: Selector | null;
  reboot: "never" | "allowed";
  /** Another text lets rungs that failed be tried again. */
  retry: string;
  onFallback: "warn" | "accept" | "fail";
  /** Seconds. */
  limits: { start: number; checks: number; boot: number };
  clients: "default" | string[];
  restartClients: "never" | "allowed";
  session: "choose" | "preselect" | "autologin";
  sessionUser: string | null;
  onDelete: "restore" | "keep";
  unreachable: "fail" | "skip";
  template: string;
  label: string;
  memory: number | null;
  /** null, here and below: what the mode needs. */
  maxmem: number | null;
  vcpus: number | null;
  autostart: boolean;
  audiovm: string | null;
  hostPackages: string[] | null;
  /** Qubes that may reach the remote screen through qubes.ConnectTCP; modes "vnc" and "rdp". */
  viewers: string[];
  /** What mode "vnc" asks of who connects; null: nothing. Secret. */
  remote: { password: string } | null;
  /** The password at its greeter, its lock screen and by RDP; null: none of ours. Secret. */
  login: Login | null;
  /** Which keyboards and mice reach its screen; null: those that reach dom0 without it. */
  input: Input | null;
  /** What this GUI domain, and so the person at it, may ask of the host; null: what the host's policy says without us. */
  level: Level | null;
  /** Level kiosk: all that it may start. */
  apps: App[] | null;
  /** Lines of policy, before those of the level. */
  rules: string[] | null;
  /** What it may do to the machine; null: what its level brings. */
  power: PowerAction[] | null;
  /** "blocked": the host does not sleep at all. */
  suspend: "allowed" | "blocked";
  /** How its screens lie in mode "gpu"; null: as X finds them. */
  layout: Screen[] | null;
  /** On plain Xen, and only there: what the domain is made of. */
  domain: XenDomain | null;
  /** false: the host is known not to wake. Not an argument: the host says what it is. */
  wakes?: boolean;
  /** What of battery and backlight the machine does not have. Not an argument either. */
  lacks?: PowerPart[];
  /** The other GUI domains of the host, whose qubes are none of its business. Not an argument: who is there is found out on the way. */
  apart?: string[];
  /** Those of them, and itself, of whose qubes one has the other's disposable as its default. Not an argument either. */
  barred?: string[];
  /** Keys of what it shows that somebody else has, who came first. Not an argument either. */
  behind?: readonly string[];
}

/** What of the host it wants that others may want as well: the default, or the GUI domain of each client. */
export const contestedBy = ({ clients }: Pick<GuiDomain, "clients">): Key[] =>
  clients === "default" ? ["global:default_guivm"] : clients.map((client): Key => `property:${client}:guivm`);

/** Its clients but those that somebody else has, who came first. */
export const clientsNow = ({ clients, behind = [] }: Pick<GuiDomain, "clients" | "behind">) =>
  clients === "default"
    ? behind.includes("global:default_guivm")
      ? []
      : clients
    : clients.filter((client) => !behind.includes(`property:${client}:guivm`));

/** Who asks, where the description gives a level; in another rung it may have another say over the machine. */
export function principalOf(gui: GuiDomain, rung: Rung = gui.display[0] ?? "dom0"): Principal | null {
  const { qube, level, apps, rules, apart = [], barred = [] } = gui;
  if (level === null) return null;
  const power = powerIn(gui, rung);
  const parsed = parsePrincipal({ qube, level, apps: apps ?? [], rules: rules ?? [], apart, barred, power });
  if ("principal" in parsed) return parsed.principal;
  throw new Error(parsed.faults.map(({ property, reason }) => `${property}: ${reason}`).join("; "));
}

/** What a description leaves to the mode, filled in (qubes-host.md (b)). */
export interface InMode {
  /** MiB; null: the host's default. */
  memory: number | null;
  maxmem: number;
  audiovm: string;
  hostPackages: string[];
}

export function inMode(gui: GuiDomain, mode: Mode): InMode {
  const gpu = mode === "gpu";
  if (gui.domain)
    return {
      memory: gui.memory,
      maxmem: gui.maxmem ?? 0,
      audiovm: "",
      hostPackages: gui.hostPackages ?? XEN_PACKAGES[mode],
    };
  return {
    // With PCI devices there is no balancing: what it has at its start is what it has.
    memory: gui.memory ?? (gpu ? GPU_MEMORY : null),
    maxmem: gpu ? 0 : (gui.maxmem ?? 4000),
    audiovm: gui.audiovm ?? (mode === "xephyr" ? "dom0" : ""),
    hostPackages: gui.hostPackages ?? packagesFor(gui, mode),
  };
}

function packagesFor({ input, lacks = [] }: GuiDomain, mode: Mode): string[] {
  const needless: string[] = lacks.map((part) => PARTS[part]);
  const packages = HOST_PACKAGES[mode].filter((name) => !needless.includes(name));
  if (mode === "gpu") return input?.dom0 === "deny" ? packages.filter((name) => name !== SENDER) : packages;
  const receives = input !== null && inputRules(input).some(({ answer }) => answer !== "deny");
  return receives ? [...packages, RECEIVER] : packages;
}

/** The rungs that are modes, best first. */
export const modesOf = (gui: GuiDomain): Mode[] => gui.display.filter((rung) => rung !== "dom0");

/** Every package of dom0 that a rung may ask for. */
export const allPackages = (gui: GuiDomain): string[] =>
  [...new Set(modesOf(gui).flatMap((mode) => inMode(gui, mode).hostPackages))].sort();

export interface Fault {
  property: string;
  reason: string;
}

/** What is wrong with single arguments; the rules over several are left to `parseGuiDomain`. */
export function argumentFaults(value: unknown): Fault[] {
  return faultsOf(v.safeParse(GuiDomainArgs, value).issues);
}

/** The description with its defaults, or what is wrong with it, by property path. */
export function parseGuiDomain(name: string, value: unknown): { gui: GuiDomain } | { faults: Fault[] } {
  const parsed = v.safeParse(GuiDomainArgs, value);
  if (!parsed.success) return { faults: faultsOf(parsed.issues) };
  const args = parsed.output;
  const qube = args.qube ?? name;
  const display = (args.display ?? ["xephyr"]) as Rung[];
  const gui: GuiDomain = {
    host: args.host,
    qube,
    display,
    gpu: args.gpu ?? null,
    reboot: args.reboot ?? "never",
    retry: String(args.retry ?? ""),
    onFallback: args.onFallback ?? "warn",
    limits: {
      start: args.limits?.start ?? LIMITS.start,
      checks: args.limits?.checks ?? LIMITS.checks,
      boot: args.limits?.boot ?? LIMITS.boot,
    },
    clients: args.clients ?? [],
    restartClients: args.restartClients ?? "never",
    session: args.session ?? "choose",
    sessionUser: args.sessionUser ?? null,
    onDelete: args.onDelete ?? "restore",
    unreachable: args.unreachable ?? "fail",
    template: args.template ?? DEFAULT_TEMPLATE,
    label: args.label ?? DEFAULT_LABEL,
    memory: args.memory ?? null,
    maxmem: args.maxmem ?? null,
    vcpus: args.vcpus ?? null,
    autostart: args.autostart ?? true,
    audiovm: args.audiovm ?? null,
    hostPackages: args.hostPackages ? [...new Set(args.hostPackages)].sort() : null,
    viewers: [...new Set(args.viewers ?? [])].sort(),
    remote: args.remote ?? null,
    login: args.login ? loginOf(args.login) : null,
    input: args.input ? inputOf(args.input) : null,
    level: args.level ?? null,
    apps: (args.apps as App[] | undefined) ?? null,
    rules: args.rules ?? null,
    power: args.power ? POWER.filter((one) => args.power?.includes(one)) : null,
    suspend: args.suspend ?? "allowed",
    layout: args.layout ? layoutOf(args.layout) : null,
    domain: args.domain ? xenDomainOf(args.domain) : null,
  };
  const faults = rules(gui, name, args);
  return faults.length ? { faults } : { gui: sorted(gui) };
}

const loginOf = (login: NonNullable<GuiDomainArgs["login"]>): Login =>
  "follow" in login
    ? { follow: "dom0", user: login.user }
    : { user: login.user ?? QUBE_USER, password: login.password };

/** Rules over several fields; qubes-host.md (h) and design §5. */
function rules(gui: GuiDomain, name: string, args: GuiDomainArgs): Fault[] {
  const faults: Fault[] = [];
  const add = (property: string, reason: string) => faults.push({ property, reason });
  if (args.qube === undefined) {
    const bad = guiDomainNameFault(name);
    if (bad) add("qube", `${bad}. The qube takes the resource's name unless "qube" says otherwise`);
  }
  ladderFaults(gui, add);
  if (gui.clients !== "default" && gui.clients.includes(gui.qube))
    add("clients", `"${gui.qube}" cannot be its own client: a GUI domain's own windows are shown by dom0`);
  if (gui.audiovm === gui.qube)
    add(
      "audiovm",
      `"${gui.qube}" as its own audio domain is not in this release; give "dom0", "" or another qube`,
    );
  if (gui.template === gui.qube) add("template", `"${gui.template}" cannot be its own template`);
  if (gui.session === "autologin" && gui.sessionUser === null)
    add("sessionUser", `missing: session "autologin" needs the user of dom0 who is logged in`);
  if (gui.session !== "autologin" && gui.sessionUser !== null)
    add("sessionUser", `only session "autologin" takes a user, not session "${gui.session}"`);
  if (gui.session !== "choose" && !gui.display.includes("xephyr"))
    add(
      "session",
      `"${gui.session}" is for mode "xephyr": only there is the session one of dom0's greeter; leave it out`,
    );
  if (gui.viewers.length && !gui.display.some(isRemote))
    add(
      "viewers",
      `${shown(gui.viewers)} is not allowed: only modes "vnc" and "rdp" have viewers; leave it out`,
    );
  if (gui.remote && !gui.display.includes("vnc"))
    add("remote", `only mode "vnc" has a password of its own; leave it out, or add "vnc" to display`);
  if (gui.viewers.includes(gui.qube)) add("viewers", `"${gui.qube}" cannot view itself`);
  if (gui.input) inputFaults(gui.input, gui.qube, gui.display.includes("gpu"), add);
  accessFaults(gui, add);
  powerFaults(gui, add);
  if (gui.layout) layoutFaults(gui.layout, gui.display, add);
  if (gui.domain) xenFaults(gui, gui.domain, add);
  for (const mode of modesOf(gui)) {
    const { memory, maxmem } = inMode(gui, mode);
    if (maxmem === 0 || memory === null || maxmem >= memory) continue;
    add("maxmem", `${maxmem} MiB is below memory (${memory} MiB)`);
    break;
  }
  return faults;
}

/**
 * What a program must keep beyond `parseGuiDomain`: the secrets that a remote screen needs. A state may lack them, for it was imported, or an
 * earlier release did not ask for them, and can still be read, changed and destroyed.
 */
export function programFaults({ display, viewers, remote, login }: GuiDomain): Fault[] {
  const faults: Fault[] = [];
  if (display.includes("vnc") && viewers.length && !remote)
    faults.push({
      property: "remote",
      reason: `missing: whoever gets as far as a viewer (${viewers.join(", ")}) would have the session that is open; give remote: { password }, as a secret`,
    });
  if (display.includes("rdp") && !login)
    faults.push({
      property: "login",
      reason: `missing: mode "rdp" asks who connects for a user of the qube and a password, and Qubes' templates give nobody one; give login: { password }, as a secret`,
    });
  return faults;
}

/** What plain Xen does not have, and why: a domain there is no qube. */
export const ONLY_QUBES: Partial<Record<keyof GuiDomain, string>> = {
  template: 'its domains are not made from templates of Qubes; say what it is made of in "domain"',
  label: "its windows have no labels",
  clients: "a domain there shows itself alone, since no windows of others go to it",
  restartClients: "a GUI domain has no clients there",
  audiovm: "sound does not go from domain to domain there; an AudioDomain is given its devices",
  viewers: "there is no qrexec policy by which others could be let in; a viewer comes over SSH (docs/xen.md)",
  remote: "xl would keep the password in clear in its configuration; who views it comes over SSH",
  login: "guidomain puts nothing inside a domain of xl",
  input: "there is no qrexec policy for input devices; give it a USB controller with a PciAttachment",
  level: "there is no qrexec policy, so no level could be kept",
  apps: "there is no qrexec policy that would keep to them",
  rules: "there is no qrexec policy",
  power: "no domain may ask anything of dom0 there",
  suspend: "guidomain does not set up the sleep of plain Xen hosts",
  layout: "guidomain puts nothing inside a domain of xl",
};

/** What a description has where the program says nothing, if that is not nothing. */
const DEFAULTS: Partial<Record<string, string>> = {
  template: DEFAULT_TEMPLATE,
  label: DEFAULT_LABEL,
  restartClients: "never",
  suspend: "allowed",
};

/** docs/xen.md. */
function xenFaults(gui: GuiDomain, { type }: XenDomain, add: (property: string, reason: string) => void) {
  onlyQubesFaults(gui, ONLY_QUBES, DEFAULTS, add);
  if (gui.display.includes("rdp"))
    add(
      `display[${gui.display.indexOf("rdp")}]`,
      `"rdp" is not for plain Xen: its server would have to be set up inside the domain, where guidomain puts nothing; allowed are "gpu", "xephyr", "vnc"`,
    );
  if (type === "pvh" && gui.display.includes("gpu"))
    add("domain.type", `"pvh" cannot have a display of its own: xl says "${PVH_WORDS}"; give "hvm" or "pv"`);
}

/** docs/power.md. */
function powerFaults(
  { level, power, suspend, display }: GuiDomain,
  add: (property: string, reason: string) => void,
) {
  if (power === null) return;
  if (power.length && level !== null && POWERLESS.includes(level))
    add(
      "power",
      `level "${level}" has no say over the machine; leave it out, or choose a level of user or above`,
    );
  if (!power.includes("suspend")) return;
  if (suspend === "blocked")
    add(
      "power",
      `"suspend" is not allowed: suspend: "blocked" keeps the host from sleeping; leave one of them out`,
    );
  else if (display.every((rung) => rung === "xephyr" || rung === "dom0"))
    add(
      "power",
      `"suspend" is not allowed: in mode "xephyr" a host that slept shows nothing but a pointer (QubesOS/qubes-issues#9384); leave it out`,
    );
}

/** Design §7. */
function accessFaults(
  { qube, level, apps, rules }: GuiDomain,
  add: (property: string, reason: string) => void,
) {
  if (level === null) {
    if (apps)
      add("apps", `only level "kiosk" has a list of applications; add level: "kiosk", or leave it out`);
    if (rules) add("rules", `rules of one's own come on top of a level; add one: ${allowedLevels}`);
    return;
  }
  const parsed = parsePrincipal({ qube, level, apps: apps ?? [], rules: rules ?? [] });
  if ("principal" in parsed) return;
  for (const { property, reason } of parsed.faults) if (property !== "qube") add(property, reason);
}

/** What a ladder must keep, and what mode "gpu" asks of the rest; qubes-host.md (b), (h). */
function ladderFaults(gui: GuiDomain, add: (property: string, reason: string) => void): void {
  const { display } = gui;
  if (display.length === 0) add("display", `[] is not allowed; name a mode: ${allowedModes}`);
  display.forEach((rung, i) => {
    const at = `display[${i}]`;
    if (display.indexOf(rung) < i) add(at, `"${rung}" is there twice; each mode is tried once`);
    else if (rung === "dom0" && i < display.length - 1)
      add(at, `"dom0" (the host's own screen, as before) can only be the last; nothing comes after it`);
  });
  if (display.length === 1 && display[0] === "dom0")
    add("display", `["dom0"] asks for no GUI domain at all; name a mode before it: ${allowedModes}`);
  if (!display.includes("gpu")) {
    if (gui.gpu) add("gpu", `only mode "gpu" gives a display away; leave it out, or add "gpu" to display`);
    return;
  }
  if (gui.domain === null && gui.memory !== null && gui.memory < GPU_MEMORY)
    add("memory", `${gui.memory} MiB is below what mode "gpu" needs (${GPU_MEMORY} MiB)`);
  if (gui.domain === null && modesOf(gui).length === 1 && gui.maxmem !== null && gui.maxmem !== 0)
    add(
      "maxmem",
      `${gui.maxmem} MiB: with PCI devices there is no memory balancing, so in mode "gpu" it is 0; leave it out`,
    );
}

/** Lists whose order means nothing are kept sorted, so that their order is never a difference. */
function sorted(gui: GuiDomain): GuiDomain {
  return {
    ...gui,
    clients: gui.clients === "default" ? "default" : [...new Set(gui.clients)].sort(),
  };
}

/** What a schema refused, by property path. */
export function faultsOf(issues: readonly v.BaseIssue<unknown>[] = []): Fault[] {
  return issues.map((issue) => ({ property: pathOf(issue), reason: issue.message }));
}
