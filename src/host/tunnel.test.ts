// The tunnel over a real OpenSSH server; what dom0's qvm-run does is played by a program that connects to a port of this machine.
import { randomBytes } from "node:crypto";
import { once } from "node:events";
import { chmodSync, mkdtempSync, rmSync, writeFileSync } from "node:fs";
import { createConnection, createServer, type Server, type Socket } from "node:net";
import { networkInterfaces, tmpdir } from "node:os";
import { join } from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { HostError } from "./errors.ts";
import { connectSsh, type SshLine } from "./ssh.ts";
import { startSshd, type TestSshd } from "./testing/sshd.ts";
import { connectCommand, Tunnel, wayToQube } from "./tunnel.ts";

const folder = mkdtempSync(join(tmpdir(), "guidomain-tunnel-"));
/** Takes what qvm-run takes here and nothing else, and says at whom it was aimed. */
const QVM_RUN = `#!/usr/bin/env python3
import socket, sys, threading
want = ["--pass-io", "--no-gui", "--no-autostart", "--no-filter-escape-chars", "--service", "--", "sys-gui"]
service, port = sys.argv[-1].split("+")
if sys.argv[1:-1] != want or service != "qubes.ConnectTCP":
    sys.exit("usage: %s" % sys.argv[1:])
try:
    far = socket.create_connection(("127.0.0.1", int(port)))
except OSError:
    sys.exit(1)
def up():
    while data := sys.stdin.buffer.raw.read(65536):
        far.sendall(data)
    far.shutdown(socket.SHUT_WR)
threading.Thread(target=up, daemon=True).start()
while data := far.recv(65536):
    sys.stdout.buffer.raw.write(data)
`;
let sshd: TestSshd;
let line: SshLine;
const servers: Server[] = [];
const warnings: string[] = [];

test.before(async () => {
  writeFileSync(join(folder, "qvm-run"), QVM_RUN);
  chmodSync(join(folder, "qvm-run"), 0o755);
  sshd = await startSshd({ config: [`SetEnv PATH=${folder}:${process.env["PATH"]}`] });
  line = await connectSsh(sshd.host("lab"));
});
test.before.each(() => {
  warnings.length = 0;
});
test.after(async () => {
  line.close();
  for (const server of servers) server.close();
  await sshd.stop();
  rmSync(folder, { recursive: true });
});

async function serve(onConnection: (socket: Socket) => void): Promise<number> {
  const server = createServer({ allowHalfOpen: true }, onConnection).listen(0, "127.0.0.1");
  servers.push(server);
  await once(server, "listening");
  return (server.address() as { port: number }).port;
}

const tunnelTo = (port: number) =>
  new Tunnel(line, wayToQube("sys-gui", port), (text) => warnings.push(text));

/** All that comes back on a connection that sends `bytes` and then no more. */
async function exchange(port: number, bytes: Buffer): Promise<Buffer> {
  const socket = createConnection({ host: "127.0.0.1", port, allowHalfOpen: true });
  socket.end(bytes);
  const heard: Buffer[] = [];
  for await (const chunk of socket) heard.push(chunk as Buffer);
  return Buffer.concat(heard);
}

test("bytes go through as they are, both ways, on several connections at once, each with its end", async () => {
  const far = await serve((socket) => socket.pipe(socket));
  const tunnel = tunnelTo(far);
  const here = await tunnel.listen(0);
  const sent = [Buffer.from("\x1b[31m\r\n\x03\x04\0"), randomBytes(1_000_000), randomBytes(1)];
  const heard = await Promise.all(sent.map((bytes) => exchange(here, bytes)));
  for (const [i, bytes] of sent.entries()) assert.ok(heard[i]?.equals(bytes), `connection ${i}`);
  assert.equal(warnings, []);
  await tunnel.close();
});

test("it listens on 127.0.0.1 alone", async () => {
  const tunnel = tunnelTo(await serve((socket) => socket.pipe(socket)));
  const here = await tunnel.listen(0);
  const addresses = Object.values(networkInterfaces())
    .flatMap((list) => list ?? [])
    .map(({ address, scopeid }) => (scopeid ? `${address}%${scopeid}` : address))
    .filter((address) => address !== "127.0.0.1");
  for (const host of [...addresses, "127.0.0.2", "::1"]) {
    const socket = createConnection({ host, port: here, timeout: 2000 });
    const kind = await new Promise<string>((resolve) => {
      for (const event of ["connect", "timeout", "error"]) socket.once(event, () => resolve(event));
    });
    assert.is.not(kind, "connect", host);
  }
  // The control: the one address does take it.
  assert.is(String(await exchange(here, Buffer.from("x"))), "x");
  await tunnel.close();
});

test("a port that is taken here is the system's error; a second tunnel does not take the first one's", async () => {
  const first = tunnelTo(1);
  const here = await first.listen(0);
  const error = await tunnelTo(1)
    .listen(here)
    .then(
      () => null,
      (e: NodeJS.ErrnoException) => e,
    );
  assert.is(error?.code, "EADDRINUSE");
  await first.close();
});

test("what the qube does not take is told, and ends for the viewer", async () => {
  const closed = await serve(() => {});
  servers.pop()?.close();
  const tunnel = tunnelTo(closed);
  const here = await tunnel.listen(0);
  assert.is((await exchange(here, Buffer.from("x"))).length, 0);
  // The viewer sees the end before the command's exit status is here.
  for (let i = 0; i < 200 && warnings.length === 0; i++)
    await new Promise((resolve) => setTimeout(resolve, 50));
  await tunnel.close();
  assert.equal(warnings.length, 1);
  assert.match(warnings[0] ?? "", /^port \d+ of sys-gui did not take a connection: .*exit status 1/);
});

test("the first words of a server; one that says nothing, one that is not there", async () => {
  const vnc = await serve((socket) => socket.write("RFB 003.008\n"));
  assert.is(String(await tunnelTo(vnc).greet(Buffer.alloc(0), 5)), "RFB 003.008\n");
  const asks = await serve((socket) => socket.once("data", (bytes) => socket.write(`you said ${bytes}`)));
  assert.is(String(await tunnelTo(asks).greet(Buffer.from("hello"), 5)), "you said hello");
  const mute = await serve(() => {});
  const failure = (port: number, seconds: number) =>
    tunnelTo(port)
      .greet(Buffer.alloc(0), seconds)
      .then(
        () => "",
        (error: unknown) => (error instanceof HostError ? `${error.message} ${error.next}` : String(error)),
      );
  assert.match(
    await failure(mute, 0.5),
    /^lab: nothing answers at port \d+ of sys-gui: it says nothing in 0.5 s/,
  );
  assert.match(await failure(1, 5), /^lab: nothing answers at port 1 of sys-gui: the connection was refused/);
});

test("its end ends what is open", async () => {
  let ended = false;
  const far = await serve((socket) =>
    socket
      .on("data", () => {})
      .on("error", () => {})
      .on("end", () => {
        ended = true;
        socket.end();
      }),
  );
  const tunnel = tunnelTo(far);
  const here = await tunnel.listen(0);
  const socket = createConnection({ host: "127.0.0.1", port: here });
  await once(socket, "connect");
  socket.write("x");
  const closed = once(socket, "close");
  await new Promise((resolve) => setTimeout(resolve, 500)); // so that it stands
  await tunnel.close();
  await closed;
  for (let i = 0; i < 100 && !ended; i++) await new Promise((resolve) => setTimeout(resolve, 50));
  assert.ok(ended, "the far end is told");
});

test("only a qube's name gets into a command", () => {
  for (const name of ["x; reboot", "$(id)", "-x", "a b", "dom0", ""])
    assert.throws(() => connectCommand(name, 5900), undefined, name);
});

test.run();
