/**
 * The engine's side of a provider: `pulumirpc.ResourceProvider` (proto/pulumi/provider.proto) over the stubs that the
 * SDK ships, in front of the plain interfaces of `handler.ts`.
 *
 * The SDK's own `provider.main` drops provider configuration, time limits, the preview flag, detailed diffs and the
 * log; hence this server. Only single files of the SDK are imported: the whole of it costs half a second at start.
 */

import * as grpc from "@grpc/grpc-js";
import pluginProto from "@pulumi/pulumi/proto/plugin_pb.js";
import type { IResourceProviderServer } from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import providerRpc from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import proto from "@pulumi/pulumi/proto/provider_pb.js";
import statusProto from "@pulumi/pulumi/proto/status_pb.js";
import anyProto from "google-protobuf/google/protobuf/any_pb.js";
import emptyProto from "google-protobuf/google/protobuf/empty_pb.js";
import { diffByPath, isReplacement, topLevel } from "./diff.ts";
import { EngineLog } from "./engineLog.ts";
import type {
  Abandoned,
  ChangeKind,
  Changes,
  Context,
  Failure,
  Handler,
  Properties,
  ProviderPackage,
} from "./handler.ts";
import { PartialFailure } from "./handler.ts";
import { AbandonedError, Operations } from "./operations.ts";
import { decode, encode, parseConfiguration, Secrets } from "./values.ts";

/**
 * The output in which the state keeps the reasons of a failed create or update until an update succeeds. The engine
 * forgets its own list (`initErrors`) as soon as a read succeeds, and a resource that is read before each update
 * would then pass for whole. Handlers do not see it; names with two underscores are not displayed.
 */
const UNFINISHED = "__unfinished";

export interface ServeOptions {
  /** Where the engine listens, its first command-line argument; `Handshake` and `Attach` say it too. */
  engineAddress?: string;
  /**
   * The stack's present configuration of this package. It goes before what `Configure` brings to the default provider:
   * for reading before an update, for refresh and for destroy the engine sends what the state remembers, which
   * would look for a host at its old address.
   */
  configuration?: Properties;
  /** Milliseconds that an aborted operation has before the server answers for it: Ctrl-C has to end within a second. */
  grace?: number;
}

export interface Served {
  /** TCP port on 127.0.0.1. */
  port: number;
  /** Takes secrets out of a text, those of resources included. */
  scrub(text: string): string;
  /** Aborts what runs, closes the port and the package. `why` reaches the operations as the reason. */
  stop(why?: Error): Promise<void>;
}

export async function serve(pkg: ProviderPackage, options: ServeOptions = {}): Promise<Served> {
  const secretTexts = new Set<string>();
  const scrub = (text: string) => {
    const longestFirst = [...secretTexts].sort((a, b) => b.length - a.length);
    return pkg.scrub(longestFirst.reduce((rest, secret) => rest.replaceAll(secret, "[secret]"), text));
  };
  const engineLog = new EngineLog(scrub);
  const operations = new Operations(options.grace ?? 600);
  const connect = (address: string) => {
    engineLog.connect(address);
    operations.open(); // a process that a developer attached engines to serves one after the other
  };
  if (options.engineAddress) connect(options.engineAddress);

  /** The values of a request; their secrets are remembered for the answer and kept out of every message. */
  function receive(message: Parameters<typeof decode>[0], secrets: Secrets): Properties {
    const properties = decode(message, secrets);
    for (const text of secrets.texts) secretTexts.add(text);
    return properties;
  }

  /** A resource's outputs, and why it is not whole where the last create or update has failed halfway. */
  function receiveOutputs(message: Parameters<typeof decode>[0], secrets: Secrets) {
    const { [UNFINISHED]: reasons, ...outputs } = receive(message, secrets);
    return { outputs, unfinished: Array.isArray(reasons) ? reasons.map(String) : [] };
  }

  function handlerOf(urn: string): Handler {
    const type = typeOf(urn);
    const handler = pkg.handlers[type];
    if (!handler) {
      const known = Object.keys(pkg.handlers).join(", ");
      throw new Error(`${pkg.name} ${pkg.version} has no resource type ${type}; it has ${known || "none"}`);
    }
    return handler;
  }

  interface Operation<T> {
    request: { getUrn(): string; getTimeout?(): number; getPreview?(): boolean };
    gone: AbortSignal;
    work(handler: Handler, context: Context): Promise<T>;
    secrets: Secrets;
    /** What there is to answer for if the handler does not stop when told to. */
    abandoned?(): Abandoned;
    /** The reasons to keep with a resource that is not whole, given those of a partial failure. */
    unfinished?(reasons: string[]): string[];
  }

  /** Runs one operation of a resource within its time limit; its errors become gRPC statuses. */
  async function operate<T>(operation: Operation<T>): Promise<T> {
    const { request, gone, work, secrets } = operation;
    const urn = request.getUrn();
    const handler = handlerOf(urn);
    const lines = engineLog.ofResource(urn);
    const preview = request.getPreview?.() ?? false;
    const seconds = request.getTimeout ? request.getTimeout() || (handler.defaultTimeout ?? 0) : 0;
    let context: Context | undefined;
    try {
      return await operations.run(seconds, gone, (signal) => {
        context = { urn, name: nameOf(urn), preview, signal, log: (text, how) => lines.write(text, how) };
        return work(handler, context);
      });
    } catch (error) {
      const failure =
        error instanceof AbandonedError && context
          ? answerFor(error, handler, context, operation.abandoned?.())
          : error;
      if (!(failure instanceof PartialFailure)) throw plainStatus(failure);
      const wrap = (properties: Properties) =>
        encode(properties, withDeclared(handler, secrets), secrets.texts);
      throw partialStatus(failure, wrap, operation.unfinished?.(failure.reasons) ?? failure.reasons);
    } finally {
      lines.end();
      await engineLog.flushed();
    }
  }

  function partialStatus(
    error: PartialFailure,
    wrap: (properties: Properties) => ReturnType<typeof encode>,
    unfinished: string[],
  ) {
    const reasons = error.reasons.map(scrub);
    const outputs = { ...error.outputs };
    if (unfinished.length > 0) outputs[UNFINISHED] = unfinished.map(scrub);
    const failed = new proto.ErrorResourceInitFailed();
    failed.setId(error.id);
    failed.setProperties(wrap(outputs));
    if (error.inputs) failed.setInputs(wrap(error.inputs));
    failed.setReasonsList(reasons);
    failed.setRefreshBeforeUpdate(true); // the next run looks at what is there before it decides
    const detail = new anyProto.Any();
    detail.pack(failed.serializeBinary(), "pulumirpc.ErrorResourceInitFailed");
    const status = new statusProto.Status();
    status.setCode(grpc.status.UNKNOWN);
    status.setMessage(reasons.join("\n"));
    status.addDetails(detail);
    const metadata = new grpc.Metadata();
    metadata.add("grpc-status-details-bin", Buffer.from(status.serializeBinary()));
    return { code: grpc.status.UNKNOWN, details: status.getMessage(), metadata };
  }

  function plainStatus(error: unknown): Partial<grpc.StatusObject> {
    const message = error instanceof Error ? error.message : String(error);
    return { code: grpc.status.UNKNOWN, details: scrub(message) };
  }

  function failureMessages(failures: Failure[]) {
    return failures.map(({ property, reason }) => {
      const message = new proto.CheckFailure();
      message.setProperty(property);
      message.setReason(scrub(reason));
      return message;
    });
  }

  function unary<Request, Reply>(answer: (request: Request, gone: AbortSignal) => Promise<Reply>) {
    const handle: grpc.handleUnaryCall<Request, Reply> = (call, reply) => {
      const gone = new AbortController();
      call.on("cancelled", () => gone.abort(new Error("the engine has gone")));
      answer(call.request, gone.signal).then(
        (message) => reply(null, message),
        (error: unknown) => reply(isStatus(error) ? error : plainStatus(error)),
      );
    };
    return handle;
  }

  const service: Pick<
    IResourceProviderServer,
    | "handshake"
    | "attach"
    | "getPluginInfo"
    | "getSchema"
    | "checkConfig"
    | "diffConfig"
    | "configure"
    | "check"
    | "diff"
    | "create"
    | "read"
    | "update"
    | "delete"
    | "cancel"
  > = {
    handshake: unary(async (request) => {
      connect(request.getEngineAddress());
      const reply = new proto.ProviderHandshakeResponse();
      reply.setAcceptSecrets(true);
      return reply;
    }),

    attach: unary(async (request) => {
      connect(request.getAddress());
      return new emptyProto.Empty();
    }),

    getPluginInfo: unary(async () => {
      const reply = new pluginProto.PluginInfo();
      reply.setVersion(pkg.version);
      return reply;
    }),

    getSchema: unary(async () => {
      const reply = new proto.GetSchemaResponse();
      reply.setSchema(JSON.stringify(pkg.schema));
      return reply;
    }),

    checkConfig: unary(async (request) => {
      const secrets = new Secrets();
      const news = receive(request.getNews(), secrets);
      const reply = new proto.CheckResponse();
      reply.setInputs(encode(news, secrets.keys, secrets.texts));
      reply.setFailuresList(failureMessages(await pkg.checkConfig(parseConfiguration(news))));
      return reply;
    }),

    // How hosts are reached is no part of any resource: a change replaces nothing.
    diffConfig: unary(async (request) => {
      const ignored = new Secrets();
      const changes = diffByPath(
        parseConfiguration(receive(request.getOldInputs(), ignored)),
        parseConfiguration(receive(request.getNews(), ignored)),
      );
      return diffReply(changes);
    }),

    configure: unary(async (request, gone) => {
      const secrets = new Secrets();
      const remembered = receive(request.getArgs(), secrets);
      const present = isDefaultProvider(request.getName()) ? options.configuration : undefined;
      const args = parseConfiguration(present ?? remembered);
      const lines = engineLog.ofResource("");
      await pkg.configure(args, {
        urn: "",
        name: pkg.name,
        preview: false,
        signal: gone,
        log: (text, how) => lines.write(text, how),
        secretKeys: secrets.keys,
      });
      const reply = new proto.ConfigureResponse();
      reply.setAcceptsecrets(true);
      reply.setSupportspreview(true);
      return reply;
    }),

    check: unary((request, gone) => {
      const secrets = new Secrets();
      const news = receive(request.getNews(), secrets);
      const olds = receive(request.getOlds(), new Secrets());
      return operate({
        request,
        gone,
        secrets,
        work: async (handler, context) => {
          const { inputs, failures } = await handler.check(news, olds, context);
          const reply = new proto.CheckResponse();
          reply.setInputs(encode(inputs, secrets.keys, secrets.texts));
          reply.setFailuresList(failureMessages(failures));
          return reply;
        },
      });
    }),

    diff: unary((request, gone) => {
      const secrets = new Secrets();
      const asked = {
        id: request.getId(),
        oldInputs: receive(request.getOldInputs(), secrets),
        oldOutputs: receiveOutputs(request.getOlds(), secrets).outputs,
        news: receive(request.getNews(), secrets),
      };
      return operate({
        request,
        gone,
        secrets,
        work: async (handler, context) => {
          const { changes, deleteBeforeReplace } = await handler.diff(asked, context);
          return diffReply(changes, deleteBeforeReplace);
        },
      });
    }),

    create: unary((request, gone) => {
      const secrets = new Secrets();
      const inputs = receive(request.getProperties(), secrets);
      return operate({
        request,
        gone,
        secrets,
        work: async (handler, context) => {
          const { id, outputs } = await handler.create(inputs, context);
          const reply = new proto.CreateResponse();
          reply.setId(id);
          reply.setProperties(encode(outputs, withDeclared(handler, secrets), secrets.texts));
          reply.setRefreshBeforeUpdate(handler.refreshBeforeUpdate ?? false);
          return reply;
        },
        abandoned: () => ({ operation: "create", inputs }),
      });
    }),

    read: unary((request, gone) => {
      const secrets = new Secrets();
      const { outputs, unfinished } = receiveOutputs(request.getProperties(), secrets);
      const known = { id: request.getId(), outputs, inputs: receive(request.getInputs(), secrets) };
      return operate({
        request,
        gone,
        secrets,
        work: async (handler, context) => {
          const found = await handler.read(known, context);
          const reply = new proto.ReadResponse(); // without an id: it is gone
          if (!found) return reply;
          if (unfinished.length > 0) throw new PartialFailure({ ...found, reasons: unfinished });
          const keys = withDeclared(handler, secrets);
          reply.setId(found.id);
          reply.setProperties(encode(found.outputs, keys, secrets.texts));
          reply.setInputs(encode(found.inputs, keys, secrets.texts));
          reply.setRefreshBeforeUpdate(handler.refreshBeforeUpdate ?? false);
          return reply;
        },
        unfinished: () => unfinished, // what a read finds broken by itself lasts until the next read
      });
    }),

    update: unary((request, gone) => {
      const secrets = new Secrets();
      const asked = {
        id: request.getId(),
        oldInputs: receive(request.getOldInputs(), new Secrets()),
        oldOutputs: receiveOutputs(request.getOlds(), new Secrets()).outputs,
        news: receive(request.getNews(), secrets),
      };
      return operate({
        request,
        gone,
        secrets,
        work: async (handler, context) => {
          const outputs = await handler.update(asked, context);
          const reply = new proto.UpdateResponse();
          reply.setProperties(encode(outputs, withDeclared(handler, secrets), secrets.texts));
          reply.setRefreshBeforeUpdate(handler.refreshBeforeUpdate ?? false);
          return reply;
        },
        abandoned: () => ({ operation: "update", ...asked }),
      });
    }),

    delete: unary((request, gone) => {
      const secrets = new Secrets();
      const asked = {
        id: request.getId(),
        inputs: receive(request.getOldInputs(), secrets),
        outputs: receiveOutputs(request.getProperties(), secrets).outputs,
      };
      return operate({
        request,
        gone,
        secrets,
        work: async (handler, context) => {
          await handler.delete(asked, context);
          return new emptyProto.Empty();
        },
        abandoned: () => ({ operation: "delete", ...asked }),
      });
    }),

    // Comes on Ctrl-C, and at every normal end as well.
    cancel: unary(async () => {
      operations.stop(new Error("cancelled"));
      return new emptyProto.Empty();
    }),
  };

  const server = new grpc.Server({
    "grpc.max_receive_message_length": -1,
    "grpc.max_send_message_length": -1,
  });
  server.addService(providerRpc.ResourceProviderService, service); // what it lacks answers UNIMPLEMENTED
  const bound = Promise.withResolvers<number>();
  server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, port) =>
    error ? bound.reject(error) : bound.resolve(port),
  );
  return {
    port: await bound.promise,
    scrub,
    async stop(why = new Error("the provider ends")) {
      operations.stop(why);
      await pkg.close();
      server.forceShutdown();
      engineLog.close();
    },
  };
}

/** The engine names it "default", with the package's version behind where the program's SDK says one. */
function isDefaultProvider(name: string | undefined): boolean {
  return name !== undefined && /^default(_|$)/.test(name);
}

/** What the engine is told about an operation whose handler went on after its abort. */
function answerFor(stopped: AbandonedError, handler: Handler, context: Context, request?: Abandoned): Error {
  const reason = `${stopped.message}, and did not stop when told to`;
  if (!request || context.preview) return new Error(reason);
  const left = handler.abandoned?.(request, context);
  if (!left) return new Error(`${reason}; what it has changed is not known`);
  const partial = left.id !== "" && request.operation !== "delete";
  return partial ? new PartialFailure(left) : new Error(left.reasons.join("\n"));
}

const KINDS = {
  add: proto.PropertyDiff.Kind.ADD,
  "add-replace": proto.PropertyDiff.Kind.ADD_REPLACE,
  delete: proto.PropertyDiff.Kind.DELETE,
  "delete-replace": proto.PropertyDiff.Kind.DELETE_REPLACE,
  update: proto.PropertyDiff.Kind.UPDATE,
  "update-replace": proto.PropertyDiff.Kind.UPDATE_REPLACE,
} satisfies Record<ChangeKind, number>;

function diffReply(changes: Changes, deleteBeforeReplace = false) {
  const { DIFF_SOME, DIFF_NONE } = proto.DiffResponse.DiffChanges;
  const paths = Object.keys(changes);
  const reply = new proto.DiffResponse();
  reply.setChanges(paths.length > 0 ? DIFF_SOME : DIFF_NONE);
  // These two name top-level properties, the detailed diff names paths; a path in them hides the diff
  // (pulumi/pulumi#17858).
  reply.setDiffsList(unique(paths.map(topLevel)));
  reply.setReplacesList(
    unique(Object.entries(changes).flatMap(([path, kind]) => (isReplacement(kind) ? topLevel(path) : []))),
  );
  reply.setDeletebeforereplace(deleteBeforeReplace);
  reply.setHasdetaileddiff(true);
  for (const [path, kind] of Object.entries(changes)) {
    const change = new proto.PropertyDiff();
    change.setKind(KINDS[kind]);
    change.setInputdiff(true);
    reply.getDetaileddiffMap().set(path, change);
  }
  return reply;
}

function withDeclared(handler: Handler, secrets: Secrets): ReadonlySet<string> {
  return new Set([...secrets.keys, ...(handler.secretOutputs ?? [])]);
}

function unique(names: string[]): string[] {
  return [...new Set(names)];
}

function isStatus(error: unknown): error is Partial<grpc.StatusObject> {
  return !(error instanceof Error) && typeof error === "object" && error !== null && "code" in error;
}

/** `urn:pulumi:<stack>::<project>::<parent type>$<type>::<name>`; only a name may contain "::". */
function typeOf(urn: string): string {
  return urn.split("::")[2]?.split("$").at(-1) ?? "";
}

function nameOf(urn: string): string {
  return urn.split("::").slice(3).join("::");
}
