/** An apply that did not end well, in the user's words: what failed, what was changed, what was undone, what to do next. */
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
      what: error.message,
      changed:
        error.kind === "lost"
          ? "What was half done is undone by the host itself, which then gives its lock back"
          : NOTHING_CHANGED,
      next: error.next,
    });
  return sentence({
    resource,
    host,
    what: error instanceof Error ? error.message : String(error),
    changed: "Whether anything was changed is not known",
    next: 'Run "pulumi preview" to see the host as it is',
  });
}

const names = (keys: string[]) => keys.map(wordsFor).join(", ");

function partsOf(body: AgentErrorBody): { what: string; changed: string; next: string } {
  return { what: whatOf(body), changed: changedOf(body), next: NEXT[body.code] ?? 'Mend that, then run "pulumi up" again' };
}

function whatOf(body: AgentErrorBody): string {
  const states = (body.failed ?? []).map((s) => `${s.id} (${s.function}): ${s.comment.trim()}`);
  const checks = (body.evidence ?? []).filter((e) => !e.ok).map((e) => `${e.id}: ${e.output.trim() || "no output"}`);
  const details = [...states, ...checks].join("; ");
  return details && !body.message.includes(details) ? `${body.message}: ${details}` : body.message;
}

function changedOf(body: AgentErrorBody): string {
  const changed = body.changed ?? [];
  if (changed.length === 0) return NOTHING_CHANGED;
  const undone = body.undone ?? [];
  const left = Object.entries(body.left ?? {});
  const words = [`Changed and put back: ${undone.length ? names(undone) : "nothing"}`];
  if (left.length) words.push(`still changed: ${left.map(([key, why]) => `${wordsFor(key)} (${why})`).join(", ")}`);
  return words.join("; ");
}

const NEXT: Record<string, string> = {
  "lock-held": "Wait until that run has ended, then run again",
  conflict: "Take it out of one of the two programs",
  "disk-full": "Make room in dom0 (df -h /var/lib /srv), then run again",
  "salt-missing": "Install Salt's dom0 part (qubes-dom0-update qubes-mgmt-salt-dom0), then run again",
  "salt-compile": 'This is a fault of guidomain\'s formula; "npm run render" shows it. Please report it',
  "salt-failed": 'Mend what the message names, then run "pulumi up" again',
  "verify-failed": 'Mend what the check names (packages belong in the template), then run "pulumi up" again',
  cancelled: 'Run "pulumi up" again to go on',
};
