/** A line to dom0: one SSH connection kept open, since a new one costs an emulated machine a second and more. */

import { createHash } from "node:crypto";
import { readFileSync } from "node:fs";
import { Client } from "ssh2";

export interface Result {
  code: number;
  stdout: string;
  stderr: string;
}

export interface Way {
  port: number;
  user: string;
  identityFile: string;
  /** "SHA256:…" */
  hostKey: string;
}

/** The host took longer than it was given. The command may still be at work. */
export class Late extends Error {}

export class Line {
  readonly #way: Way;
  #client: Promise<Client> | undefined;

  constructor(way: Way) {
    this.#way = way;
  }

  /** Runs a command line as root. Throws when the host cannot be reached, or `Late`. */
  async exec(command: string, { timeout, input }: { timeout: number; input?: string }): Promise<Result> {
    const client = await this.#connected(Math.min(timeout, 60_000));
    return new Promise((done, fail) => {
      const timer = setTimeout(() => {
        this.close();
        fail(new Late(`${command.slice(0, 80)} took longer than ${timeout / 1000} s`));
      }, timeout);
      const end = (act: () => void) => {
        clearTimeout(timer);
        client.off("close", closed);
        act();
      };
      const closed = () => end(() => fail(new Error(`the line was cut during ${command.slice(0, 80)}`)));
      client.on("close", closed);
      client.exec(command, (error, stream) => {
        if (error) return end(() => fail(error));
        let [stdout, stderr, code] = ["", "", 255];
        stream.setEncoding("utf8").on("data", (text: string) => {
          stdout += text;
        });
        stream.stderr.setEncoding("utf8").on("data", (text: string) => {
          stderr += text;
        });
        stream.on("exit", (status: number | null) => {
          code = status ?? 255;
        });
        stream.on("close", () => end(() => done({ code, stdout, stderr })));
        stream.end(input ?? "");
      });
    });
  }

  /** The next command opens a new connection. */
  close(): void {
    this.#client?.then(
      (client) => client.destroy(),
      () => {},
    );
    this.#client = undefined;
  }

  #connected(timeout: number): Promise<Client> {
    if (this.#client) return this.#client;
    const opening = new Promise<Client>((done, fail) => {
      const client = new Client();
      const forget = () => {
        if (this.#client === opening) this.#client = undefined;
      };
      client.on("ready", () => {
        // An open line must not keep a test's process alive.
        (client as unknown as { _sock?: { unref(): void } })._sock?.unref();
        done(client);
      });
      client.on("error", (error) => {
        forget();
        fail(error);
      });
      client.on("close", () => {
        forget();
        fail(new Error("the connection was closed"));
      });
      client.connect({
        host: "127.0.0.1",
        port: this.#way.port,
        username: this.#way.user,
        privateKey: readFileSync(this.#way.identityFile),
        readyTimeout: timeout,
        keepaliveInterval: 10_000,
        keepaliveCountMax: 6,
        hostVerifier: (key: Buffer) =>
          `SHA256:${createHash("sha256").update(key).digest("base64").replace(/=+$/, "")}` ===
          this.#way.hostKey,
      });
    });
    this.#client = opening;
    return opening;
  }
}
