import * as pulumi from "@pulumi/pulumi";
import { parseWorkstation } from "../model/workstation.ts";
import { AudioDomain, type AudioDomainArgs } from "./audioDomain.ts";
import { GuiDomain, type GuiDomainArgs } from "./guiDomain.ts";
import type { Host } from "./host.ts";

/** Known when the program runs: what is wrong is said before anything is touched. */
type Known<T> =
  T extends pulumi.Output<unknown>
    ? never
    : T extends Promise<unknown>
      ? never
      : T extends (infer E)[]
        ? Known<E>[]
        : T extends object
          ? { [K in keyof T]: Known<T[K]> }
          : T;

/** Passwords come from secret configuration, so they need not be known yet. */
type Credentials = "login" | "remote";
type Settings = Known<Omit<GuiDomainArgs, "host" | Credentials>> & Pick<GuiDomainArgs, Credentials>;

/** A person at a machine: a GUI domain, and so rights, of their own. */
export interface WorkstationUser extends Omit<Settings, "input" | "unreachable"> {
  /** Its qube is "sys-gui-NAME" unless `qube` says otherwise. */
  name: string;
  /** Qubes whose windows this person sees; "default" for one of all. */
  clients: "default" | string[];
}

/**
 * What is said here holds for every GUI domain of the machine. Without `users` there is one, "sys-gui", for every qube without a GUI domain
 * of its own.
 */
export interface WorkstationArgs extends Settings {
  /** The machine, or its name in the configuration. */
  host: Host | string;
  /** One GUI domain each; at level "user" unless they say otherwise. What is one person's (clients, level, apps, rules …) stands there. */
  users?: WorkstationUser[];
  /** An audio domain "sys-audio" for every qube without one of its own: true (default), false, or what it is to be. */
  audio?: boolean | Known<Omit<AudioDomainArgs, "host">>;
}

/** One machine with its GUI domains, sound and input. */
export class Workstation extends pulumi.ComponentResource {
  readonly host: Host | string;
  readonly guiDomains: readonly GuiDomain[];
  readonly audioDomain: AudioDomain | undefined;

  constructor(name: string, args: WorkstationArgs, options?: pulumi.ComponentResourceOptions) {
    const { host, ...rest } = args;
    const given = Object.fromEntries(Object.entries(rest).filter(([, value]) => value !== undefined));
    const people = Array.isArray(rest.users) ? { users: rest.users.map(standIns) } : {};
    const parsed = parseWorkstation(typeof host === "string" ? host : "host", {
      ...standIns(given),
      ...people,
    });
    if ("faults" in parsed) {
      const lines = parsed.faults.map(({ property, reason }) =>
        [`workstation ${name}`, property, reason].filter(Boolean).join(": "),
      );
      throw new pulumi.RunError(lines.join("\n"));
    }
    super("guidomain:index:Workstation", name, {}, options);
    const { users, audio } = parsed.workstation;
    this.host = host;
    this.audioDomain =
      audio === null
        ? undefined
        : new AudioDomain(
            `${name}-${audio.qube}`,
            { ...audio.args, qube: audio.qube, host },
            { parent: this },
          );
    this.guiDomains = users.map(({ qube, args: settings }, i) => {
      // A GUI domain that plays its own sound names no audio domain.
      const sound = this.audioDomain && audio?.qube !== qube && { audiovm: this.audioDomain.sound };
      const credentials = { ...credentialsOf(rest), ...credentialsOf(rest.users?.[i] ?? {}) };
      return new GuiDomain(
        `${name}-${qube}`,
        { ...sound, ...settings, ...credentials, host },
        { parent: this },
      );
    });
    this.registerOutputs({});
  }
}

const credentialsOf = ({ login, remote }: Pick<GuiDomainArgs, Credentials>) => ({
  ...(login !== undefined && { login }),
  ...(remote !== undefined && { remote }),
});

/** What is checked in place of a password that is not known yet; the GUI domain checks the real one. */
const STAND_IN = "stand-in";

/** The arguments with passwords that can be looked at now. */
function standIns<T extends object>(args: T): T {
  const { login, remote } = args as Pick<GuiDomainArgs, Credentials>;
  const isMap = (value: unknown): value is { password?: unknown } =>
    typeof value === "object" && value !== null;
  const shown = (value: { password?: unknown }) =>
    isLater(value) || isLater(value.password)
      ? { ...(isLater(value) ? {} : value), password: STAND_IN }
      : value;
  return {
    ...args,
    ...(isMap(login) && { login: shown(login) }),
    ...(isMap(remote) && { remote: shown(remote) }),
  };
}

const isLater = (value: unknown) => pulumi.Output.isInstance(value) || value instanceof Promise;
