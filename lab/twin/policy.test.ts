/** The twin's policy, an implementation of its own: it answers as Qubes' own evaluator did (tests/fixtures/policy-4.3.json), and as the product's. */
import { spawnSync } from "node:child_process";
import { readFileSync } from "node:fs";
import path from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";
import { Evaluator, type Facts } from "../../src/policy/evaluate.ts";
import { callsOf, targetsOf } from "../../src/policy/explain.ts";
import type { Files } from "../../src/policy/load.ts";
import { LEVELS } from "../../src/policy/principal.ts";
import { ASKS, SAMPLE, sampleFiles, sampleRules } from "../../src/policy/sample.ts";

interface Case {
  why: string;
  files: Files;
  fault?: string;
  calls?: string[];
  answers?: { d: string; target?: string; targets?: string[]; user?: string | null; real?: string }[];
}
const file = path.join(import.meta.dirname, "../../tests/fixtures/policy-4.3.json");
const { facts, cases } = JSON.parse(readFileSync(file, "utf8")) as { facts: Facts; cases: Case[] };

/** Lays each case's files below a folder of its own and prints what the twin makes of them, one line a case. */
const program = `
import json, os, sys, tempfile
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])
import policy
from policy import call as calls

data = json.load(sys.stdin)
qubes = {
    name: {**qube, "type": qube["class"], "power_state": "Running" if qube["running"] else "Halted"}
    for name, qube in data["facts"].items()
}
calls.admin_call = lambda method: json.dumps({"domains": qubes})
calls.log = lambda text: None
for case in data["cases"]:
    with tempfile.TemporaryDirectory() as root:
        folders = [root + folder for folder in (policy.RUNTIME_POLICY, policy.POLICY)]
        policy.OLD_POLICY = root + "/etc/qubes-rpc/policy"
        for folder in folders:
            os.makedirs(folder)
        for path, text in case["files"].items():
            os.makedirs(os.path.dirname(root + path), exist_ok=True)
            open(root + path, "w").write(text)
        answers, fault = [], None
        try:
            rules = policy.load(folders)
            calls.load = lambda: rules
        except policy.AccessDenied as error:
            fault = str(error)
        except policy.PolicySyntaxError as error:
            fault = str(error)
        for asked in case.get("calls", []):
            name, source, *target = asked.split(" ")
            try:
                kind, what, user = calls.decide(source, target[0] if target else "", name)
                answers.append({"d": kind, "targets" if kind == "ask" else "target": what, "user": user or None})
            except policy.AccessDenied as error:
                answers.append({"d": "deny", "real": str(error)})
        print(json.dumps({"fault": fault, "answers": answers}).replace(root, ""))
`;

function ask(qubes: Facts, asked: { files: Files; calls?: string[] }[]) {
  const run = spawnSync("python3", ["-c", program, path.join(import.meta.dirname, "dom0")], {
    encoding: "utf8",
    input: JSON.stringify({ facts: qubes, cases: asked }),
    maxBuffer: 2 ** 28,
  });
  assert.is(run.status, 0, run.stderr);
  return run.stdout
    .trim()
    .split("\n")
    .map((line) => JSON.parse(line) as { fault: string | null; answers: object[] });
}

const twin = suite("policy of the twin");
const told = ask(facts, cases);
twin("answered every case", () => assert.is(told.length, cases.length));
cases.forEach(({ why, fault = null, calls = [], answers = [] }, i) => {
  twin(why, () => {
    assert.is(told[i]?.fault, fault);
    calls.forEach((call, n) => {
      // The twin has no uuids, and where Qubes' evaluator fails it has an answer.
      if (call.includes("uuid:") || why.includes("uuid") || answers[n]?.real?.startsWith("EXC")) return;
      const { d, target, targets, user = null, real } = answers[n] ?? { d: "" };
      // Its words name a line for what stands in no file, and none for what a caller said.
      const words = real?.replace("<unknown>:0: ", "").replace(/:None$/, ":1");
      const meant = d === "deny" ? { d, real: words } : { d, ...(target ? { target } : { targets }), user };
      assert.equal(told[i]?.answers[n], meant, call);
    });
  });
});

for (const level of LEVELS)
  twin(`as the product answers every question of a GUI domain and of a qube at level ${level}`, () => {
    const evaluator = new Evaluator(sampleRules(level), SAMPLE);
    const questions = [ASKS, "work"].flatMap((source) =>
      callsOf(evaluator.rules).flatMap(([service, list]) =>
        list.flatMap((argument) =>
          targetsOf(SAMPLE).map((target) => ({ service, argument, source, target })),
        ),
      ),
    );
    assert.ok(questions.length > 5000);
    const calls = questions.map((call) => `${call.service}${call.argument} ${call.source} ${call.target}`);
    const [theirs] = ask(SAMPLE, [{ files: sampleFiles(level), calls }]);
    questions.forEach((call, i) => {
      const answer = evaluator.evaluate(call);
      const { d, target, targets } = (theirs?.answers[i] ?? {}) as {
        d?: string;
        target?: string;
        targets?: string[];
      };
      const same =
        d === answer.decision &&
        (answer.decision === "allow"
          ? target === answer.target
          : answer.decision === "deny" || String(targets) === String(answer.targets));
      if (!same)
        assert.unreachable(
          `${calls[i]}: ${JSON.stringify(theirs?.answers[i])} and ${JSON.stringify(answer)}`,
        );
    });
  });
twin.run();
