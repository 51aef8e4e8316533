/** What a program may say about a GUI domain, and the rules it must keep. Pure. Sources: design §2, §4; qubes-host.md (b), (h). */
import { z } from "zod";
import { integer, listOf, named, oneOf, shown, text, wrong } from "./fields.ts";
import { MODES, type Mode } from "./modes.ts";
import { hostNameFault, qubeNameFault } from "./names.ts";

const allowedModes = MODES.map((m) => `"${m}"`).join(", ");

/** Modes of the design that a later release brings; named so that the refusal can say so. */
const LATER_MODES = ["gpu", "rdp"];

/** The newest template that the supported release offers (qubes-host.md (b)). */
export const DEFAULT_TEMPLATE = "fedora-43-xfce";

/** dom0 packages per mode (qubes-host.md (b), row "dom0 packages"): power and brightness for the desktop in the qube. */
const HOST_PACKAGES: Record<Mode, string[]> = {
  xephyr: ["dummy-psu-sender", "dummy-backlight-dom0"],
  vnc: ["dummy-psu-sender"],
};

const qubeName = named(qubeNameFault);
const templateOrQube = qubeName;

const mode = z.string({ error: wrong(`a mode: ${allowedModes}`) }).superRefine((value, context) => {
  if ((MODES as readonly string[]).includes(value)) return;
  context.addIssue({
    code: "custom",
    message: LATER_MODES.includes(value)
      ? `mode "${value}" is not in this release; allowed are ${allowedModes}`
      : `${shown(value)} is not a display mode; allowed are ${allowedModes}`,
  });
});

const packageName = named((name) =>
  /^[A-Za-z0-9][A-Za-z0-9+._-]{0,99}$/.test(name) ? null : `${shown(name)} is not the name of a package`,
);

const userName = named((name) =>
  /^[a-z_][a-z0-9_-]{0,31}$/.test(name) ? null : `${shown(name)} is not the name of a user of dom0`,
);

/** The arguments as a program gives them; every field but `host` may be left out. */
export const GuiDomainArgs = z.strictObject(
  {
    host: named(hostNameFault),
    /** The qube; the resource's own name unless given. */
    qube: qubeName.optional(),
    display: listOf(mode).optional(),
    clients: z
      .union([z.literal("default"), z.array(qubeName)], {
        error: (issue) => `${shown(issue.input)} is not allowed; give "default" or a list of qubes`,
      })
      .optional(),
    restartClients: oneOf("never", "allowed").optional(),
    session: oneOf("choose", "preselect", "autologin").optional(),
    sessionUser: userName.optional(),
    onDelete: oneOf("restore", "keep").optional(),
    unreachable: oneOf("fail", "skip").optional(),
    template: templateOrQube.optional(),
    label: text.optional(),
    memory: integer(64, 1_048_576, "MiB").optional(),
    maxmem: integer(0, 1_048_576, "MiB").optional(),
    vcpus: integer(1, 128, "virtual processors").optional(),
    autostart: z
      .boolean({ error: (issue) => `${shown(issue.input)} is not allowed; give true or false` })
      .optional(),
    audiovm: z
      .union([z.literal(""), z.literal("dom0"), qubeName], {
        error: (issue) => `${shown(issue.input)} is not allowed; give a qube, "dom0", or "" for none`,
      })
      .optional(),
    hostPackages: listOf(packageName).optional(),
    viewers: listOf(qubeName).optional(),
  },
  { error: wrong("the properties of a GUI domain") },
);
export type GuiDomainArgs = z.infer<typeof GuiDomainArgs>;

/** A GUI domain as described: every default filled in, every rule that needs no host kept. */
export interface GuiDomain {
  host: string;
  qube: string;
  display: Mode[];
  clients: "default" | string[];
  restartClients: "never" | "allowed";
  session: "choose" | "preselect" | "autologin";
  sessionUser: string | null;
  onDelete: "restore" | "keep";
  unreachable: "fail" | "skip";
  template: string;
  label: string;
  memory: number | null;
  maxmem: number;
  vcpus: number | null;
  autostart: boolean;
  audiovm: string;
  hostPackages: string[];
  /** Qubes that may reach the remote display through qubes.ConnectTCP; VNC only. */
  viewers: string[];
}

export interface Fault {
  property: string;
  reason: string;
}

/** What is wrong with single arguments; the rules over several are left to `parseGuiDomain`. */
export function argumentFaults(value: unknown): Fault[] {
  return GuiDomainArgs.safeParse(value).error?.issues.flatMap((issue) => faultOf(issue)) ?? [];
}

/** The description with its defaults, or what is wrong with it, by property path. */
export function parseGuiDomain(name: string, value: unknown): { gui: GuiDomain } | { faults: Fault[] } {
  const parsed = GuiDomainArgs.safeParse(value);
  if (!parsed.success) return { faults: parsed.error.issues.flatMap((issue) => faultOf(issue)) };
  const args = parsed.data;
  const qube = args.qube ?? name;
  const display = (args.display ?? ["xephyr"]) as Mode[];
  const first = display[0] ?? "xephyr";
  const gui: GuiDomain = {
    host: args.host,
    qube,
    display,
    clients: args.clients ?? [],
    restartClients: args.restartClients ?? "never",
    session: args.session ?? "choose",
    sessionUser: args.sessionUser ?? null,
    onDelete: args.onDelete ?? "restore",
    unreachable: args.unreachable ?? "fail",
    template: args.template ?? DEFAULT_TEMPLATE,
    label: args.label ?? "black",
    memory: args.memory ?? null,
    maxmem: args.maxmem ?? 4000,
    vcpus: args.vcpus ?? null,
    autostart: args.autostart ?? true,
    audiovm: args.audiovm ?? (first === "xephyr" ? "dom0" : ""),
    hostPackages: [...new Set(args.hostPackages ?? HOST_PACKAGES[first])],
    viewers: [...new Set(args.viewers ?? [])].sort(),
  };
  const faults = rules(gui, name, args);
  return faults.length ? { faults } : { gui: sorted(gui) };
}

/** Rules over several fields; qubes-host.md (h) and design §5. */
function rules(gui: GuiDomain, name: string, args: GuiDomainArgs): Fault[] {
  const faults: Fault[] = [];
  const add = (property: string, reason: string) => faults.push({ property, reason });
  if (args.qube === undefined) {
    const bad = qubeNameFault(name);
    if (bad) add("qube", `${bad}. The qube takes the resource's name unless "qube" says otherwise`);
  }
  if (gui.display.length === 0) add("display", `[] is not allowed; name a mode: ${allowedModes}`);
  if (gui.display.length > 1)
    add(
      "display",
      `${shown(gui.display)} has ${gui.display.length} rungs; this release takes one mode, ladders come with the GPU mode`,
    );
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
  if (gui.session !== "choose" && gui.display[0] !== "xephyr")
    add(
      "session",
      `"${gui.session}" is for mode "xephyr": only there is the session one of dom0's greeter; leave it out`,
    );
  if (gui.viewers.length && gui.display[0] !== "vnc")
    add("viewers", `${shown(gui.viewers)} is not allowed: only mode "vnc" has viewers; leave it out`);
  if (gui.viewers.includes(gui.qube)) add("viewers", `"${gui.qube}" cannot view itself`);
  if (gui.maxmem !== 0 && gui.memory !== null && gui.maxmem < gui.memory)
    add("maxmem", `${gui.maxmem} MiB is below memory (${gui.memory} MiB)`);
  return faults;
}

/** Lists whose order means nothing are kept sorted, so that their order is never a difference. */
function sorted(gui: GuiDomain): GuiDomain {
  return {
    ...gui,
    clients: gui.clients === "default" ? "default" : [...new Set(gui.clients)].sort(),
    hostPackages: [...gui.hostPackages].sort(),
  };
}

/** "display[1]" from ["display", 1]; an unknown key is reported at its own name. */
function faultOf(issue: z.core.$ZodIssue): Fault[] {
  const at = issue.path.reduce<string>(
    (path, part) =>
      typeof part === "number" ? `${path}[${part}]` : path ? `${path}.${String(part)}` : String(part),
    "",
  );
  if (issue.code === "unrecognized_keys") {
    const allowed = Object.keys(GuiDomainArgs.shape).sort().join(", ");
    return issue.keys.map((key) => ({
      property: key,
      reason: `not a property of a GUI domain; allowed are ${allowed}`,
    }));
  }
  return [{ property: at, reason: issue.message }];
}
