/**
 * A way from this machine to a remote screen, through dom0's SSH. Nothing is opened on the host, and here a port of the loopback interface
 * alone.
 */
import { createServer, type Server, type Socket } from "node:net";
import type { ClientChannel } from "ssh2";
import { guiDomainNameFault } from "../model/names.ts";
import { clean, HostError, ignore } from "./errors.ts";
import type { SshLine } from "./ssh.ts";

/** The only address that a tunnel listens on. */
export const HERE = "127.0.0.1";

/** The command that dom0 runs for one connection; it starts no qube, and hands bytes through as they are. */
export function connectCommand(qube: string, port: number): string {
  const fault = guiDomainNameFault(qube);
  if (fault) throw new Error(fault);
  return `exec qvm-run --pass-io --no-gui --no-autostart --no-filter-escape-chars --service -- ${qube} qubes.ConnectTCP+${port}`;
}

/** Where a tunnel leads; each connection opens a channel of its own. */
export interface Way {
  /** "port 5900 of sys-gui" */
  where: string;
  open(line: SshLine): Promise<ClientChannel>;
}

/**
 * To a port inside a qube of Qubes: one command for each connection, `qvm-run` with the service qubes.ConnectTCP, which connects on the
 * loopback interface of the qube (qubes-core-agent-linux: a symlink to /dev/tcp/127.0.0.1). dom0 asks no policy about what it calls itself.
 */
export function wayToQube(qube: string, port: number): Way {
  const command = connectCommand(qube, port);
  return { where: `port ${port} of ${qube}`, open: (line) => line.exec(command) };
}

/** To a port of dom0's loopback interface, where xl shows the framebuffer of a domain of plain Xen. */
export const wayToHost = (port: number): Way => ({
  where: `port ${port} of dom0's loopback`,
  open: (line) => line.forward(HERE, port),
});

export class Tunnel {
  readonly #line: SshLine;
  readonly #way: Way;
  readonly #server: Server;
  readonly #open = new Set<Socket>();
  /** Told of a connection that the qube did not take, or that broke. */
  readonly #warn: (text: string) => void;

  constructor(line: SshLine, way: Way, warn: (text: string) => void) {
    this.#line = line;
    this.#way = way;
    this.#warn = warn;
    this.#server = createServer({ noDelay: true, allowHalfOpen: true }, (socket) => void this.#lead(socket));
  }

  /**
   * What the server says to `hello` within `seconds`, on a connection of its own. Throws HostError where nothing takes the connection or it
   * says nothing.
   */
  async greet(hello: Buffer, seconds: number): Promise<Buffer> {
    const channel = await this.#way.open(this.#line);
    const heard = await new Promise<{ bytes: Buffer; why: string }>((resolve) => {
      let stderr = "";
      const timer = setTimeout(
        () => resolve({ bytes: Buffer.alloc(0), why: `it says nothing in ${seconds} s` }),
        seconds * 1000,
      );
      const end = (bytes: Buffer, why: string) => {
        clearTimeout(timer);
        resolve({ bytes, why });
      };
      channel.once("data", (bytes: Buffer) => end(bytes, ""));
      channel.stderr.on("data", (bytes: Buffer) => {
        stderr = (stderr + bytes.toString("latin1")).slice(-2000);
      });
      channel.once("close", (code: number | null) => end(Buffer.alloc(0), whyEnded(code, stderr)));
      channel.on("error", ignore);
      if (hello.length) channel.write(hello);
    });
    channel.on("data", ignore);
    channel.close();
    if (heard.bytes.length) return heard.bytes;
    throw new HostError(
      "unreachable",
      this.#line.host.name,
      `${this.#line.host.name}: nothing answers at ${this.#way.where}: ${heard.why}`,
      'Run "npm run preview": its checks say whether the server is installed and runs.',
    );
  }

  /** Listens; `port` 0: one that is free. Gives the port. Throws the error of the system, such as EADDRINUSE. */
  listen(port: number): Promise<number> {
    return new Promise((resolve, reject) => {
      this.#server.once("error", reject);
      this.#server.listen({ host: HERE, port, exclusive: true }, () => {
        this.#server.removeListener("error", reject).on("error", (error) => this.#warn(error.message));
        const address = this.#server.address();
        resolve(typeof address === "object" && address ? address.port : port);
      });
    });
  }

  /** Ends what is open; the line is its owner's. */
  close(): Promise<void> {
    for (const socket of this.#open) socket.destroy();
    return new Promise((resolve) => {
      this.#server.close(() => resolve());
    });
  }

  async #lead(socket: Socket): Promise<void> {
    this.#open.add(socket);
    socket.on("error", ignore);
    socket.once("close", () => this.#open.delete(socket));
    let channel: ClientChannel;
    try {
      channel = await this.#way.open(this.#line);
    } catch (error) {
      socket.destroy();
      this.#warn((error as Error).message);
      return;
    }
    let stderr = "";
    let received = 0;
    channel.on("error", ignore);
    channel.stderr.on("data", (bytes: Buffer) => {
      stderr = (stderr + bytes.toString("latin1")).slice(-2000);
    });
    channel.on("data", (bytes: Buffer) => {
      received += bytes.length;
    });
    channel.once("close", (code: number | null) => {
      socket.end();
      if (received === 0 && !socket.destroyed)
        this.#warn(`${this.#way.where} did not take a connection: ${whyEnded(code, stderr)}`);
    });
    socket.once("close", () => channel.close());
    if (socket.destroyed) channel.close();
    else socket.pipe(channel).pipe(socket);
  }
}

const whyEnded = (code: number | null, stderr: string): string =>
  clean(stderr, 300) || (code ? `the connection was refused (exit status ${code})` : "it was closed at once");
