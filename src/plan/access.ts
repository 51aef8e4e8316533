/** A GUI domain's level on a host: what a plan does to the policy, what that means, and what it comes to. Pure. Design §7. */
import { inputFile } from "../formula/settings.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { clientsNow, type GuiDomain, principalOf } from "../model/guiDomain.ts";
import type { FileValue, PropertyValue } from "../model/keys.ts";
import { guiDomainNameFault, tagOf } from "../model/names.ts";
import { callOf, Evaluator, type Facts, type Qube } from "../policy/evaluate.ts";
import { breaches, explain } from "../policy/explain.ts";
import { grantOf, levelFile, levelIn, withGrant, withLines, withoutLines } from "../policy/levels.ts";
import { lintOwn } from "../policy/lint.ts";
import { type Files, type Located, loadPolicy } from "../policy/load.ts";
import type { Principal } from "../policy/principal.ts";
import { type Review, review } from "../policy/review.ts";
import type { Plan } from "./changes.ts";
import { followersOf } from "./preflight.ts";
import { partsOf, policyOf } from "./values.ts";

/** `gui` with all others that there are on its host, or will be: `others` of the same program, and those that the host has. */
export function inCompany(gui: GuiDomain, snapshot: Snapshot, others: readonly GuiDomain[]): GuiDomain {
  if (gui.level === null) return gui; // nobody is kept from anybody
  const apart = apartFrom(gui.qube, snapshot, others);
  return { ...gui, apart, barred: barredIn(factsOf(snapshot, [gui, ...others]), gui.qube, apart) };
}

function apartFrom(qube: string, snapshot: Snapshot, others: readonly GuiDomain[]): string[] {
  const names = [...others.map((one) => one.qube), ...guiDomainsOf(snapshot)];
  return [...new Set(names)].filter((name) => name !== qube).sort();
}

/** Of whose qubes one has a disposable as its default that belongs to the other side. */
function barredIn(facts: Facts, qube: string, others: readonly string[]): string[] {
  const ownerOf = (name: string) => [qube, ...others].find((gui) => facts[name]?.tags.includes(tagOf(gui)));
  const barred = Object.entries(facts).flatMap(([name, { default_dispvm }]) => {
    const [mine, its] = [ownerOf(name), default_dispvm === null ? undefined : ownerOf(default_dispvm)];
    return mine && its && mine !== its && [mine, its].includes(qube) ? [mine] : [];
  });
  return [...new Set(barred)].sort();
}

/** The qubes that show others' windows, or are set up to. */
function guiDomainsOf({ qubes }: Snapshot): string[] {
  const named = Object.values(qubes).flatMap(({ tags }) =>
    tags.flatMap((tag) => (tag.startsWith("guivm-") ? [tag.slice("guivm-".length)] : [])),
  );
  const served = Object.keys(qubes).filter((name) => (qubes[name]?.features["service.guivm"] ?? "") !== "");
  return [...named, ...served].filter(
    (name) => name !== "dom0" && qubes[name] !== undefined && guiDomainNameFault(name) === null,
  );
}

/**
 * Who the GUI domain `qube` is to policy: one of `guis`, the GUI domains of the program, or one of another program, by its file on the host.
 * null: it has no level.
 */
export function standingOf(qube: string, snapshot: Snapshot, guis: readonly GuiDomain[]): Principal | null {
  const gui = guis.find((one) => one.qube === qube);
  const others = guis.filter((one) => one !== gui);
  if (gui) return principalOf(inCompany(gui, snapshot, others));
  const level = levelIn(snapshot.files[levelFile(qube)]?.content ?? "");
  if (level === null) return null;
  return {
    qube,
    level,
    tag: null,
    apps: [],
    rules: [],
    apart: apartFrom(qube, snapshot, others),
    barred: [],
    power: [],
  };
}

/** What policy knows of the qubes of a host, once the GUI domains `coming` are as they are described. */
export function factsOf(snapshot: Snapshot, coming: readonly GuiDomain[] = []): Facts {
  const facts: Record<string, Qube> = Object.fromEntries(
    Object.entries(snapshot.qubes).map(([name, { class: kind, state, tags, features, properties }]) => [
      name,
      {
        class: kind,
        tags,
        template_for_dispvms: properties["template_for_dispvms"]?.value === "True",
        default_dispvm: properties["default_dispvm"]?.value || null,
        running: state !== "Halted",
        internal: (features["internal"] ?? "") !== "",
      },
    ]),
  );
  for (const { qube } of coming)
    facts[qube] ??= {
      class: "AppVM",
      tags: [tagOf("dom0")],
      template_for_dispvms: false,
      default_dispvm: null,
      running: false,
    };
  // What a list names follows no default any more.
  const all = byDefault(snapshot, coming);
  if (all !== null) for (const client of followersOf(all, snapshot)) showBy(facts, client, all);
  for (const gui of coming) {
    const clients = clientsNow(gui);
    if (clients !== "default") for (const client of clients) showBy(facts, client, gui.qube);
  }
  return facts;
}

/** Which of them shows every qube without a GUI domain of its own: of several that want to, the one that came first. */
function byDefault({ ledger }: Snapshot, coming: readonly GuiDomain[]): string | null {
  const all = coming.filter((gui) => clientsNow(gui) === "default");
  const known = all.find(({ behind }) => behind !== undefined);
  if (known) return known.qube;
  const wanting = all.map(({ qube }) => qube);
  const has = (ledger["global:default_guivm"]?.ours as PropertyValue | undefined)?.value;
  if (has !== undefined && !coming.some(({ qube }) => qube === has)) return null; // another program's
  return wanting.find((qube) => qube === has) ?? wanting.sort()[0] ?? null;
}

/** Qubes keeps one tag of a GUI domain on each qube. */
function showBy(facts: Record<string, Qube>, name: string, gui: string): void {
  const is = facts[name];
  if (is && is.class !== "AdminVM")
    facts[name] = { ...is, tags: [...is.tags.filter((tag) => !tag.startsWith("guivm-")), tagOf(gui)] };
}

/** The policy once `plan` has been carried out. */
export function policyAfter(before: Files, { changes, restores }: Plan): Files {
  const after: Record<string, string> = { ...before };
  const written = [...changes.map(({ wish }) => ({ key: wish.key, to: wish.value })), ...restores];
  for (const { key, to } of written) {
    const { kind, of, name } = partsOf(key);
    if (kind === "line") after[of] = (to === null ? withoutLines : withLines)(after[of] ?? "", [name]);
    if (kind !== "file") continue;
    if (to === null) delete after[name];
    else after[name] = (to as FileValue).content;
  }
  return after;
}

/**
 * What `plan` means for what each qube may ask. null: it has nothing to do with a level. `gui` null: the plan takes away the GUI domain
 * `qube`, or its level.
 */
export function reviewOf(
  qube: string,
  gui: GuiDomain | null,
  plan: Plan,
  snapshot: Snapshot,
  others: readonly GuiDomain[],
): Review | null {
  const principal = gui && principalOf(gui);
  const own = levelFile(qube);
  const before: Record<string, string> = { ...policyOf(snapshot) };
  const after = policyAfter(before, plan);
  if (!principal && after[own] === before[own]) return null;
  if (plan.changes.length + plan.restores.length === 0) return null;
  // Input devices that come to this GUI domain, or go elsewhere again, are its display's matter and not its rights'.
  const input = inputFile(qube);
  delete before[input];
  if (after[input] !== undefined) before[input] = after[input];
  const facts: Record<string, Qube> = { ...factsOf(snapshot, [...(gui ? [gui] : []), ...others]) };
  for (const { key, to } of plan.restores) {
    const { kind, of, name } = partsOf(key);
    const guivm = kind === "property" && name === "guivm" ? (to as PropertyValue | null)?.value : undefined;
    if (guivm) showBy(facts, of, guivm);
  }
  const principals = principal ? [principal] : [];
  const itself = review(before, after, facts, principals, [qube]);
  const judged = principal ? withOthers(itself) : itself;
  // What comes to a level that was there before loses what that level denies.
  const isNew = (name: string) =>
    facts[name]?.tags.includes(tagOf(qube)) && !snapshot.qubes[name]?.tags.includes(tagOf(qube));
  if (before[own] === undefined || !Object.keys(facts).some(isNew)) return judged;
  const { [own]: _, ...without } = before;
  const { refusals } = review(without, after, facts, principals, [qube]);
  return { ...judged, refusals: [...new Set([...judged.refusals, ...refusals])] };

  /**
   * Also what others with a level, who are there already, could then do to its qubes, by a rule that names one. Of those who are still to come
   * nothing is known to the policy: each is judged when it comes.
   */
  function withOthers(judged: Review): Review {
    const guis = gui ? [gui] : [];
    const there = guiDomainsOf(snapshot).filter(
      (name) => name !== qube && after[levelFile(name)] !== undefined,
    );
    const standing = [...new Set(there)].flatMap((name) => standingOf(name, snapshot, guis) ?? []);
    const opened = breaches(loadPolicy(after).rules, factsOf(snapshot, guis), standing);
    if (opened.length === 0) return judged;
    const known = new Set(breaches(loadPolicy(before).rules, factsOf(snapshot), standing));
    return { ...judged, refusals: [...judged.refusals, ...opened.filter((text) => !known.has(text))] };
  }
}

/** Refuses what `apps` and `rules` name and the host does not have, each by the argument. */
export function preflightAccess(gui: GuiDomain, snapshot: Snapshot, others: readonly GuiDomain[]): void {
  if (gui.level === null) return;
  const facts = factsOf(snapshot, [gui, ...others]);
  const refuse = (what: string, next: string) =>
    new Refusal({ resource: `GUI domain ${gui.qube}`, host: gui.host, what, next });
  (gui.apps ?? []).forEach((app, i) => {
    const name = "qube" in app ? app.qube : app.disposable;
    const it = `apps[${i}]: ${"qube" in app ? "qube" : "disposable"} "${name}"`;
    const mend = 'Correct it in "apps"';
    const is = facts[name];
    if (!is) throw refuse(`${it} does not exist there`, `${mend}, or create it`);
    if ("disposable" in app && !is.template_for_dispvms)
      throw refuse(
        `${it} is no template for disposables`,
        `${mend}, or qvm-prefs ${name} template_for_dispvms True`,
      );
    // A new disposable is shown by whoever shows its template.
    if (!is.tags.includes(tagOf(gui.qube)))
      throw refuse(`${it} is not shown by it, so no window would appear`, `${mend}, or add it to "clients"`);
  });
  const principal = principalOf(gui);
  for (const file of Object.keys(principal ? grantOf(principal).lines : {}))
    if (!snapshot.files[file])
      throw refuse(
        `level "${gui.level}" needs ${file}, which Qubes' own policy includes and which is not there`,
        "Put it back (dnf reinstall qubes-core-admin-client in dom0, or from a backup): without it every qrexec call is denied",
      );
  const own = levelFile(gui.qube);
  (gui.rules ?? []).forEach((line, i) => {
    const [fault] = lintOwn(own, { [own]: `${line}\n` }, facts);
    if (fault) throw refuse(`rules[${i}]: ${fault.field}: ${fault.reason}`, `Correct it in "rules"`);
  });
}

/** What a GUI domain with a level may ask now, for its outputs. */
export interface Rights {
  /** What it may do, in groups; part of each, perhaps after a question. */
  allowed: string[];
  /** Groups in which nothing is allowed. */
  denied: string[];
  /** What it may beyond its level, each by the rule of somebody else that comes earlier. */
  wider: string[];
}

/** null: it has no level, or is not there. */
export function rightsOf(gui: GuiDomain, snapshot: Snapshot): Rights | null {
  const principal = principalOf(gui);
  if (!principal || !snapshot.qubes[gui.qube]) return null;
  const { rules, faults } = loadPolicy(policyOf(snapshot));
  const inForce = faults.length ? [] : rules; // Qubes denies every call then
  const facts = factsOf(snapshot);
  const { may, mayNot } = explain(inForce, facts, gui.qube);
  // What its own file lacks is drift, and shows as that.
  const isThere = snapshot.files[levelFile(gui.qube)] !== undefined;
  const wider = isThere ? breaches(inForce, toldApart(facts, inForce), [principal]) : [];
  return { allowed: may.map(({ name }) => name), denied: [...mayNot], wider };
}

/**
 * Two qubes of each kind that no rule can tell apart, and every qube that a rule names: what holds between these holds between all. Each
 * preview asks, and a host may have many qubes.
 */
export function toldApart(facts: Facts, rules: readonly Located[]): Facts {
  const named = new Set(
    [
      ...rules.flatMap(({ source, target, options }) => [
        source,
        target,
        options.target,
        options.default_target,
      ]),
      ...Object.values(facts).map(({ default_dispvm }) => default_dispvm),
    ].map((token) => token?.replace("@dispvm:", "")),
  );
  const kinds = new Map<string, number>();
  return Object.fromEntries(
    Object.entries(facts).filter(([name, is]) => {
      if (name === "dom0" || named.has(name)) return true;
      const kind = JSON.stringify({ ...is, tags: [...is.tags].sort() });
      const before = kinds.get(kind) ?? 0;
      kinds.set(kind, before + 1);
      return before < 2;
    }),
  );
}

/** Questions whose answers show on the host that the level is in force; as far as the host's whole policy lets it. */
export function levelQuestions(
  gui: GuiDomain,
  snapshot: Snapshot,
  client: string | undefined,
): { target: string; call: string; allowed: boolean }[] {
  const principal = principalOf(gui);
  if (!principal) return [];
  const ofClient = ["qubes.StartApp+xterm", "qubes.VMShell"].map((call) => ({ target: client, call }));
  const ofApps = principal.apps.map((app) => ({
    target: "qube" in app ? app.qube : `@dispvm:${app.disposable}`,
    call: `qubes.StartApp+${app.app}`,
  }));
  const ofDom0 = ["policy.EvalGUI+qubes.ClipboardPaste", `admin.vm.Create.AppVM+${gui.template}`].map(
    (call) => ({
      target: "dom0",
      call,
    }),
  );
  const { rules } = loadPolicy(withGrant(policyOf(snapshot), grantOf(principal)));
  const evaluator = new Evaluator(rules, factsOf(snapshot, [gui]));
  return [...ofClient, ...ofApps, ...ofDom0].flatMap(({ target, call }) => {
    if (target === undefined) return [];
    const { decision } = evaluator.evaluate({ ...callOf(call), source: gui.qube, target });
    return [{ target, call, allowed: decision === "allow" }];
  });
}
