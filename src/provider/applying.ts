/** One apply, whose failure is told in the user's words. */
import type { ApplyResult } from "../host/protocol.ts";
import { Refusal } from "../model/failure.ts";
import { owns } from "../plan/changes.ts";
import { valueOf } from "../plan/values.ts";
import { applyFailure, stillThere } from "./applyFailure.ts";
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
  partial?: (reason: string, made?: ApplyResult) => PartialFailure;
}

export async function apply(
  { hosts, host, resource, context, connection, partial }: Applying,
  request: ApplyRequest,
): Promise<ApplyResult> {
  let result: ApplyResult;
  try {
    result = await hosts.apply(host, request, context, connection);
  } catch (error) {
    if (error instanceof Refusal) throw error;
    const reason = applyFailure(error, resource, host);
    throw partial ? partial(reason) : new Error(reason, { cause: error });
  }
  const left = leftOf(request.after?.keys ?? [], request.owner, result);
  if (left.length === 0) return result;
  const reason = stillThere(left, resource, host);
  throw partial ? partial(reason, result) : new Error(reason);
}

/** Of `keys`, which should have gone for good, those that are still there and `owner`'s, each with the reason. */
export const leftOf = (keys: string[], owner: string, { left, snapshot }: ApplyResult): [string, string][] =>
  keys
    .filter((key) => owns(snapshot.ledger[key], owner) && valueOf(snapshot, key) !== null)
    .map((key) => [key, left[key] ?? "it is still there"]);
