/**
 * An apply that did not end well, in the user's words: what failed, what was changed, what was undone, what to do next.
 * What was changed is said here alone: the agent's message only says what failed.
 */
import { AgentFailure, HostError } from "../host/errors.ts";
import type { AgentErrorBody } from "../host/protocol.ts";
import { NOTHING_CHANGED, sentence } from "../model/failure.ts";
import { wordsFor } from "./claims.ts";

export function applyFailure(error: unknown, resource: string, host: string): string {
  if (error instanceof AgentFailure) return sentence({ resource, host, ...partsOf(error.body) });
  if (error instanceof HostError)
    return sentence({
      resource,
      host,
      // The sentence names the host already; another one, such as a jump host, stays named.
      what: error.message.startsWith(`${host}: `) ? error.message.slice(host.length + 2) : error.message,
      changed: error.changed ?? NOTHING_CHANGED,
      next: error.next,
    });
  return sentence({
    resource,
    host,
    what: error instanceof Error ? error.message : String(error),
    changed: NOT_KNOWN,
    next: 'Run "pulumi preview" to see the host as it is',
  });
}

/** The change counts, but something that should have gone for good is still there: each with the reason. */
export function stillThere(left: [string, string][], resource: string, host: string): string {
  return sentence({
    resource,
    host,
    what: `what is no longer wanted could not be removed: ${left.map(([key, why]) => `${wordsFor(key)} (${why})`).join(", ")}`,
    changed: "The rest was applied and is kept",
    next: "Mend that, then run it again: it tries the removal again",
  });
}

const NOT_KNOWN = "Whether anything was changed is not known";

const names = (keys: string[]) => keys.map(wordsFor).join(", ");

function partsOf(body: AgentErrorBody): { what: string; changed: string; next: string } {
  return {
    what: whatOf(body),
    changed: changedOf(body),
    next: NEXT[body.code] ?? 'Mend that, then run "pulumi up" again',
  };
}

/** What failed, without what was changed and what to do. */
export function whatOf({ message, failed = [], evidence = [] }: AgentErrorBody): string {
  const states = failed.map((s) => `${s.id} (${s.function}): ${s.comment.trim()}`);
  const bad = evidence.filter((e) => !e.ok);
  const checks = bad.map((e) => `${e.id}: ${oneLine(e.output) || "no output"}`);
  const details = [...states, ...checks].join("; ");
  if (!details || message.includes(details)) return message;
  // The message names the checks too, each with its last line; here they are whole, and once.
  const named = bad[0] ? message.indexOf(`: ${bad[0].id}: `) : -1;
  return `${named < 0 ? message : message.slice(0, named)}: ${details}`;
}

const oneLine = (text: string) =>
  text
    .trim()
    .split(/\s*\n\s*/)
    .join(", ");

function changedOf(body: AgentErrorBody): string {
  if (!body.changed && body.code === "internal") return NOT_KNOWN; // what the agent did not foresee
  const changed = body.changed ?? [];
  const undone = body.undone ?? [];
  const left = Object.entries(body.left ?? {});
  if (changed.length === 0 && left.length === 0) return NOTHING_CHANGED;
  const kept = changed.filter((key) => !undone.includes(key) && !(key in (body.left ?? {})));
  const words = [];
  if (undone.length) words.push(`changed and put back: ${names(undone)}`);
  if (left.length)
    words.push(`could not be put back: ${left.map(([key, why]) => `${wordsFor(key)} (${why})`).join(", ")}`);
  if (kept.length) words.push(`changed, and stays so: ${names(kept)}`);
  return capital(words.join("; "));
}

const capital = (text: string) => text.charAt(0).toUpperCase() + text.slice(1);

const REPORT = "This is a fault of guidomain. Please report it with this message";

const NEXT: Record<string, string> = {
  "not-qubes": "Check that the address leads to dom0 itself, not to a qube or to another machine",
  "unsupported-user": "Reach the host as root (guidomain:hosts, user)",
  "lock-held": "Wait until that run has ended, then run again",
  outdated: "Run again; it looks at the host anew",
  conflict: "Take it out of one of the two programs",
  "disk-full": "Make room in dom0 (df -h /var/lib /srv), then run again",
  "salt-missing": "Install Salt's dom0 part (qubes-dom0-update qubes-mgmt-salt-dom0), then run again",
  "salt-compile": 'This is a fault of guidomain\'s formula; "npm run render" shows it. Please report it',
  "salt-failed": 'Mend what the message names, then run "pulumi up" again',
  "verify-failed":
    'Mend what the check names (packages belong in the template, where a resource "Template" brings them), then run "pulumi up" again',
  "inside-failed":
    'Mend what the message names (packages come through the update proxy; one may have another name there), then run "pulumi up" again',
  "template-busy": "Shut it down, then run again. Nothing is ever shut down for you",
  "no-revision":
    "Let Qubes keep a revision of it (qvm-volume config QUBE:root revisions_to_keep 1), then run again",
  "shutdown-refused": "Shut down what uses it, then run again. Nothing is ever killed for you",
  unfinished:
    "Put that right by hand, then run again; or remove /var/lib/guidomain/journal.json on the host to keep it as it is",
  "bad-request": REPORT,
  internal: REPORT,
  cancelled: 'Run "pulumi up" again to go on',
};
