/** QEMU's machine protocol (QEMU documentation, "QEMU QMP Reference Manual"): one connection a command, JSON lines. */
import { createConnection } from "node:net";

interface Message {
  QMP?: unknown;
  return?: unknown;
  error?: { class: string; desc: string };
  event?: string;
}

/** Sends one command to the socket and gives what it returned. Throws with QEMU's words when it refuses, or after `timeout` ms. */
export async function qmp<T = unknown>(
  socket: string,
  command: string,
  args?: Record<string, unknown>,
  timeout = 20_000,
): Promise<T> {
  const connection = createConnection(socket);
  const timer = setTimeout(
    () => connection.destroy(new Error(`QEMU did not answer ${command} within ${timeout / 1000} s`)),
    timeout,
  );
  try {
    return await new Promise<T>((done, fail) => {
      const send = (execute: string, given?: Record<string, unknown>) =>
        connection.write(`${JSON.stringify({ execute, ...(given && { arguments: given }) })}\n`);
      let asked = false;
      const take = (line: string) => {
        const message = JSON.parse(line) as Message;
        if (message.error) fail(new Error(`QEMU refused ${command}: ${message.error.desc}`));
        else if (message.QMP) send("qmp_capabilities");
        else if (!("return" in message))
          return; // an event
        else if (asked) done(message.return as T);
        else {
          asked = true;
          send(command, args);
        }
      };
      let rest = "";
      connection.setEncoding("utf8").on("data", (text: string) => {
        const lines = `${rest}${text}`.split("\n");
        rest = lines.pop() ?? "";
        lines.forEach(take);
      });
      connection.on("error", fail);
      connection.on("close", () => fail(new Error(`QEMU closed the connection on ${command}`)));
    });
  } finally {
    clearTimeout(timer);
    connection.destroy();
  }
}
