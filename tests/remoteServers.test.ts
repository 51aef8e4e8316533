// Remote screens with the real servers: x11vnc and xrdp on a virtual X screen, configured by what our formula has put inside a qube of the
// twin, in that qube's network namespace. A real client comes through `npm run view`, OpenSSH, dom0's qvm-run and qubes.ConnectTCP, logs in, and
// sees the token that was drawn on that screen. tests/room.py says how they run; without root or the programs this is skipped.
import { type ChildProcess, execFileSync, spawn } from "node:child_process";
import { once } from "node:events";
import { existsSync, mkdirSync, readdirSync, readFileSync, readlinkSync, writeFileSync } from "node:fs";
import { createConnection } from "node:net";
import path from "node:path";
import { setTimeout as sleep } from "node:timers/promises";
import { GuiDomain, type GuiDomainArgs } from "guidomain";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { startTwin, type Twin } from "../lab/twin/twin.ts";
import { hostOf, mustIn, ROOT, scratch, testStack } from "./harness.ts";
import { lookAtXvfb, lookByVnc, type Picture, Refused, Token } from "./screens.ts";
import { view } from "./viewing.ts";

const PROGRAMS = [
  "Xvfb",
  "xset",
  "xsetroot",
  "x11vnc",
  "xrdp",
  "xrdp-sesman",
  "xfreerdp",
  "openssl",
  "systemd-sysusers",
];
const places = [...(process.env["PATH"] ?? "").split(path.delimiter), "/usr/sbin", "/sbin"];
const missing = PROGRAMS.filter((name) => !places.some((place) => existsSync(path.join(place, name))));
const why =
  process.getuid?.() !== 0
    ? "they need root, for users of their own"
    : missing.length
      ? `${missing.join(", ")} ${missing.length > 1 ? "are" : "is"} not installed`
      : null;

const SCREEN = { width: 800, height: 600 };
const ALL = 990; // of 1000 pixels: the pointer covers some
const CHANCE = 700; // what another random picture has in common is about 500

/** The servers of a qube, as its units start them, on a screen of their own. */
class Room {
  readonly folder: string;
  readonly #child: ChildProcess;
  #answers: string[] = [];
  #heard = () => {};

  constructor(folder: string, netns: string, units: string[]) {
    this.folder = folder;
    const argv = [`--net=${netns}`, "unshare", "--mount", "--pid", "--fork", "--kill-child", "--uts"];
    const script = path.join(ROOT, "tests/room.py");
    this.#child = spawn("nsenter", [...argv, "python3", "-B", script, folder, ...units], {
      stdio: ["pipe", "pipe", "pipe"],
    });
    process.once("exit", () => this.#child.kill("SIGKILL"));
    let line = "";
    this.#child.stdout?.setEncoding("utf8").on("data", (text: string) => {
      const [...lines] = (line + text).split("\n");
      line = lines.pop() ?? "";
      this.#answers.push(...lines);
      this.#heard();
    });
    this.#child.stderr?.setEncoding("utf8").on("data", (text: string) => {
      this.said += text;
    });
    this.#child.once("close", () => {
      this.#answers.push("ended");
      this.#heard();
    });
  }

  said = "";

  async answer(): Promise<string> {
    for (;;) {
      const answer = this.#answers.shift();
      if (answer !== undefined) return answer;
      await new Promise<void>((resolve) => {
        this.#heard = resolve;
      });
    }
  }

  /** Runs a command in the room; its exit status. */
  async run(command: string): Promise<number> {
    this.#child.stdin?.write(`${command}\n`);
    return Number(await this.answer());
  }

  async draw(token: Token): Promise<void> {
    writeFileSync(path.join(this.folder, "screen", "token.xbm"), token.xbm());
    assert.is(await this.run("xsetroot -bitmap /screen/token.xbm -fg black -bg white"), 0, this.said);
  }

  logs(): string {
    const folder = path.join(this.folder, "log");
    return readdirSync(folder)
      .map((name) => `${name}:\n${readFileSync(path.join(folder, name), "utf8").slice(-3000)}`)
      .join("\n");
  }

  async end(): Promise<void> {
    const ended = once(this.#child, "close");
    this.#child.stdin?.end();
    await ended;
  }
}

/** Where the network namespace of a qube of the twin is found from outside. */
async function networkOf(twin: Twin, qube: string): Promise<string> {
  const { stdout } = await twin.exec(`readlink "$(readlink /run/twin/guests/${qube}/net)"`);
  for (const pid of readdirSync("/proc").filter((name) => /^\d+$/.test(name)))
    try {
      if (readlinkSync(`/proc/${pid}/ns/net`) === stdout.trim()) return `/proc/${pid}/ns/net`;
    } catch {
      // It has ended.
    }
  throw new Error(`no process in the network of ${qube} (${stdout})`);
}

/** The room of a qube: what its generation has put there, its accounts and its secret. The stand-ins of the twin give way. */
async function roomOf(twin: Twin, qube: string, units: string[]): Promise<Room> {
  const folder = path.join(scratch("room"), qube);
  for (const name of ["files", "screen", "log"]) mkdirSync(path.join(folder, name), { recursive: true });
  const parts =
    "etc/guidomain etc/sysusers.d etc/systemd/system etc/passwd etc/group etc/shadow run/guidomain run/qubes-service usr/libexec/guidomain";
  const tar = await twin.exec(
    `qvm-run -p -u root ${qube} 'systemctl stop ${[...units].reverse().join(" ")}; cd /; for f in ${parts}; do test -e $f && echo $f; done | tar -c --dereference -T - | base64'`,
  );
  execFileSync("tar", ["-x", "-C", path.join(folder, "files")], { input: Buffer.from(tar.stdout, "base64") });
  const room = new Room(folder, await networkOf(twin, qube), units);
  const answer = await room.answer();
  assert.is(answer, "ready", `${room.said}\n${room.logs()}`);
  return room;
}

/** What xfreerdp shows on a screen of its own until `enough` holds or `seconds` are over. */
async function lookByRdp(
  { port, user, password }: { port: number; user: string; password: string },
  enough: (picture: Picture) => boolean,
  seconds: number,
): Promise<Picture> {
  const folder = scratch("rdp");
  const xvfb = spawn(
    "Xvfb",
    ["-displayfd", "1", "-noreset", "-screen", "0", "800x600x24", "-nolisten", "tcp", "-fbdir", folder],
    { stdio: ["ignore", "pipe", "ignore"] },
  );
  const [number] = (await once(xvfb.stdout, "data")) as [Buffer];
  // The password goes past the command line, where everybody could read it.
  const client = spawn(
    "xfreerdp",
    [
      `/v:127.0.0.1:${port}`,
      `/u:${user}`,
      "/from-stdin:force",
      "/cert:ignore",
      "/sec:tls",
      "/size:800x600",
      "/f",
    ],
    {
      env: { ...process.env, DISPLAY: `:${String(number).trim()}`, HOME: folder },
      stdio: ["pipe", "pipe", "pipe"],
    },
  );
  let said = "";
  for (const stream of [client.stdout, client.stderr])
    stream.setEncoding("utf8").on("data", (text: string) => {
      said += text;
    });
  client.stdin.end(`${password}\n`);
  try {
    for (let i = 0; i < seconds * 4; i++) {
      await sleep(250);
      const picture = lookAtXvfb(path.join(folder, "Xvfb_screen0"));
      if (enough(picture)) return picture;
      if (client.exitCode !== null)
        throw new Error(`xfreerdp ended with ${client.exitCode}: ${said.slice(-2000)}`);
    }
    return lookAtXvfb(path.join(folder, "Xvfb_screen0"));
  } finally {
    client.kill("SIGKILL");
    xvfb.kill();
  }
}

if (why) process.stderr.write(`skipped: real servers of remote screens: ${why}\n`);
else await withServers();

async function withServers(): Promise<void> {
  const folder = scratch("servers");
  const TEMPLATE = "fedora-43-xfce";
  const { templates } = (
    JSON.parse(readFileSync(path.join(ROOT, "lab/twin/installs/qubes-4.3.json"), "utf8")) as {
      world: { templates: Record<string, { packages: Record<string, string> }> };
    }
  ).world;
  const packages = { ...templates[TEMPLATE]?.packages, xrdp: "0.10.4", openssl: "3.5.1" };
  const twin = await startTwin({
    dir: path.join(folder, "twin"),
    world: { templates: { ...templates, [TEMPLATE]: { ...templates[TEMPLATE], packages } } },
  });
  await mustIn(twin)("qvm-create --label blue work", "qvm-create --label blue play");
  const [password, login] = ["geheim12", "Geheim, lang & breit"];
  const domains: Record<string, Omit<GuiDomainArgs, "host">> = {
    "gui-vnc": { display: ["vnc"], clients: ["work"], remote: { password } },
    "gui-rdp": { display: ["rdp"], clients: ["play"], login: { password: login } },
  };
  const stack = await testStack("servers", folder, { lab: hostOf(twin) }, async () => {
    for (const [name, args] of Object.entries(domains)) new GuiDomain(name, { host: "lab", ...args });
    return {};
  });
  const up = await stack.up();
  assert.ok(up.ok, up.output);
  const through = async <T>(qube: string, use: (port: number) => Promise<T>): Promise<T> => {
    const running = await view(folder, "servers", "lab", "--qube", qube, "--port", "15910");
    assert.is(running.port, 15910, running.said());
    try {
      return await use(running.port);
    } finally {
      assert.is(await running.interrupt(), 0, running.said());
    }
  };

  test("x11vnc: the token is seen through the tunnel by who has the password, and by nobody else", async () => {
    const room = await roomOf(twin, "gui-vnc", ["guidomain-vnc.service"]);
    const [token, other] = [new Token(), new Token()];
    await room.draw(token);
    const picture = await through("gui-vnc", (port) => lookByVnc({ port, password }));
    assert.equal([picture.width, picture.height], [SCREEN.width, SCREEN.height]);
    assert.ok(token.likeness(picture, SCREEN) >= ALL, `${token.likeness(picture, SCREEN)}`);
    assert.ok(other.likeness(picture, SCREEN) < CHANCE, "the control: another token is not there");
    // What is drawn later is seen later: it is no picture that was kept.
    await room.draw(other);
    // The server looks for changes a few times a second.
    let later = 0;
    for (let i = 0; i < 10 && later < ALL; i++)
      later = other.likeness(await through("gui-vnc", (port) => lookByVnc({ port, password })), SCREEN);
    assert.ok(later >= ALL, `${later}`);
    for (const wrong of ["geheim13", "geheim", undefined]) {
      const refused = await through("gui-vnc", (port) =>
        lookByVnc({ port, ...(wrong !== undefined && { password: wrong }) }).then(
          () => null,
          (error: unknown) => error,
        ),
      );
      assert.instance(refused, Refused, `${wrong}`);
    }
    await nobodyElse(room, 5900);
    await room.end();
  });

  test("xrdp: the token is seen through the tunnel by who has the login, and by nobody else", async () => {
    const room = await roomOf(twin, "gui-rdp", [
      "guidomain-vnc.service",
      "guidomain-rdp-login.service",
      "guidomain-rdp.service",
    ]);
    const token = new Token();
    await room.draw(token);
    const seen = (picture: Picture) => token.likeness(picture, SCREEN) >= ALL;
    const look = (user: string, secret: string, seconds: number) =>
      through("gui-rdp", (port) => lookByRdp({ port, user, password: secret }, seen, seconds));
    const picture = await look("user", login, 30);
    assert.ok(seen(picture), `${token.likeness(picture, SCREEN)} ${room.logs()}`);
    for (const [user, secret] of [
      ["user", "Geheim, lang"],
      ["root", login],
      ["nobody", login],
    ] as const) {
      const refused = await look(user, secret, 6);
      assert.ok(token.likeness(refused, SCREEN) < CHANCE, `${user} got in`);
      // The control: a server answered, with its own dialogue.
      assert.ok(new Set(refused.pixels).size > 2, `${user} saw nothing at all`);
    }
    assert.not(room.logs().includes(login), "the password is in a log");
    // The x11vnc behind it takes nobody but xrdp, not even root, and dom0's way ends there too.
    writeFileSync(
      path.join(room.folder, "screen", "root.py"),
      "import socket, sys\ns = socket.create_connection(('127.0.0.1', 5901))\ns.recv(12)\ntry:\n    s.sendall(b'RFB 003.008\\n')\n    sys.exit(len(s.recv(1)))\nexcept ConnectionError:\n    pass\n",
    );
    assert.is(await room.run("python3 /screen/root.py"), 0, `root is let in ${room.said}`);
    const { stdout } = await twin.exec(
      "printf 'RFB 003.008\\n' | timeout 5 qvm-run --pass-io --no-gui --service -- gui-rdp qubes.ConnectTCP+5901",
    );
    assert.ok(["", "RFB 003.008\n"].includes(stdout), `more than its greeting: ${JSON.stringify(stdout)}`);
    await nobodyElse(room, 3389);
    await room.end();
  });

  /** What listens is on the loopback interface of its namespace alone, so that this machine does not reach it but through the tunnel. */
  async function nobodyElse(room: Room, port: number): Promise<void> {
    assert.is(
      await room.run("ss -Hltn | tr -s ' ' | cut -d ' ' -f 4 | grep -v '^127[.]' | grep -v '^\\[::1\\]:'"),
      1,
      room.said,
    );
    const error = await new Promise<string>((resolve) => {
      const socket = createConnection({ host: "127.0.0.1", port });
      socket
        .once("connect", () => resolve("connected"))
        .once("error", (e: NodeJS.ErrnoException) => resolve(e.code ?? ""));
      socket.once("close", () => socket.destroy());
    });
    assert.is(error, "ECONNREFUSED", `port ${port} of this machine`);
  }
}

test.run();
