/** For tests: the engine's half of the contract, without an engine. */

import * as grpc from "@grpc/grpc-js";
import engineRpc from "@pulumi/pulumi/proto/engine_grpc_pb.js";
import type { LogRequest } from "@pulumi/pulumi/proto/engine_pb.js";
import providerRpc from "@pulumi/pulumi/proto/provider_grpc_pb.js";
import type {
  CheckResponse,
  ConfigureResponse,
  CreateResponse,
  DiffResponse,
  ErrorResourceInitFailed,
  ProviderHandshakeResponse,
  ReadResponse,
  UpdateResponse,
} from "@pulumi/pulumi/proto/provider_pb.js";
import proto from "@pulumi/pulumi/proto/provider_pb.js";
import statusProto from "@pulumi/pulumi/proto/status_pb.js";
import type { Empty } from "google-protobuf/google/protobuf/empty_pb.js";
import emptyProto from "google-protobuf/google/protobuf/empty_pb.js";
import type { Struct } from "google-protobuf/google/protobuf/struct_pb.js";
import struct from "google-protobuf/google/protobuf/struct_pb.js";
import type { Properties, Value } from "./handler.ts";

export function urnOf(type: string, name: string): string {
  return `urn:pulumi:test::project::${type}::${name}`;
}

/** A secret as the engine sends it. */
export function secret(value: Value): Value {
  return { "4dabf18193072939515e22adb298388d": "1b47061264138c4ac30d75fd1eb44270", value };
}

export function toStruct(wire: Properties): Struct {
  return struct.Struct.fromJavaScript(wire as Parameters<typeof struct.Struct.fromJavaScript>[0]);
}

/** Values with the secrets' wrappers left on. */
export function fromStruct(message: Struct | undefined): Properties {
  return (message?.toJavaScript() ?? {}) as Properties;
}

interface Settings {
  /** Seconds. */
  timeout?: number;
  preview?: boolean;
}

/** Calls a provider with plain values; everything it answers is as on the wire. */
export class TestClient {
  readonly raw: InstanceType<typeof providerRpc.ResourceProviderClient>;

  constructor(port: number) {
    const credentials = grpc.credentials.createInsecure();
    this.raw = new providerRpc.ResourceProviderClient(`127.0.0.1:${port}`, credentials);
  }

  /** Rejects with a `grpc.ServiceError`. */
  call<Reply>(start: (done: grpc.requestCallback<Reply>) => grpc.ClientUnaryCall): Promise<Reply> {
    return new Promise((resolve, reject) =>
      start((error, reply) => (error ? reject(error) : resolve(reply as Reply))),
    );
  }

  async handshake(engineAddress: string) {
    const request = new proto.ProviderHandshakeRequest();
    request.setEngineAddress(engineAddress);
    return this.call<ProviderHandshakeResponse>((done) => this.raw.handshake(request, done));
  }

  async configure(args: Properties, provider = "default") {
    const request = new proto.ConfigureRequest();
    request.setName(provider);
    request.setArgs(toStruct(args));
    return this.call<ConfigureResponse>((done) => this.raw.configure(request, done));
  }

  async checkConfig(news: Properties) {
    const request = new proto.CheckRequest();
    request.setNews(toStruct(news));
    const reply = await this.call<CheckResponse>((done) => this.raw.checkConfig(request, done));
    return {
      inputs: fromStruct(reply.getInputs()),
      failures: reply.getFailuresList().map((f) => f.toObject()),
    };
  }

  async diffConfig(oldInputs: Properties, news: Properties): Promise<DiffResponse.AsObject> {
    const request = new proto.DiffRequest();
    request.setOldInputs(toStruct(oldInputs));
    request.setNews(toStruct(news));
    return (await this.call<DiffResponse>((done) => this.raw.diffConfig(request, done))).toObject();
  }

  async check(urn: string, news: Properties, olds: Properties = {}) {
    const request = new proto.CheckRequest();
    request.setUrn(urn);
    request.setNews(toStruct(news));
    request.setOlds(toStruct(olds));
    const reply = await this.call<CheckResponse>((done) => this.raw.check(request, done));
    return {
      inputs: fromStruct(reply.getInputs()),
      failures: reply.getFailuresList().map((f) => f.toObject()),
    };
  }

  async diff(
    urn: string,
    id: string,
    oldInputs: Properties,
    news: Properties,
    oldOutputs: Properties = oldInputs,
  ) {
    const request = new proto.DiffRequest();
    request.setUrn(urn);
    request.setId(id);
    request.setOldInputs(toStruct(oldInputs));
    request.setOlds(toStruct(oldOutputs));
    request.setNews(toStruct(news));
    return (await this.call<DiffResponse>((done) => this.raw.diff(request, done))).toObject();
  }

  async create(urn: string, inputs: Properties, { timeout = 0, preview = false }: Settings = {}) {
    const request = new proto.CreateRequest();
    request.setUrn(urn);
    request.setProperties(toStruct(inputs));
    request.setTimeout(timeout);
    request.setPreview(preview);
    const reply = await this.call<CreateResponse>((done) => this.raw.create(request, done));
    const refreshBeforeUpdate = reply.getRefreshBeforeUpdate();
    return { id: reply.getId(), outputs: fromStruct(reply.getProperties()), refreshBeforeUpdate };
  }

  async read(
    urn: string,
    id: string,
    outputs?: Properties,
    inputs?: Properties,
    { timeout = 0 }: Settings = {},
  ) {
    const request = new proto.ReadRequest();
    request.setUrn(urn);
    request.setId(id);
    if (outputs) request.setProperties(toStruct(outputs));
    if (inputs) request.setInputs(toStruct(inputs));
    request.setTimeout(timeout);
    const reply = await this.call<ReadResponse>((done) => this.raw.read(request, done));
    return {
      id: reply.getId(),
      outputs: fromStruct(reply.getProperties()),
      inputs: fromStruct(reply.getInputs()),
      refreshBeforeUpdate: reply.getRefreshBeforeUpdate(),
    };
  }

  async update(
    urn: string,
    id: string,
    olds: { inputs: Properties; outputs: Properties },
    news: Properties,
    { timeout = 0, preview = false }: Settings = {},
  ) {
    const request = new proto.UpdateRequest();
    request.setUrn(urn);
    request.setId(id);
    request.setOlds(toStruct(olds.outputs));
    request.setOldInputs(toStruct(olds.inputs));
    request.setNews(toStruct(news));
    request.setTimeout(timeout);
    request.setPreview(preview);
    const reply = await this.call<UpdateResponse>((done) => this.raw.update(request, done));
    return {
      outputs: fromStruct(reply.getProperties()),
      refreshBeforeUpdate: reply.getRefreshBeforeUpdate(),
    };
  }

  async delete(
    urn: string,
    id: string,
    outputs: Properties = {},
    { timeout = 0 }: Settings = {},
  ): Promise<void> {
    const request = new proto.DeleteRequest();
    request.setUrn(urn);
    request.setId(id);
    request.setProperties(toStruct(outputs));
    request.setTimeout(timeout);
    await this.call<Empty>((done) => this.raw.delete(request, done));
  }

  async cancel(): Promise<void> {
    await this.call<Empty>((done) => this.raw.cancel(new emptyProto.Empty(), done));
  }

  close(): void {
    this.raw.close();
  }
}

/** What the engine would keep of a failed operation, or undefined where it keeps nothing. */
export function partialFailureOf(error: unknown): ErrorResourceInitFailed | undefined {
  const [bytes] = (error as grpc.ServiceError).metadata.get("grpc-status-details-bin");
  if (!(bytes instanceof Buffer)) return undefined;
  const [detail] = statusProto.Status.deserializeBinary(bytes).getDetailsList();
  return (
    detail?.unpack(proto.ErrorResourceInitFailed.deserializeBinary, "pulumirpc.ErrorResourceInitFailed") ??
    undefined
  );
}

/** Resolves to what a promise rejects with. */
export async function failureOf(work: Promise<unknown>): Promise<grpc.ServiceError> {
  return work.then(
    (value) => {
      throw new Error(`expected a failure, got ${JSON.stringify(value)}`);
    },
    (error: grpc.ServiceError) => error,
  );
}

export interface Line extends LogRequest.AsObject {
  /** Milliseconds, `performance.now()`. */
  at: number;
}

/** An engine that only listens to the log. */
export async function startEngine(): Promise<{ address: string; lines: Line[]; stop(): void }> {
  const lines: Line[] = [];
  const server = new grpc.Server();
  const log: grpc.handleUnaryCall<LogRequest, Empty> = (call, reply) => {
    lines.push({ ...call.request.toObject(), at: performance.now() });
    reply(null, new emptyProto.Empty());
  };
  server.addService(engineRpc.EngineService as unknown as grpc.ServiceDefinition, { log });
  const port = await new Promise<number>((resolve, reject) =>
    server.bindAsync("127.0.0.1:0", grpc.ServerCredentials.createInsecure(), (error, at) =>
      error ? reject(error) : resolve(at),
    ),
  );
  return { address: `127.0.0.1:${port}`, lines, stop: () => server.forceShutdown() };
}
