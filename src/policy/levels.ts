/** A GUI domain's level → the policy that gives it. Design §7; qubes-host.md (f), row "Rank". */
import { policyFile, tagOf } from "../model/names.ts";
import { POWER_SERVICE, type PowerAction } from "../model/power.ts";
import { type Files, POLICY } from "./load.ts";
import { type Line, type Options, type Rule, renderFile, renderRule } from "./parse.ts";
import { LEVELS, type Level, type Principal } from "./principal.ts";
import { HARMLESS_FEATURES, HARMLESS_PROPERTIES } from "./rights.ts";
import { adminReads, COMMANDS } from "./services.ts";

/** What a level puts on a host. */
export interface Grant {
  /** Whole files. */
  files: Record<string, string>;
  /** Lines to append to files that others write to as well, and to take out again, by file. */
  lines: Record<string, string[]>;
  /** Features of the GUI domain: what it creates is its own. */
  features: Record<string, string>;
}

/** After the redirection of input (45), before what the GUI domain's own files (50, 51), Qubes' tools (50) and Qubes (90) allow. */
export const levelFile = (qube: string) => policyFile(46, "level", qube);
/**
 * An audio domain's: before rules about the qube by its other purpose (50-gui), down to a denial of all else, and before the level of a
 * person whose GUI domain shows it, which keeps it apart from the others' qubes: it plays their sound too. The first that fits counts.
 */
export const audioPolicy = (qube: string): string => policyFile(40, "audio", qube);
/** The level that a file of ours gives, by what its head says; null: it is none of ours. */
export function levelIn(text: string): Level | null {
  const said = /^# What \S+ may ask, at level ([a-z]+)\./m.exec(text)?.[1];
  return LEVELS.find((level) => level === said) ?? null;
}
export const isLevelFile = (path: string) => /^46-level-.+\.policy$/.test(path.slice(POLICY.length + 1));

/** Whom Qubes' own policy lets do what to the system, and to which qubes. */
export const GLOBAL_RWX = `${POLICY}/include/admin-global-rwx`;
export const LOCAL_RWX = `${POLICY}/include/admin-local-rwx`;

const TO_DOM0 = { target: "dom0" };
const rule = (
  action: Rule["action"],
  [service, argument]: readonly [string | null, string | null],
  source: string,
  target: string,
  options: Options = {},
): Line => ({ kind: "rule", rule: { service, argument, source, target, action, options } });
const comment = (text: string): Line => ({ kind: "comment", text: `# ${text}` });

/** Services, or services with an argument, of the Admin API that `source` may ask about `targets`. */
const admin = (calls: readonly string[], source: string, ...targets: string[]): Line[] =>
  calls.flatMap((call) => {
    const [service = "", argument] = call.split(" ");
    return targets.map((target) =>
      rule("allow", [service, argument ?? null], source, target, target === "dom0" ? {} : TO_DOM0),
    );
  });

const any = (...services: string[]): [string, null][] => services.map((service) => [service, null]);

/** What an application in a kiosk's qube could use to get at more than the list. */
const WAYS_OUT = ["qubes.Filecopy", "qubes.OpenInVM", "qubes.OpenURL", "qubes.StartApp", "qubes.ConnectTCP"];

/** Without these no window is shown (as Qubes' own formula has it, its local rwx narrowed to reading). */
function windows(V: string, T: string): Line[] {
  return [
    comment("windows"),
    ...any("qubes.GetImageRGBA", "qubes.SetMonitorLayout", "qubes.WaitForSession").map((call) =>
      rule("allow", call, V, T),
    ),
    ...any("qubes.GetDate", "qubes.PowerSupply").map((call) => rule("allow", call, V, "@default", TO_DOM0)),
    ...admin(["admin.vm.List", "admin.Events"], V, "dom0", T),
    ...admin(
      [
        "admin.label.Get",
        "admin.label.Index",
        "admin.vm.property.Get",
        "admin.vm.volume.List",
        "admin.vm.CurrentState",
        "admin.vm.device.pci.Available",
        "admin.vm.device.mic.Available",
        "admin.vm.feature.Get +internal",
        "admin.vm.feature.Get +servicevm",
      ],
      V,
      "dom0",
    ),
    ...admin(["admin.vm.feature.Set +keyboard-layout"], V, V),
    ...admin(
      [
        "admin.vm.property.Get",
        "admin.vm.property.GetAll",
        "admin.vm.property.List",
        "admin.vm.feature.Get",
        "admin.vm.feature.List",
        "admin.vm.feature.CheckWithTemplate",
        "admin.vm.tag.Get",
        "admin.vm.tag.List",
        "admin.vm.CurrentState",
      ],
      V,
      T,
      V,
    ),
  ];
}

/** Menus, clipboard, brightness: what a person at a desktop expects besides windows. */
function desktop(V: string, T: string): Line[] {
  return [
    comment("menus, clipboard, brightness"),
    rule("allow", ["qubes.GetAppmenus", null], V, T),
    rule("allow", ["qubes.ClipboardCopy", "+"], V, T),
    rule("allow", ["qubes.ClipboardPaste", "+"], V, T),
    rule("allow", ["policy.EvalGUI", "+qubes.ClipboardPaste"], V, "dom0"),
    rule("allow", ["qubes.SetBrightness", null], V, "@default", TO_DOM0),
  ];
}

/** A template serves everybody, whoever shows it: the menus of one's qubes are made from its. */
const menus = (V: string): Line[] => [rule("allow", ["qubes.GetAppmenus", null], V, "@type:TemplateVM")];

/** The machine itself, through a service of ours in dom0. */
const machine = (V: string, power: readonly PowerAction[]): Line[] =>
  power.length
    ? [
        comment("the machine's power"),
        ...power.map((one) => rule("allow", [POWER_SERVICE, `+${one}`], V, "dom0")),
      ]
    : [];

/** Level user: qubes of one's own are used. */
function use(V: string, T: string, D: string): Line[] {
  return [
    comment("its qubes, and new disposables of them"),
    rule("allow", ["qubes.StartApp", null], V, T),
    rule("allow", ["qubes.StartApp", null], V, D),
    ...admin(["admin.vm.Start", "admin.vm.Shutdown"], V, T),
    rule("ask", ["qubes.Filecopy", null], V, T),
  ];
}

/**
 * Level operator: qubes of one's own are run. Of Qubes' admin-local-rwx what `adminOnly` names is left out, and so is what reaches a qube of
 * somebody else by a name in the call (a netvm or template, the backend of a block or USB device, a volume to clone): policy sees the
 * argument at best. Of admin-global-ro, what tells of everybody's qubes whatever the policy says of them.
 */
function operate(V: string, T: string): Line[] {
  const set = (kind: string, names: readonly string[], ...calls: string[]) =>
    names.flatMap((name) => calls.map((call) => `admin.vm.${kind}.${call} +${name}`));
  const telltale = ["admin.vm.Stats", "admin.pool.volume.List"];
  return [
    comment("the system, reading"),
    ...admin(
      adminReads("global").filter((call) => !telltale.includes(call)),
      V,
      "dom0",
    ),
    comment("its qubes, reading"),
    ...admin(
      adminReads("local").filter((call) => call !== "admin.backup.Info"),
      V,
      T,
      V,
    ),
    comment("its qubes, running them"),
    ...admin(
      ["Kill", "Pause", "Unpause", "Suspend", "Resume"].map((call) => `admin.vm.${call}`),
      V,
      T,
    ),
    ...admin(set("property", HARMLESS_PROPERTIES, "Set", "Reset"), V, T),
    ...admin(set("feature", HARMLESS_FEATURES, "Set", "Remove"), V, T),
    ...admin(["admin.vm.firewall.Set", "admin.vm.firewall.Reload", "admin.vm.notes.Set"], V, T),
    ...admin(["admin.vm.volume.Resize +private", "admin.vm.volume.Revert +private"], V, T),
    ...admin(["admin.vm.device.mic.Attach", "admin.vm.device.mic.Detach"], V, T),
  ];
}

/** Neither side may ask anything of the other; before all else, so that no rule of one's own opens it, and no prompt offers it. */
function apart(
  V: string,
  T: string,
  D: string,
  others: readonly string[],
  barred: readonly string[],
): Line[] {
  if (others.length === 0) return [];
  const mine = { sources: [V, T], targets: [V, T, D] };
  const sides = others.map((other) => {
    const tag = `@tag:${tagOf(other)}`;
    return { sources: [other, tag], targets: [other, tag, `@dispvm:${tag}`] };
  });
  return [
    comment(`apart from ${others.join(", ")}`),
    ...sides.flatMap((side) =>
      [
        { from: mine.sources, to: side.targets },
        { from: side.sources, to: mine.targets },
      ].flatMap(({ from, to }) =>
        from.flatMap((source) => to.map((target) => rule("deny", [null, null], source, target))),
      ),
    ),
    // A prompt offers the default disposable, which no rule about templates takes out of it.
    ...barred.map((other) => rule("deny", [null, null], `@tag:${tagOf(other)}`, "@dispvm")),
  ];
}

/** What is left to Qubes' own policy and to everybody else's: for an admin all, for the others nothing that the GUI domain asks. */
function closing({ level }: Principal, V: string, T: string): Line[] {
  if (level === "admin") return [];
  return [
    comment("its qubes start applications through qubes.StartApp alone"),
    ...any(...COMMANDS, ...(level === "kiosk" ? WAYS_OUT : [])).map((call) =>
      rule("deny", call, T, "@anyvm"),
    ),
    comment("and nothing else; the tools of a desktop try much, so nobody is told of it but the journal"),
    rule("deny", [null, null], V, "*", { notify: "no" }),
  ];
}

function ofLevel({ level, apps }: Principal, V: string, T: string, D: string): Line[] {
  switch (level) {
    case "operator":
      return [...windows(V, T), ...desktop(V, T), ...use(V, T, D), ...operate(V, T)];
    case "user":
    case "admin": // and what Qubes' include files give it
      return [...windows(V, T), ...desktop(V, T), ...use(V, T, D)];
    case "guest":
      // Not in a qube that stays, where traces would stay too; what it made it may end.
      return [
        ...windows(V, T),
        ...desktop(V, T),
        comment("new disposables"),
        rule("allow", ["qubes.StartApp", null], V, D),
        ...admin(["admin.vm.Shutdown"], V, T),
      ];
    case "kiosk":
      return [
        ...windows(V, T),
        comment("its applications"),
        ...apps.map((app) =>
          rule(
            "allow",
            ["qubes.StartApp", `+${app.app}`],
            V,
            "qube" in app ? app.qube : `@dispvm:${app.disposable}`,
          ),
        ),
      ];
  }
}

/** A line that fits the same calls as one above it never counts, and is left out. */
function once(lines: Line[]): Line[] {
  const seen = new Set<string>();
  return lines.filter((line) => {
    if (line.kind !== "rule") return true;
    const key = renderRule({ ...line.rule, action: "deny", options: {} });
    if (seen.has(key)) return false;
    seen.add(key);
    return true;
  });
}

export function grantOf(principal: Principal): Grant {
  const { qube: V, level, tag, rules, apart: others, barred, power } = principal;
  const T = `@tag:${tagOf(V)}`;
  const D = `@dispvm:${T}`;
  const lines = once([
    comment(
      `What ${V} may ask, at level ${level}. Written by guidomain; a change made here is undone by the next "pulumi up".`,
    ),
    ...(level === "kiosk" ? [] : menus(V)),
    ...apart(V, T, D, others, barred),
    ...(rules.length ? [comment("rules of one's own")] : []),
    ...rules.map((each): Line => ({ kind: "rule", rule: each })),
    ...machine(V, power),
    ...ofLevel(principal, V, T, D),
    ...closing(principal, V, T),
  ]);
  const own = [`${V} ${T} allow target=dom0`, `${V} ${V} allow target=dom0`];
  return {
    files: { [levelFile(V)]: renderFile(lines) },
    // As Qubes' own formula for a GUI domain appends them.
    lines:
      level === "admin"
        ? {
            [GLOBAL_RWX]: [`${V} @adminvm allow target=dom0`, ...own],
            [LOCAL_RWX]: own,
          }
        : {},
    // Qubes tags what a qube creates with created-by-NAME, sees these two and gives it its GUI domain and tag at once. The tag created-by-NAME
    // itself gives no right: it stays when a qube is handed to somebody else.
    features: { "set-created-guivm": V, ...(tag === null ? {} : { "tag-created-vm-with": tag }) },
  };
}

/** Two spellings of one rule of an include file are the same; the same as in salt/_utils/policy_lines.py. */
const spelled = (line: string) => line.replaceAll("$", "@").replaceAll(",", " ").trim().replace(/\s+/g, " ");

export const hasLine = (text: string, line: string): boolean =>
  text.split("\n").map(spelled).includes(spelled(line));

/**
 * `text` with those of `lines` at its end that it does not have yet. To take them away again is to have changed nothing: a last line that
 * had no end has none.
 */
export function withLines(text: string, lines: readonly string[]): string {
  const all = text.split("\n");
  const end = all.at(-1) === "" ? all.length - 1 : all.length;
  return all.toSpliced(end, 0, ...lines.filter((line) => !hasLine(text, line))).join("\n");
}

/** `text` without `lines`, however they are spelled; all else is left as it is. */
export function withoutLines(text: string, lines: readonly string[]): string {
  const gone = new Set(lines.map(spelled));
  return text
    .split("\n")
    .filter((line) => !gone.has(spelled(line)))
    .join("\n");
}

/** A host's policy files with a grant in force. */
export function withGrant(files: Files, grant: Grant): Files {
  const changed = Object.entries(grant.lines).map(([file, lines]) => [
    file,
    withLines(files[file] ?? "", lines),
  ]);
  return { ...files, ...Object.fromEntries(changed), ...grant.files };
}

/** And without it. */
export function withoutGrant(files: Files, grant: Grant): Files {
  const rest = Object.fromEntries(Object.entries(files).filter(([file]) => grant.files[file] === undefined));
  const changed = Object.entries(grant.lines)
    .filter(([file]) => files[file] !== undefined)
    .map(([file, lines]) => [file, withoutLines(files[file] ?? "", lines)]);
  return { ...rest, ...Object.fromEntries(changed) };
}
