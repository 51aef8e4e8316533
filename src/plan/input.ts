/** Which input devices reach a screen on this host, and who would be locked out. Pure. Sources: qubes-host.md (g), (h) 5; design §5. */
import { inputFile, inputRulesOf } from "../formula/settings.ts";
import type { Snapshot } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import type { GpuGrant } from "../model/gpu.ts";
import { clientsNow, type GuiDomain } from "../model/guiDomain.ts";
import { INPUT_SERVICES, type InputRule, inputRules, KINDS, withFound } from "../model/input.ts";
import type { Mode } from "../model/modes.ts";
import { reached } from "../pci/identity.ts";
import { isUsb, pciTree } from "../pci/tree.ts";
import { POLICY_FILE } from "../policy/load.ts";
import { rulesOf } from "../policy/rules.ts";
import type { Notice } from "./preflight.ts";

const KEYBOARD = INPUT_SERVICES.keyboard;
const isDom0 = (target: string) => /^(dom0|@adminvm|@default|@anyvm|\*)$/.test(target);
const isAnswer = (word: string | undefined): word is InputRule["answer"] =>
  word === "allow" || word === "ask" || word === "deny";

/** A rule of the host's, and the file that has it. */
interface Found extends InputRule {
  file: string;
}

/** What the host says of a qube's devices, in the order in which it counts, up to what it says of all of a kind. */
function answersOf(
  qube: string,
  snapshot: Snapshot,
  counts: (file: string) => boolean = () => true,
): Found[] {
  const lines = Object.keys(snapshot.files)
    .filter((path) => POLICY_FILE.test(path) && counts(path))
    .sort()
    .flatMap((file) =>
      rulesOf(snapshot.files[file]?.content ?? "").map((rule) => ({ file, words: rule.split(/\s+/) })),
    );
  return KINDS.flatMap((kind) => {
    const service = INPUT_SERVICES[kind];
    const all = lines.flatMap(({ file, words: [s, argument = "", source, target = "", answer] }): Found[] =>
      s === service && source === qube && isDom0(target) && isAnswer(answer)
        ? [{ qube, service, argument, answer, file }]
        : [],
    );
    const last = all.findIndex(({ argument }) => argument === "*");
    return last < 0 ? all : all.slice(0, last + 1);
  });
}

function usbFunctions(qube: string, snapshot: Snapshot) {
  const tree = pciTree(snapshot.facts.pci);
  return (snapshot.qubes[qube]?.pci ?? []).flatMap((one) => reached(tree, one)).filter(isUsb);
}

/** The qubes that have USB controllers, and are not `qube`. */
const usbQubes = (qube: string, snapshot: Snapshot) =>
  Object.keys(snapshot.qubes)
    .filter((name) => name !== qube && usbFunctions(name, snapshot).length > 0)
    .sort();

/** What USB qubes may send to dom0, whatever `qube` says of it. */
const foundBefore = (qube: string, snapshot: Snapshot): Found[] =>
  usbQubes(qube, snapshot).flatMap((name) => answersOf(name, snapshot, (file) => file !== inputFile(qube)));

/**
 * That goes to the GUI domain that takes dom0's place. A question cannot be asked before somebody is logged in: a mouse that is asked
 * for is allowed, a keyboard, which can type anything, only where it is allowed already.
 */
export function foundInput(qube: string, snapshot: Snapshot): GpuGrant["inputs"] {
  const found = foundBefore(qube, snapshot).map(({ file: _, ...rule }) => ({
    ...rule,
    answer: rule.answer === "allow" || (rule.answer === "ask" && rule.service !== KEYBOARD),
  }));
  // A device that is kept out counts where the others of its kind are not.
  const open = found.filter(({ argument, answer }) => argument === "*" && answer);
  return found
    .filter(
      (rule) =>
        rule.answer ||
        (rule.argument !== "*" &&
          open.some(({ qube, service }) => qube === rule.qube && service === rule.service)),
    )
    .map((rule) => ({ ...rule, answer: rule.answer ? "allow" : "deny" }));
}

/** Why this mode cannot have the input that is asked for, or would lock somebody out; in the user's words. */
export function inputRefusals(gui: GuiDomain, mode: Mode, grant: GpuGrant, snapshot: Snapshot): string[] {
  const said = gui.input ? inputRules(gui.input) : [];
  const keyboard = mode === "gpu" ? noKeyboard(gui, grant, snapshot) : lostKeyboard(gui, snapshot);
  return [
    ...said.flatMap((rule) => overruled(rule, gui.qube, snapshot) ?? []),
    ...said.flatMap((rule) => unasked(rule, gui, mode, snapshot) ?? []),
    ...(keyboard === null ? [] : [keyboard]),
  ];
}

/**
 * The file of a GUI domain of another program that speaks of these devices, in whatever words: one of the two would lose what it has.
 * Within one program claims tell (src/provider/claims.ts), where one of the two may be about to go.
 */
export function inputTaken(
  rules: readonly InputRule[],
  gui: string,
  snapshot: Snapshot,
  urn: string,
): { key: string; what: string; owner: string } | null {
  const program = (owner: string) => owner.split("::").slice(0, 2).join("::");
  for (const { qube, service } of rules) {
    const other = answersOf(qube, snapshot, (file) => {
      const owner = snapshot.ledger[`file:${file}`]?.owner;
      const isInput = file.includes("/45-gui-") && file !== inputFile(gui);
      return isInput && owner !== undefined && program(owner) !== program(urn);
    }).find((rule) => rule.service === service);
    if (other) {
      const owner = snapshot.ledger[`file:${other.file}`]?.owner ?? "";
      return { key: `input:${qube}`, what: `${service} of "${qube}" goes where ${other.file} says`, owner };
    }
  }
  return null;
}

/** A file that comes earlier says otherwise. */
function overruled(
  { qube, service, argument, answer, path }: InputRule,
  gui: string,
  snapshot: Snapshot,
): string | null {
  const own = inputFile(gui);
  const earlier = answersOf(qube, snapshot, (file) => file < own).find(
    (rule) => rule.service === service && (rule.argument === "*" || rule.argument === argument),
  );
  if (!earlier || earlier.answer === answer) return null;
  return `${path}: "${answer}" would not count: ${earlier.file} says "${earlier.answer}" of ${service} before it; take that out there`;
}

/** A question that nobody would see: a GUI domain that is up has to show the qube that asks (Qubes' issue 8396). */
function unasked(
  { qube, answer, path }: InputRule,
  gui: GuiDomain,
  mode: Mode,
  snapshot: Snapshot,
): string | null {
  if (answer !== "ask") return null;
  const guivm = snapshot.qubes[qube]?.properties["guivm"];
  const clients = clientsNow(gui);
  const isClient = clients === "default" ? guivm?.default === true : clients.includes(qube);
  const shownBy = isClient ? gui.qube : (guivm?.value ?? "");
  const allowed = `allowed is "allow" or "deny", or "ask" with ${qube} in "clients"`;
  if (shownBy === "")
    return `${path}: "ask" is a question that no GUI domain would show, since ${qube} has none; ${allowed}`;
  if (mode === "gpu" && shownBy !== gui.qube)
    return `${path}: "ask" is a question that ${shownBy} would show, which has no screen in mode "gpu"; ${allowed}`;
  return null;
}

const isKeyboard = ({ service }: InputRule) => service === KEYBOARD;
const isOpen = ({ answer }: InputRule) => answer === "allow";
/** What comes later than the login may as well not come. */
const startsAlone = ({ qube }: InputRule, { qubes }: Snapshot) =>
  qubes[qube]?.properties["autostart"]?.value === "True";

/** Mode "gpu": nobody could type there before somebody is logged in. What is not known is no reason. */
function noKeyboard(gui: GuiDomain, grant: GpuGrant, snapshot: Snapshot): string | null {
  const { keyboards } = snapshot.facts;
  const ofDom0 = gui.input?.dom0 !== "deny";
  if (ofDom0 && keyboards?.length !== 0) return null;
  const rules = inputRulesOf(gui, "gpu", grant).filter(isKeyboard);
  const open = rules.filter(isOpen);
  if (open.some((rule) => startsAlone(rule, snapshot))) return null;
  const [late] = open;
  const own = ofDom0 ? "dom0 has none" : `input.dom0: "deny" keeps dom0's from it (allowed here is "allow")`;
  const usb = late
    ? `${late.qube}, which may send one, does not start with the host (qvm-prefs ${late.qube} autostart True)`
    : (shutOut(rules) ?? "no USB qube is allowed qubes.InputKeyboard to dom0");
  return `no keyboard would reach it: ${own}, and ${usb}`;
}

/** The other modes: dom0 shows it, and a person who can log in there now could not any more. */
function lostKeyboard(gui: GuiDomain, snapshot: Snapshot): string | null {
  if (gui.input === null || snapshot.facts.keyboards?.length !== 0) return null;
  const before = foundBefore(gui.qube, snapshot);
  const now = usbQubes(gui.qube, snapshot).flatMap((name) => answersOf(name, snapshot));
  const rules = withFound(inputRules(gui.input), before).filter(isKeyboard);
  const had = [...before, ...now].filter(isKeyboard).some(isOpen);
  const why = shutOut(rules);
  if (!had || why === null || rules.some((rule) => isOpen(rule) && startsAlone(rule, snapshot))) return null;
  return `no keyboard would reach dom0's greeter: dom0 has none, and ${why}`;
}

function shutOut(rules: readonly InputRule[]): string | null {
  const [rule] = rules.filter(({ answer, path }) => path !== undefined && answer !== "allow");
  if (!rule) return null;
  const why =
    rule.answer === "ask"
      ? "is a question that nobody can answer without a keyboard"
      : `shuts out that of ${rule.qube}`;
  return `${rule.path}: "${rule.answer}" ${why} (allowed here is "allow")`;
}

/** What must hold of `input` in whatever mode; returns what is worth knowing. */
export function preflightInput(gui: GuiDomain, snapshot: Snapshot): Notice[] {
  return (gui.input?.usb ?? []).flatMap(({ qube }, i) => {
    const at = `input.usb[${i}].qube`;
    if (!snapshot.qubes[qube]) {
      const found = usbQubes(gui.qube, snapshot)
        .map((name) => `"${name}"`)
        .join(", ");
      throw new Refusal({
        resource: `GUI domain ${gui.qube}`,
        host: gui.host,
        what: `${at}: qube "${qube}" does not exist there; those with USB controllers are: ${found || "none"}`,
        next: 'Correct it in "input", or leave it out',
      });
    }
    const controllers = usbFunctions(qube, snapshot);
    if (controllers.length === 0)
      return [
        {
          severity: "warning",
          text: `${at}: "${qube}" has no USB controller, so what is plugged in does not get there`,
        },
      ];
    const hidden = controllers.filter((fn) => isHidden(fn, snapshot));
    const { keyboards, boot } = snapshot.facts;
    if (keyboards?.length !== 0 || boot.unattended === true || hidden.length === 0) return [];
    return [
      {
        severity: "warning",
        text: `no keyboard types the passphrase at boot: dom0 has none of its own, and those of ${qube} are kept from it until that qube runs (${boot.unattendedWhy}). Connect one elsewhere, or take the controller out of rd.qubes.hide_pci and rd.qubes.hide_all_usb`,
      },
    ];
  });
}

/** Kept from dom0 from the start of this boot on, and so at the passphrase prompt. */
function isHidden({ port, sbdf }: { port: string | null; sbdf: string }, { facts }: Snapshot): boolean {
  const words = facts.cmdline.split(/\s+/);
  const hidden = words.flatMap((word) => /^rd\.qubes\.hide_pci=(.*)/.exec(word)?.[1]?.split(",") ?? []);
  const names = [port, sbdf, sbdf.replace(/^0000:/, "")];
  return (
    words.some((word) => /^rd\.qubes\.hide_all_usb(=|$)/.test(word)) ||
    hidden.some((one) => names.includes(one))
  );
}
