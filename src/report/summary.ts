/** What a run did, as one document for programs and as a few lines for people. Pure. Issue 3 item 8. */

import { isRemote, PORTS } from "../model/modes.ts";

export interface Changes {
  create: number;
  update: number;
  delete: number;
  replace: number;
  same: number;
}

export interface HostReport {
  name: string;
  /** The GUI domain; one entry for each. */
  qube: string;
  mode: string;
  state: string;
  attempts: { mode: string; verdict: string; reason: string }[];
  pending: { kind: string; qubes?: string[]; why: string }[];
}

/** An audio domain; one entry for each. */
export interface SoundReport extends Omit<HostReport, "mode"> {
  /** Where the sound goes. */
  sound: string;
}

/** The document of `--json`; its schema is in docs/json.md. */
export interface RunReport {
  changes: Changes;
  hosts: HostReport[];
  sounds: SoundReport[];
  errors: string[];
}

/** A resource of the exported state; only what is read here. */
interface StateResource {
  type?: unknown;
  outputs?: unknown;
}

/** The GUI domains of an exported deployment. Outputs that are missing (older state) are left out, never invented. */
export const hostsOf = (resources: readonly StateResource[]): HostReport[] =>
  reported(resources, "GuiDomain").map(({ text, ...common }) => ({ ...common, mode: text("mode") }));

/** The audio domains of an exported deployment. */
export const soundsOf = (resources: readonly StateResource[]): SoundReport[] =>
  reported(resources, "AudioDomain").map(({ text, ...common }) => ({ ...common, sound: text("sound") }));

function reported(resources: readonly StateResource[], type: string) {
  return resources
    .filter(
      (r) => r.type === `guidomain:index:${type}` && typeof r.outputs === "object" && r.outputs !== null,
    )
    .map((r) => {
      const outputs = r.outputs as Record<string, unknown>;
      const text = (key: string) => (typeof outputs[key] === "string" ? outputs[key] : "unknown");
      const items = <T>(key: string) => (Array.isArray(outputs[key]) ? (outputs[key] as T[]) : []);
      return {
        text,
        name: text("host"),
        qube: text("qube"),
        state: outputs["looked"] === false ? "not looked at" : text("state"),
        attempts: items<HostReport["attempts"][number]>("attempts"),
        pending: items<HostReport["pending"][number]>("pending"),
      };
    })
    .sort((a, b) => (a.name + a.qube < b.name + b.qube ? -1 : 1));
}

const NO_CHANGES: Changes = { create: 0, update: 0, delete: 0, replace: 0, same: 0 };

/** The engine's counts by operation, in our five words; reads and refreshes change nothing. */
export function changesOf(counts: Readonly<Record<string, number | undefined>>): Changes {
  const changes = { ...NO_CHANGES };
  for (const [operation, count = 0] of Object.entries(counts)) {
    if (operation in changes) changes[operation as keyof Changes] += count;
    else if (operation === "import") changes.create += count;
  }
  return changes;
}

/** What a person should know at the end, and what to do next. */
export function summaryText(command: string, report: RunReport): string {
  const lines: string[] = [];
  for (const host of report.hosts) {
    lines.push(`${host.name}: ${host.qube} — mode ${host.mode}, ${STATES[host.state] ?? host.state}`);
    const [best] = host.attempts;
    const isUp = ["ready", "inUse", "rescued"].includes(host.state);
    if (isUp && best && best.mode !== host.mode && ["refused", "failed"].includes(best.verdict))
      lines.push(`  fallback: mode ${host.mode} instead of ${best.mode}`);
    lines.push(...detailsOf(host));
    for (const next of nextFor(host)) lines.push(`  next: ${next}`);
  }
  for (const audio of report.sounds) {
    const state =
      audio.state === "staged"
        ? "staged: its qube has to start anew before clients are sent to it"
        : (STATES[audio.state] ?? audio.state);
    lines.push(`${audio.name}: ${audio.qube} — sound in ${audio.sound || "no qube"}, ${state}`);
    lines.push(...detailsOf(audio));
    if (audio.state === "failed") lines.push('  next: mend what the error names, then "npm run up" again');
    if (audio.state === "drifted") lines.push('  next: "npm run up" puts it right');
    if (audio.state === "staged") lines.push(`  next: restart ${audio.qube}, then "npm run up" again`);
  }
  const done = command === "preview" ? "would be" : "were";
  const { create, update, delete: gone, replace } = report.changes;
  const counted = Object.entries({ created: create, updated: update, deleted: gone, replaced: replace })
    .filter(([, n]) => n > 0)
    .map(([what, n]) => `${n} ${what}`)
    .join(", ");
  lines.push(counted ? `Resources that ${done} changed: ${counted}.` : "No changes.");
  for (const error of report.errors) lines.push(`Error: ${error}`);
  return lines.join("\n");
}

function detailsOf({ attempts, pending }: Pick<HostReport, "attempts" | "pending">): string[] {
  return [
    // What came up, or was not needed any more, says so itself.
    ...attempts
      .filter(({ verdict }) => verdict !== "ok" && verdict !== "skipped")
      .map(({ mode, verdict, reason }) => `  ${mode}: ${verdict}${reason ? ` — ${reason}` : ""}`),
    ...pending.map(
      ({ kind, qubes = [], why }) =>
        `  pending ${[`${kind}:`, ...(qubes.length ? [`${qubes.join(", ")} —`] : []), why].join(" ")}`,
    ),
  ];
}

const STATES: Record<string, string> = {
  ready: "ready",
  inUse: "in use",
  drifted: "drifted: somebody changed it since",
  unverified: "imported, not checked yet",
  staged: "staged: it waits for a reboot",
  fallback: "fallback: it stayed where it was",
  rescued: "rescued: a boot did not bring it up, and the host went back by itself",
};

function nextFor(host: HostReport): string[] {
  const next: string[] = [];
  const restart = host.pending.filter((p) => p.kind === "restart").flatMap((p) => p.qubes ?? []);
  if (host.state === "failed") next.push('mend what the error names, then "npm run up" again');
  if (host.state === "not looked at") next.push("see that the host answers, then run again");
  if (host.state === "rescued")
    next.push('"npm run up" brings up what this host can do; change "retry" to try the rest again');
  if (host.pending.some((p) => p.kind === "reboot"))
    next.push('set reboot to "allowed" and run "npm run up" when the machine may restart');
  if (host.state === "drifted") next.push('"npm run up" puts it right');
  if (host.mode === "xephyr" && host.state === "ready")
    next.push(`log out of dom0 and choose the session "GUI Domain (${host.qube})" at its greeter`);
  if (isRemote(host.mode) && host.state === "ready") {
    const port = PORTS[host.mode];
    next.push(
      `npm run view -- ${host.name} --qube ${host.qube}; or, in one of its viewers, qvm-connect-tcp ${port}:@default:${port} and a viewer (${host.mode.toUpperCase()}) on localhost:${port}`,
    );
  }
  if (restart.length) next.push(`restart ${restart.join(", ")} when it suits you`);
  return next;
}
