/** One apply, whose failure is told in the user's words. */
import type { ApplyResult } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { applyFailure } from "./applyFailure.ts";
import type { Context, PartialFailure, Value } from "./handler.ts";
import type { ApplyRequest, HostAccess } from "./hosts.ts";

export interface Applying {
  hosts: HostAccess;
  host: string;
  /** As messages name it: "GUI domain sys-gui". */
  resource: string;
  context: Context;
  /** How the host was reached when it was last in the configuration. */
  connection: Value | undefined;
  /** What the engine keeps where the resource may be there but not whole. */
  partial?: (reason: string) => PartialFailure;
}

export async function apply(
  { hosts, host, resource, context, connection, partial }: Applying,
  request: ApplyRequest,
): Promise<ApplyResult> {
  try {
    return await hosts.apply(host, request, context, connection);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    const reason = applyFailure(error, resource, host);
    throw partial ? partial(reason) : new Error(reason, { cause: error });
  }
}
