/**
 * How hosts are reached: `guidomain:hosts` in the configuration, parsed into `HostConnection`s; inventoryFile.ts reads the same from YAML.
 * Parsing is the only validation; whatever has the type has passed it.
 */
import { resolve } from "node:path";
import * as v from "valibot";
import { integer, only, pathOf, shown, step, wrong } from "../model/fields.ts";
import { hostNameFault } from "../model/names.ts";
import { HostError } from "./errors.ts";

export interface HostConnection {
  name: string;
  address: string;
  port: number;
  user: string;
  /** Private key. Absolute or below `~/`, which stays as written so that a state file fits another machine too. */
  identityFile?: string;
  /** `true` for the agent of SSH_AUTH_SOCK, else the path of its socket. */
  agent?: true | string;
  /** Of the identity file. Secret. */
  passphrase?: string;
  /** Accepted host keys, `SHA256:…` without padding. */
  hostKey?: string[];
  /** The known_hosts file that is asked when there is no `hostKey`. */
  knownHosts?: string;
  /** Jump host. */
  via?: HostConnection;
  /** Argument list with %h, %p, %r and %% still in it. */
  proxyCommand?: string[];
}

export type Hosts = Map<string, HostConnection>;

/** One thing that is wrong; `property` is a path such as `t14.port`, empty for the whole. */
export interface InventoryFault {
  property: string;
  reason: string;
}

export class InventoryError extends HostError {
  override readonly name = "InventoryError";
  readonly faults: InventoryFault[];

  constructor(source: string, faults: InventoryFault[]) {
    const lines = faults.map(({ property, reason }) => (property ? `${property}: ${reason}` : reason));
    const host = faults.length === 1 ? (faults[0]?.property.split(".")[0] ?? "") : "";
    super(
      "config",
      host,
      lines.map((line) => `${source}: ${line}`).join("\n"),
      `Correct ${source}; nothing was connected.`,
    );
    this.faults = faults;
  }
}

/** A field that must be a string in a certain form; the refusal shows the value. */
function form(pattern: RegExp, expected: string) {
  return v.pipe(v.string(wrong(expected)), v.regex(pattern, wrong(expected)));
}

const path = form(/^[^\0\n]*[^\0\n/]$/, "the path of a file");
const FINGERPRINT =
  'a fingerprint such as "SHA256:…", as `ssh-keygen -lf /etc/ssh/ssh_host_ed25519_key.pub` prints it on the host';
const fingerprint = v.pipe(
  form(/^SHA256:[A-Za-z0-9+/]{43}=?$/, FINGERPRINT),
  v.transform((value) => value.replace(/=$/, "")),
);

const fields = {
  address: form(
    /^[A-Za-z0-9:][A-Za-z0-9._:%-]*$/,
    'a host name or an IP address alone; user and port are keys of their own ("user", "port")',
  ),
  port: v.optional(integer(1, 65535, "a port"), 22),
  // No leading "-": it would be an option where a proxy command takes the user.
  user: v.optional(form(/^[A-Za-z0-9_][A-Za-z0-9_.@+-]*$/, "a user's name on the host"), "root"),
  identityFile: v.optional(path),
  agent: v.optional(
    v.union(
      [v.literal(true), path],
      wrong("true (the agent of SSH_AUTH_SOCK) or the path of an agent's socket"),
    ),
  ),
  // Never shown, whatever was written there.
  passphrase: v.optional(v.string("the passphrase must be a text (the value is not shown)")),
  hostKey: v.optional(
    v.pipe(
      v.unknown(),
      v.rawTransform(({ dataset: { value }, addIssue, NEVER }): string[] => {
        const list: unknown[] = Array.isArray(value) ? value : [value];
        const parsed = v.safeParse(v.pipe(v.array(fingerprint), v.minLength(1)), list);
        if (parsed.success) return parsed.output;
        const input = list.find((item) => !v.is(fingerprint, item)) ?? value;
        addIssue({ message: wrong(`${FINGERPRINT}, or a list of them`)({ input }) });
        return NEVER;
      }),
    ),
  ),
  knownHosts: v.optional(path),
  via: v.optional(form(/./, "the name of another host")),
  proxyCommand: v.optional(
    v.pipe(
      v.unknown(),
      v.rawTransform(({ dataset: { value }, addIssue }): string[] => {
        const words = typeof value === "string" ? splitWords(value) : value;
        const fault = proxyFault(words);
        if (fault) addIssue({ message: fault });
        return words as string[]; // proxyFault saw that it is one
      }),
    ),
  ),
};
const ALLOWED = Object.keys(fields).join(", ");

const Entry = v.pipe(
  only(
    fields,
    ({ input }) =>
      `${input === null ? "nothing" : `a ${typeof input}`} stands here; give a map with ${ALLOWED}`,
    `unknown; allowed are ${ALLOWED}`,
  ),
  v.rawCheck(({ dataset, addIssue }) => {
    if (!dataset.typed) return;
    const entry = dataset.value;
    const fault = (key: keyof typeof fields, message: string) =>
      addIssue({ path: [step(entry, key)], message });
    if (entry.identityFile === undefined && entry.agent === undefined)
      fault(
        "identityFile",
        "missing; give the path of a private key, or agent: true to use the keys of an SSH agent",
      );
    if (entry.identityFile !== undefined && entry.agent !== undefined)
      fault("agent", "stands beside identityFile; give one of them");
    if (entry.passphrase !== undefined && entry.identityFile === undefined)
      fault("passphrase", "belongs to an identityFile, and there is none");
    if (entry.hostKey !== undefined && entry.knownHosts !== undefined)
      fault("knownHosts", "stands beside hostKey; give one of them");
    if (entry.via !== undefined && entry.proxyCommand !== undefined)
      fault("proxyCommand", "stands beside via; give one of them");
  }),
);
type Entry = v.InferOutput<typeof Entry>;

export interface ParseOptions {
  /** Folder that relative paths start from; where the program runs unless given. */
  base?: string;
}

/**
 * Hosts by name from `value`: a map, or the same as a JSON string. `source` names the place in messages
 * (`guidomain:hosts`). Throws InventoryError with every fault found.
 */
export function parseHosts(
  value: unknown,
  source: string,
  { base = process.cwd() }: ParseOptions = {},
): Hosts {
  const map = typeof value === "string" ? fromJson(value, source) : value;
  if (typeof map !== "object" || map === null || Array.isArray(map))
    throw new InventoryError(source, [
      { property: "", reason: "give a map of hosts by name: {t14: {address: …}}" },
    ]);

  const faults: InventoryFault[] = [];
  const entries = new Map<string, Entry>();
  for (const [name, raw] of Object.entries(map)) {
    const nameFault = hostNameFault(name);
    if (nameFault) faults.push({ property: "", reason: nameFault });
    const entry = v.safeParse(Entry, raw);
    if (entry.success) entries.set(name, entry.output);
    else
      for (const issue of entry.issues)
        faults.push({ property: [name, pathOf(issue)].filter(Boolean).join("."), reason: issue.message });
  }
  if (faults.length > 0) throw new InventoryError(source, faults);

  const hosts: Hosts = new Map();
  /** `route`: the hosts whose way leads over this one. */
  const build = (name: string, entry: Entry, route: string[]): HostConnection => {
    const known = hosts.get(name);
    if (known) return known;
    const { via, ...rest } = entry;
    const host: HostConnection = { name, ...defined(rest) };
    for (const key of ["identityFile", "knownHosts", "agent"] as const) {
      const file = host[key];
      if (typeof file === "string" && !file.startsWith("~/")) host[key] = resolve(base, file);
    }
    if (host.hostKey === undefined) host.knownHosts ??= "~/.ssh/known_hosts";
    if (via !== undefined) {
      const way = [...route, name];
      const jump = entries.get(via);
      if (way.includes(via))
        faults.push({ property: `${name}.via`, reason: `goes in a circle: ${[...way, via].join(" → ")}` });
      else if (!jump)
        faults.push({
          property: `${name}.via`,
          reason: `no host "${via}"; hosts are ${[...entries.keys()].join(", ")}`,
        });
      else host.via = build(via, jump, way);
    }
    hosts.set(name, host);
    return host;
  };
  for (const [name, entry] of entries) build(name, entry, []);
  if (faults.length > 0) throw new InventoryError(source, faults);
  return hosts;
}

/** A connection as `publicConnection` gave it, read back from state. */
export function parseConnection(value: unknown, source: string): HostConnection {
  const flat: Record<string, unknown> = {};
  const names = new Set<string>();
  const add = (raw: unknown): string => {
    if (typeof raw !== "object" || raw === null || !("name" in raw) || typeof raw.name !== "string")
      throw new InventoryError(source, [
        { property: "", reason: "not a stored connection: its name is missing" },
      ]);
    const { name, via, ...entry } = raw as { name: string; via?: unknown };
    if (names.has(name))
      throw new InventoryError(source, [{ property: `${name}.via`, reason: "goes in a circle" }]);
    names.add(name);
    flat[name] = via === undefined ? entry : { ...entry, via: add(via) };
    return name;
  };
  const name = add(value);
  const host = parseHosts(flat, source).get(name);
  if (!host) throw new InventoryError(source, [{ property: "", reason: "not a stored connection" }]);
  return host;
}

/** The copy that may go to state: no passphrase, here and on the way. */
export function publicConnection({ passphrase: _, via, ...rest }: HostConnection): HostConnection {
  return via ? { ...rest, via: publicConnection(via) } : rest;
}

/** Every secret of these connections. */
export function secretsOf(hosts: Iterable<HostConnection>): string[] {
  return [...hosts].flatMap(({ passphrase, via }) => [
    ...(passphrase ? [passphrase] : []),
    ...(via ? secretsOf([via]) : []),
  ]);
}

/** The proxy command's arguments with its placeholders filled in. */
export function proxyArguments({ proxyCommand = [], address, port, user }: HostConnection): string[] {
  const values: Record<string, string> = { h: address, p: String(port), r: user, "%": "%" };
  return proxyCommand.map((word) => word.replace(/%(.)/g, (_, letter: string) => values[letter] ?? ""));
}

/** Splits like a shell's word list, without expansion; null where a quote stays open or the shell would do more. */
export function splitWords(line: string): string[] | null {
  const words: string[] = [];
  const token = /\s+|'([^']*)'|"((?:[^"\\$`]|\\.)*)"|\\(.)|([^\s'"\\|&;<>()$`*?#~]+|(?<=\S)[#~])/sy;
  let word: string | null = null;
  while (token.lastIndex < line.length) {
    const match = token.exec(line);
    if (!match) return null;
    const [all, single, double, back, plain] = match;
    const piece = single ?? double?.replace(/\\([\\"$`])/g, "$1") ?? back ?? plain;
    if (piece !== undefined) word = (word ?? "") + piece;
    else if (all && word !== null) {
      words.push(word);
      word = null;
    }
  }
  if (word !== null) words.push(word);
  return words;
}

function proxyFault(words: unknown): string | null {
  if (words === null)
    return "cannot be split into words: a quote stays open, or it needs a shell (|, $, *, …); give a list, or start a shell yourself: [sh, -c, …]";
  if (
    !Array.isArray(words) ||
    words.length === 0 ||
    !words.every((word) => typeof word === "string") ||
    words[0] === ""
  )
    return `${shown(words)} is not allowed; give a command as a list of texts, or as one text: "ssh -W %h:%p gate"`;
  for (const word of words)
    for (const [found, letter] of word.matchAll(/%(.?)/gsu))
      if (!"hpr%".includes(letter || " "))
        return `${found} is not known; allowed are %h (address), %p (port), %r (user) and %%`;
  return null;
}

function fromJson(text: string, source: string): unknown {
  try {
    return JSON.parse(text);
  } catch {
    // Node's message quotes the text, and with it perhaps a passphrase.
    throw new InventoryError(source, [
      { property: "", reason: "is a text but not JSON; give a map of hosts by name" },
    ]);
  }
}

/** Leaves out what is undefined (valibot keeps such keys; our types do not). */
function defined<T extends object>(value: T): { [K in keyof T]: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(value).filter(([, item]) => item !== undefined)) as never;
}
