/** Errors of reaching a host, in the words of the person who reads them. */
import type { AgentErrorBody } from "./protocol.ts";

/**
 * - `config`: the configuration cannot work; nothing was tried
 * - `unreachable`: no SSH server answered
 * - `host-key`: the host is not the one that was meant; nothing was sent
 * - `auth`: the host refused the user or the key
 * - `lost`: the line or the agent went away in the middle
 * - `protocol`: what answers is not our agent, or breaks the protocol's rules
 * - `cancelled`: the caller gave up
 */
export type HostErrorKind =
  | "config"
  | "unreachable"
  | "host-key"
  | "auth"
  | "lost"
  | "protocol"
  | "cancelled";

/**
 * `message` says what failed on which host; `next` what the reader can do about it. `changed` says what is known of a
 * change that was under way; null where none was, so that nothing has been changed.
 */
export class HostError extends Error {
  override readonly name: string = "HostError";
  readonly kind: HostErrorKind;
  readonly host: string;
  readonly next: string;
  readonly changed: string | null;

  constructor(
    kind: HostErrorKind,
    host: string,
    message: string,
    next: string,
    changed: string | null = null,
  ) {
    super(message);
    this.kind = kind;
    this.host = host;
    this.next = next;
    this.changed = changed;
  }
}

/** The agent worked and said no: `body` holds its reason and what was changed, undone and left. */
export class AgentFailure extends Error {
  override readonly name = "AgentFailure";
  readonly host: string;
  readonly body: AgentErrorBody;

  constructor(host: string, body: AgentErrorBody) {
    super(`${host}: ${body.message}`);
    this.host = host;
    this.body = body;
  }
}

export function cancelled(host: string, doing: string): HostError {
  return new HostError(
    "cancelled",
    host,
    `${host}: stopped while ${doing}`,
    "Run it again when you want to go on.",
  );
}

// Terminal control: CSI and OSC sequences, then whatever control characters are left.
const ESCAPES = /\u001b\[[0-?]*[ -/]*[@-~]|\u001b\][^\u0007\u001b]*(?:\u0007|\u001b\\)?|\u001b./g;
// Bidirectional overrides too: they make a text read as another one.
const CONTROLS = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u202a-\u202e\u2066-\u2069]/g;

/** A host's text made safe to show: no control characters but line ends and tabs, the last `cap` characters of it. */
export function clean(text: string, cap = 4096): string {
  const shown = text.replace(ESCAPES, "").replace(/\r\n?/g, "\n").replace(CONTROLS, "").trim();
  return shown.length > cap ? `…${shown.slice(-cap)}` : shown;
}

/** For what is told elsewhere too: an error event whose end comes as "close", a shared promise that failed. */
export function ignore(): void {
  // Nothing to do.
}
