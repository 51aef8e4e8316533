/**
 * One machine and the people at it, as a program or an inventory says it: what is said of the machine holds for each of its GUI domains,
 * one for each person. Pure. Design §2, §7.
 */
import { ARGUMENTS as AUDIO_ARGUMENTS, parseAudioDomain } from "./audioDomain.ts";
import { isMap, shown } from "./fields.ts";
import { type Fault, ARGUMENTS as GUI_ARGUMENTS, type GuiDomain, parseGuiDomain } from "./guiDomain.ts";
import { qubeNameFault } from "./names.ts";

/** Whose they are alone where there are several people. */
const PERSONAL = ["apps", "clients", "level", "login", "qube", "remote", "rules", "sessionUser", "viewers"];
/** Said once for the machine: a USB qube's devices go one way. */
const SHARED = ["input", "unreachable"];

type Arguments = Record<string, unknown>;

export interface Workstation {
  /** Arguments of a GuiDomain, but its host; "" is the name of somebody who is there alone. */
  users: { name: string; qube: string; args: Arguments }[];
  /** Of an AudioDomain, but its host; null: the sound stays where it is. */
  audio: { qube: string; args: Arguments } | null;
}

const allowed = (names: readonly string[]) => `allowed are ${[...names].sort().join(", ")}`;
const without = (names: readonly string[], ...out: string[]) => names.filter((name) => !out.includes(name));
const MACHINE = [...without(GUI_ARGUMENTS, "host"), "audio", "users"];
const USER = [...without(GUI_ARGUMENTS, "host", ...SHARED), "name"];

/** A user of a machine is no user of dom0: the name is part of a qube's. */
const isUserName = (name: unknown): name is string =>
  typeof name === "string" &&
  /^[a-z][a-z0-9_-]{0,22}$/.test(name) &&
  qubeNameFault(`sys-gui-${name}`) === null;

/** `host`: the machine's name, for what its GUI domains are checked with. */
export function parseWorkstation(
  host: string,
  value: unknown,
): { workstation: Workstation } | { faults: Fault[] } {
  const faults: Fault[] = [];
  const add = (property: string, reason: string) => faults.push({ property, reason });
  if (!isMap(value)) {
    add("", `${shown(value)} is not a workstation; give a map: ${allowed(MACHINE)}`);
    return { faults };
  }
  const { users: given, audio: sound = true, ...machine } = value;
  for (const name of Object.keys(machine))
    if (!MACHINE.includes(name)) add(name, `not a property of a workstation; ${allowed(MACHINE)}`);
  const alone = given === undefined;
  if (!alone)
    for (const name of PERSONAL.filter((each) => machine[each] !== undefined))
      add(name, `${shown(machine[name])} is one person's; with "users" it stands with each of them`);

  const people = usersOf(given, add);
  const { input, ...common } = machine;
  // The keyboard goes where the screen is; in the other modes it is dom0's whoever speaks of it.
  const first = Math.max(
    0,
    people.findIndex(({ args }) => drives(args["display"] ?? common["display"])),
  );
  const users = people.map(({ name, args: own }, i) => {
    const qube = own["qube"] ?? (alone ? (common["qube"] ?? "sys-gui") : `sys-gui-${name}`);
    const args: Arguments = {
      ...(alone ? { clients: "default" } : { level: "user" }),
      ...common,
      ...own,
      ...(i === first && input !== undefined && { input }),
      qube,
    };
    return { name, qube: String(qube), args };
  });
  const seen = new Set(faults.map(({ property }) => property));
  const guis = users.map(({ name, args }, i) => {
    const known = Object.fromEntries(Object.entries(args).filter(([key]) => GUI_ARGUMENTS.includes(key)));
    const parsed = parseGuiDomain(`sys-gui-${name}`, { ...known, host });
    if ("gui" in parsed) return parsed.gui;
    for (const { property, reason } of parsed.faults) {
      // Of a name that is wrong itself.
      if (property === "qube" && !alone && people[i]?.args["qube"] === undefined) continue;
      const isOwn = !alone && people[i]?.args[property.split(/[.[]/)[0] ?? ""] !== undefined;
      const at =
        isOwn || (!alone && /^(qube|clients|apps|rules|level)/.test(property))
          ? `users[${i}].${property}`
          : property;
      if (!seen.has(at)) add(at, reason);
      seen.add(at);
    }
    return null;
  });
  apart(guis, (i, property) => (alone ? property : `users[${i}].${property}`), add);
  const audio = soundOf(sound, host, add);
  if (faults.length) return { faults };
  return { workstation: { users, audio } };
}

const drives = (display: unknown) => Array.isArray(display) && display.includes("gpu");

function usersOf(given: unknown, add: (property: string, reason: string) => void) {
  if (given === undefined) return [{ name: "", args: {} as Arguments }];
  if (!Array.isArray(given) || given.length === 0) {
    add(
      "users",
      `${shown(given)} is not allowed; give a list of users, or leave it out for a machine of one person`,
    );
    return [];
  }
  return given.flatMap((user: unknown, i) => {
    const at = `users[${i}]`;
    if (!isMap(user)) {
      add(at, `${shown(user)} is not a user; give a map: ${allowed(USER)}`);
      return [];
    }
    const { name, ...args } = user;
    if (!isUserName(name))
      add(
        `${at}.name`,
        name === undefined
          ? "missing; give the name of the person, such as alice"
          : `${shown(name)} is not allowed; give a small letter first, then small letters, digits, "_" and "-", at most 23`,
      );
    for (const key of Object.keys(args)) {
      if (SHARED.includes(key))
        add(`${at}.${key}`, `${shown(args[key])} is said of the machine, beside "users", once for all`);
      else if (!USER.includes(key)) add(`${at}.${key}`, `not a property of a user; ${allowed(USER)}`);
    }
    if (args["clients"] === undefined)
      add(
        `${at}.clients`,
        `missing; give the qubes whose windows are shown to this person, or "default" for one of all`,
      );
    return [{ name: String(name), args }];
  });
}

/** What two people cannot both have. */
function apart(
  guis: readonly (GuiDomain | null)[],
  at: (i: number, property: string) => string,
  add: (property: string, reason: string) => void,
): void {
  const taken = new Map<string, number>();
  const take = (what: string, i: number, property: string, reason: string) => {
    const other = taken.get(what);
    if (other === undefined) taken.set(what, i);
    else if (other !== i) add(at(i, property), `${reason} of ${guis[other]?.qube} already`);
  };
  const names = guis.map((gui) => gui?.qube);
  guis.forEach((gui, i) => {
    if (!gui) return;
    const { qube, clients } = gui;
    if (names.indexOf(qube) < i)
      add(at(i, "qube"), `"${qube}" is there twice; each person has a GUI domain of their own`);
    if (clients === "default") take("default", i, "clients", `"default" is not allowed: it is the word`);
    else
      clients.forEach((client, j) => {
        if (names.includes(client))
          add(
            at(i, `clients[${j}]`),
            `"${client}" is a GUI domain of this machine; name a qube with windows`,
          );
        else take(`client ${client}`, i, `clients[${j}]`, `"${client}" is not allowed: it is a client`);
      });
    if (gui.display.includes("gpu"))
      take("screen", i, "display", `mode "gpu" is not allowed: the screen is that`);
  });
}

function soundOf(
  sound: unknown,
  host: string,
  add: (property: string, reason: string) => void,
): Workstation["audio"] {
  if (sound === false) return null;
  if (sound !== true && !isMap(sound)) {
    add(
      "audio",
      `${shown(sound)} is not allowed; give true, false, or a map: ${allowed(without(AUDIO_ARGUMENTS, "host"))}`,
    );
    return null;
  }
  const args: Arguments = { clients: "default", ...(sound === true ? {} : sound) };
  if ("host" in args) add("audio.host", `${shown(args["host"])} is said by the workstation; leave it out`);
  const parsed = parseAudioDomain("sys-audio", { ...args, host });
  if ("audio" in parsed) return { qube: parsed.audio.qube, args };
  for (const { property, reason } of parsed.faults) add(property ? `audio.${property}` : "audio", reason);
  return null;
}
