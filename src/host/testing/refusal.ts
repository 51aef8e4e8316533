/** The HostError that a promise ends with; anything else fails the test. */
import { HostError } from "../errors.ts";

export async function refusal(promise: Promise<unknown>): Promise<HostError> {
  try {
    await promise;
  } catch (error) {
    if (error instanceof HostError) return error;
    throw error;
  }
  throw new Error("it was expected to fail, and did not");
}
