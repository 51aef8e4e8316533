/** A TCP relay on 127.0.0.1 whose line can go dead: open, but nothing passes any more. */
import { connect, createServer, type Socket } from "node:net";

export interface Relay {
  port: number;
  /** Connections so far. */
  connections(): number;
  /** From now on, no byte passes and nothing is closed. */
  freeze(): void;
  /** Ends what is open, as a router that restarts does. */
  cut(): void;
  /** Connections are passed on again. */
  thaw(): void;
  /** No new connections; those that are open stay. */
  refuse(): void;
  stop(): Promise<void>;
}

export function startRelay(target: number): Promise<Relay> {
  const sockets = new Set<Socket>();
  let frozen = false;
  let connections = 0;
  const server = createServer((near) => {
    connections++;
    const far = connect(target, "127.0.0.1");
    for (const [from, to] of [
      [near, far],
      [far, near],
    ] as const) {
      sockets.add(from);
      from.on("data", (chunk) => {
        if (!frozen) to.write(chunk);
      });
      from.on("end", () => {
        if (!frozen) to.end();
      });
      from.on("error", () => to.destroy());
      from.on("close", () => sockets.delete(from));
    }
  });
  return new Promise((resolve) =>
    server.listen(0, "127.0.0.1", () => {
      const address = server.address();
      if (typeof address !== "object" || !address) throw new Error("no port");
      const cut = () => {
        for (const socket of sockets) socket.destroy();
      };
      resolve({
        port: address.port,
        connections: () => connections,
        freeze() {
          frozen = true;
        },
        thaw() {
          frozen = false;
        },
        refuse() {
          server.close();
        },
        cut,
        stop() {
          cut();
          return new Promise((done) => server.close(() => done()));
        },
      });
    }),
  );
}
