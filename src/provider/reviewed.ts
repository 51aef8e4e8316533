/** A change of a host's policy as a run tells it, whoever makes it. Design §7. */
import { Refusal } from "../model/failure.ts";
import { differenceText } from "../policy/explain.ts";
import type { Review } from "../policy/review.ts";
import type { Context } from "./handler.ts";

/** Whose rights a resource changes, in the words of its messages. */
export interface Reviewed {
  resource: string;
  host: string;
  /** Whose level others' files may make wider; null: nobody's, since the level is not what goes. */
  qube: string | null;
  /** The arguments that a refusal may rest on: `"rules" or "clients"`. */
  mend: string;
}

/** Refuses a change of rights that must not be; tells of one that will be. */
export function announceReview(
  { resource, host, qube, mend }: Reviewed,
  review: Review | null,
  context: Context,
  tells = context.preview,
): void {
  if (!review) return;
  if (review.refusals.length)
    throw new Refusal({
      resource,
      host,
      what: `its policy is refused: ${several(review.refusals)}`,
      next: `Change what is named there, or ${mend}`,
    });
  if (!tells) return;
  if (qube !== null && review.warnings.length)
    context.log(widerText(qube, review.warnings), { severity: "warning" });
  const told = differenceText(review.differences);
  if (told) context.log(`rights on host ${host}:\n${told.trimEnd()}`);
}

/** The first of several sentences, and how many more there are. */
const several = (texts: readonly string[]): string =>
  [...texts.slice(0, 5), ...(texts.length > 5 ? [`and ${texts.length - 5} more`] : [])].join("; ");

/** A file of somebody else that comes before the level's. */
export const widerText = (qube: string, found: readonly string[]): string =>
  `the policy of the host is not as the level of ${qube} has it, and guidomain changes no file of somebody else: ${several(found)}`;
