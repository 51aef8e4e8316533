/** Secrets of a GUI domain, which dom0 keeps for it and it fetches: what they are, and what may be said of them. Pure. */
import { createHash } from "node:crypto";
import { saltOf, sha512crypt } from "./crypt.ts";
import type { GuiDomain } from "./guiDomain.ts";
import type { Rung } from "./modes.ts";

export interface Secret {
  /** Changes when the secret does, and gives nobody a quicker way to it than a hash of it in /etc/shadow. State, ledger and previews have it. */
  mark: string;
  /** What the qube gets; nothing but the way to the host's root may hold it. */
  value: string;
}

/** In the order of their names. `gui` in that rung. */
export function secretsOf(gui: GuiDomain, rung: Rung): Record<string, Secret> {
  if (rung === "dom0") return {};
  const { host, qube, login, remote } = gui;
  const hashed = (name: string, password: string) => sha512crypt(password, saltOf(host, qube, name));
  return {
    ...(login && {
      login:
        login.follow === "dom0"
          ? { mark: `dom0:${login.user}`, value: `dom0:${login.user}` }
          : of(hashed("login", login.password)),
    }),
    // What is kept is the password itself, as its protocol needs it; its mark is no nearer to it for that.
    ...(remote &&
      rung === "vnc" && { vnc: { mark: of(hashed("vnc", remote.password)).mark, value: remote.password } }),
  };
}

/** What may be said of each. */
export const marksOf = (gui: GuiDomain, rung: Rung): Record<string, string> =>
  Object.fromEntries(Object.entries(secretsOf(gui, rung)).map(([name, { mark }]) => [name, mark]));

const of = (hash: string): Secret => ({
  mark: createHash("sha256").update(hash).digest("hex").slice(0, 32),
  value: hash,
});
