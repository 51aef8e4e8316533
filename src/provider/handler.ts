/**
 * What the author of a resource sees of Pulumi: plain values in, plain values out.
 *
 * `server.ts` speaks the engine's gRPC contract and calls these interfaces. Secrets arrive unwrapped and leave wrapped
 * again without the handler's help; unknowns (values that a preview cannot know yet) arrive as the string `UNKNOWN`.
 */

/** A property value as the engine sends it, secrets unwrapped; an unknown is the string `UNKNOWN`. */
export type Value = null | boolean | number | string | Value[] | { [key: string]: Value };

export type Properties = Record<string, Value>;

/** Stands for a value that is not known before another resource is made (sdk/go/common/resource/plugin/rpc.go). */
export const UNKNOWN = "04da6b54-80e4-46f7-96ec-b56ff0331ba9";

/** Whether a value is unknown or holds an unknown anywhere inside. */
export function hasUnknown(value: Value | undefined): boolean {
  if (value === UNKNOWN) return true;
  if (typeof value !== "object" || value === null) return false;
  return Object.values(value).some(hasUnknown);
}

export const knownOf = (args: Properties): Properties =>
  Object.fromEntries(Object.entries(args).filter(([, value]) => !hasUnknown(value)));
export const unknownOf = (args: Properties): Properties =>
  Object.fromEntries(Object.entries(args).filter(([, value]) => hasUnknown(value)));

export type Severity = "debug" | "info" | "warning" | "error";

export interface LogOptions {
  /** "info" unless given. */
  severity?: Severity;
  /** Shown in the resource's row while it runs and replaced by the next one; everything else stays under Diagnostics. */
  ephemeral?: boolean;
}

export interface Context {
  /** The resource's URN; it names stack, project, type and name. Empty in `configure`. */
  urn: string;
  /** The resource's name in the program. */
  name: string;
  /** Whether this is a preview: nothing may be written anywhere. */
  preview: boolean;
  /** Aborted by Ctrl-C, by the time limit and by the engine's end; `signal.reason` is an `Error` that says which. */
  signal: AbortSignal;
  /** Shows a line beneath the resource. Scrubbed; ephemeral ones are at least 100 ms apart, the last is always sent. */
  log(message: string, options?: LogOptions): void;
}

/** What the package learns about the run beside its configuration. */
export interface ConfigureContext extends Context {
  /** Names of the arguments that were secret or held a secret (a JSON string is secret as a whole). */
  secretKeys: ReadonlySet<string>;
}

/** One rejected property; `property` is a path (`display[0]`), empty for the resource as a whole. */
export interface Failure {
  property: string;
  reason: string;
}

export type ChangeKind = "add" | "delete" | "update" | "add-replace" | "delete-replace" | "update-replace";

/**
 * Changes by property path as the engine spells it: `display[1]`, `session.user`, `features["gui-fullscreen"]`.
 * `diff.ts` makes and parses these.
 */
export type Changes = Record<string, ChangeKind>;

export interface CheckResult {
  /** The inputs with defaults filled in; they are stored, and come back as `oldInputs` in the next run. */
  inputs: Properties;
  failures: Failure[];
}

export interface DiffRequest {
  id: string;
  oldInputs: Properties;
  oldOutputs: Properties;
  news: Properties;
}

export interface DiffResult {
  changes: Changes;
  deleteBeforeReplace?: boolean;
}

export interface Created {
  /** May be empty in a preview. */
  id: string;
  /** What is left out of a preview's outputs is unknown to dependents. */
  outputs: Properties;
}

export interface ReadRequest {
  id: string;
  /** Empty on import. */
  outputs: Properties;
  /** Empty on import. */
  inputs: Properties;
}

export interface ReadResult {
  id: string;
  outputs: Properties;
  inputs: Properties;
}

export interface UpdateRequest extends DiffRequest {}

export interface DeleteRequest {
  id: string;
  inputs: Properties;
  outputs: Properties;
}

/** The operation whose handler did not end in time after its signal was aborted. */
export type Abandoned =
  | { operation: "create"; inputs: Properties }
  | ({ operation: "update" } & UpdateRequest)
  | ({ operation: "delete" } & DeleteRequest);

/** What the engine keeps of a resource that is there but not whole. */
export interface PartialResource {
  id: string;
  /** Kept in the state as the resource's outputs. */
  outputs: Properties;
  /** At least one; each is shown, and kept as an `initErrors` entry. */
  reasons: string[];
  /** Only from a read: the inputs as found, as in `ReadResult`. */
  inputs?: Properties;
}

/** One resource type. */
export interface Handler {
  /** Outputs that are secret whatever the inputs were. */
  secretOutputs?: string[];
  /** Read the host before each later preview and update, without `--refresh`. */
  refreshBeforeUpdate?: boolean;
  /** Seconds for one create, update, delete or read where the program sets no `customTimeouts`; none unless given. */
  defaultTimeout?: number;

  /** Fills in defaults and validates; an unknown is not a fault. */
  check(news: Properties, olds: Properties, context: Context): Promise<CheckResult>;
  /**
   * What differs. A refresh, and the read before an update, ask too: with what was read as `oldInputs` and the state's
   * inputs as `news`. The values shown for a path are those of `oldInputs` and `news`.
   */
  diff(request: DiffRequest, context: Context): Promise<DiffResult>;
  create(inputs: Properties, context: Context): Promise<Created>;
  /**
   * `null`: it is gone. Inputs that are returned changed make the next diff. After a partial failure the engine is told
   * so again whatever is returned, until an update succeeds.
   */
  read(request: ReadRequest, context: Context): Promise<ReadResult | null>;
  /** The new outputs. After a partial failure this is called even without a difference. */
  update(request: UpdateRequest, context: Context): Promise<Properties>;
  delete(request: DeleteRequest, context: Context): Promise<void>;
  /**
   * Answers for an operation (never a preview) that goes on although its signal was aborted a grace ago: what is
   * known to be there and why it is not whole. Without it, or for an empty id, the engine gets a plain error and
   * keeps the state it had. For a delete only the reasons count. `context.signal.reason` says why it was stopped.
   */
  abandoned?(request: Abandoned, context: Context): PartialResource;
}

/**
 * Thrown by create, update or read when the resource is there but not whole. The engine keeps it, and the next run calls
 * update even where nothing differs. After a failed update the state has the old inputs and these outputs.
 */
export class PartialFailure extends Error {
  override readonly name = "PartialFailure";
  readonly id: string;
  readonly outputs: Properties;
  readonly reasons: string[];
  readonly inputs: Properties | undefined;

  constructor({ id, outputs, reasons, inputs }: PartialResource) {
    super(reasons.join("\n"));
    this.id = id;
    this.outputs = outputs;
    this.reasons = reasons;
    this.inputs = inputs;
  }
}

/** A provider: its types and how it is configured. */
export interface ProviderPackage {
  name: string;
  version: string;
  /** The package schema (https://www.pulumi.com/docs/using-pulumi/pulumi-packages/schema/). */
  schema: object;
  /** By type token, `guidomain:index:GuiDomain`. */
  handlers: Record<string, Handler>;
  /** The configuration as `configure` will get it; unknowns are no fault. */
  checkConfig(news: Properties): Failure[] | Promise<Failure[]>;
  /** Called once a run, before any operation but check; again when another engine attaches to the same process. */
  configure(args: Properties, context: ConfigureContext): Promise<void>;
  /** Takes secrets out of a text before it leaves the process. Secret inputs of the resource are already out. */
  scrub(text: string): string;
  /** Called once at the end; takes at most a second. */
  close(): Promise<void>;
}
