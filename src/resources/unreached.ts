import * as pulumi from "@pulumi/pulumi";

/**
 * `unreachable: "skip"` lets a run go on without a host that does not answer; it must not end well all the same. A provider cannot say
 * "go on, then fail", a program can.
 */
export function failAtTheEnd(what: string, looked: pulumi.Output<boolean>): void {
  looked.apply((answered) => {
    if (answered !== false) return;
    const error = new pulumi.RunError(
      `${what} was not looked at: its host does not answer. Its state is kept as it was.`,
    );
    error.stack = error.message; // older language hosts print the stack of every error
    throw error;
  });
}
