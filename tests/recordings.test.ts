/**
 * What a real Qubes 4.3 dom0 answered (tests/fixtures/recordings/README.md), asked again of the twin: each scenario
 * from a fresh state, each command by /bin/sh, each raw call over the socket. Same exit codes, same texts, same replies.
 */
import { mkdtempSync, readFileSync } from "node:fs";
import { tmpdir } from "node:os";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { startTwin } from "../lab/twin/twin.ts";
import { fixture, type Install } from "../lab/twin/world.ts";

interface Command {
  run: string;
  rc: number;
  stdout: string;
  stderr: string;
}

interface AdminCall {
  call: string;
  arg: string;
  dest: string;
  payload: string;
  reply: string;
}

interface Scenario {
  scenario: string;
  steps: (Command | AdminCall)[];
}

/** Fields that no two machines or runs share. Nothing else is taken out of a comparison. */
const VARYING: [field: string, pattern: RegExp][] = [
  ["uuid", /\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b/g],
  ["time", /"start_time": "[\d:.]+"/g],
  ["time", /"duration": [\d.]+/g],
  ["time", /Started: [\d:.]+/g],
  ["time", /(Duration|Total run time): +[\d.]+ ms/g],
  ["process id", /\bPID \d+ exists/g],
];
const MAY_DIFFER = 5;

const scenarios: Scenario[] = JSON.parse(
  readFileSync(new URL("fixtures/recordings/qubes-4.3.json", import.meta.url), "utf8"),
);
/** The recorded dom0 had no disposable to manage qubes from. */
function recorded(): Install {
  const install = fixture<Install & Record<"globals" | "qubes", Record<string, unknown>>>(
    "installs",
    "qubes-4.3",
  );
  delete install.globals["management_dispvm"];
  delete install.qubes["default-mgmt-dvm"];
  return install;
}
const twin = await startTwin({
  dir: mkdtempSync(join(tmpdir(), "guidomain-recordings-")),
  install: recorded(),
  machine: "recorded-laptop",
  // It was killed while it shut down; however slow this machine is, that must still be so here.
  world: { faults: { shutdown: { vault: 60 } } },
});

const ASK = `
import socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect("/run/qubesd.sock")
s.sendall(bytes.fromhex(sys.argv[1]))
s.shutdown(socket.SHUT_WR)
while True:
    part = s.recv(65536)
    if not part:
        break
    sys.stdout.write(part.hex())
`;

async function answer(step: Command | AdminCall): Promise<Command | AdminCall> {
  if ("run" in step) {
    const { code, stdout, stderr } = await twin.exec(step.run);
    return { ...step, rc: code, stdout, stderr };
  }
  const request = `${step.call}+${step.arg} dom0 name ${step.dest}\0${step.payload}`;
  const { stdout } = await twin.exec(`python3 -S -c '${ASK}' ${Buffer.from(request).toString("hex")}`);
  return { ...step, reply: Buffer.from(stdout, "hex").toString() };
}

/** Names of the varying fields in which the two differ; null where they differ in anything else. */
function fields(a: string, b: string): string[] | null {
  const found: string[] = [];
  for (const [field, pattern] of VARYING) {
    const [before, after] = [a.match(pattern) ?? [], b.match(pattern) ?? []];
    if (before.length === after.length && before.some((text, at) => text !== after[at])) found.push(field);
    a = a.replace(pattern, `<${field}>`);
    b = b.replace(pattern, `<${field}>`);
  }
  return a === b ? found : null;
}

const title = (step: Command | AdminCall) =>
  "run" in step ? step.run : `${step.call}+${step.arg} ${step.dest}`;
const differing: string[] = [];
const test = suite("recordings");

for (const { scenario, steps } of scenarios)
  test(scenario, async () => {
    await twin.reset();
    for (const [at, step] of steps.entries()) {
      const actual = await answer(step);
      const varied = fields(Object.values(step).join("\0"), Object.values(actual).join("\0"));
      const name = `step ${at}: ${title(step)}`;
      if (varied === null || (varied.length > 0 && "call" in step)) assert.equal(actual, step, name);
      // Salt prints the time and duration of every state that it ran: two runs never agree in them.
      if (varied?.some((field) => field !== "time"))
        differing.push(`${scenario}, ${name} (${varied.join(", ")})`);
    }
  });

test("hardly a step differs, even in what varies", () => {
  assert.ok(differing.length <= MAY_DIFFER, differing.join("\n"));
});

test.after(() => twin.remove());
test.run();
