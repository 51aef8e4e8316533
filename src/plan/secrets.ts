/** What an apply hands to the host of secrets. Pure. */
import type { ApplyArgs } from "../host/protocol.ts";
import type { Secret } from "../model/secrets.ts";
import type { Plan } from "./changes.ts";
import { partsOf } from "./values.ts";

/** Every secret that is wanted, so that one which somebody has spoilt is put right too; and those that go. */
export function secretsRequest(
  qube: string,
  { touch, restores }: Pick<Plan, "touch" | "restores">,
  wanted: Record<string, Secret>,
): ApplyArgs["secrets"] {
  const gone = restores.filter(({ key, to }) => partsOf(key).kind === "secret" && to === null);
  return Object.fromEntries([
    ...gone.map(({ key }) => [key.slice("secret:".length), null]),
    ...Object.entries(wanted)
      .filter(([name]) => touch.includes(`secret:${qube}:${name}`))
      .map(([name, secret]) => [`${qube}:${name}`, secret]),
  ]);
}
