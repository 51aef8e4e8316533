import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { digest, findTests, judge, type Outcome, readCounts, runFile } from "./test.ts";

const root = path.dirname(import.meta.dirname);
const folder = fs.mkdtempSync(path.join(os.tmpdir(), "guidomain-test-"));
fs.symlinkSync(path.join(root, "node_modules"), path.join(folder, "node_modules"));
fs.writeFileSync(path.join(folder, "package.json"), '{ "type": "module" }');
process.on("exit", () => fs.rmSync(folder, { recursive: true, force: true }));

/** Plants a test file and runs it as the runner does. */
async function plant(name: string, body: string, limit = 60_000): Promise<Outcome> {
  const file = `${name}.test.ts`;
  fs.writeFileSync(
    path.join(folder, file),
    `import { suite, test } from "uvu";\nimport * as assert from "uvu/assert";\n${body}\n`,
  );
  return runFile(folder, file, limit);
}

const good = 'test("good", () => assert.ok(true));';

test("a file whose tests all pass is good", async () => {
  const outcome = await plant("good", `${good} test.skip("later", () => {}); test.run();`);
  assert.is(outcome.fault, undefined, outcome.output);
  assert.equal([outcome.passed, outcome.failed, outcome.skipped], [1, 0, 1]);
});

test("the counts of several suites are added up", async () => {
  const outcome = await plant(
    "suites",
    'for (const name of ["a", "b"]) { const s = suite(name); s("x", () => {}); s.run(); }',
  );
  assert.equal([outcome.passed, outcome.failed, outcome.fault], [2, 0, undefined]);
});

test("a failing test is counted and its message kept", async () => {
  const outcome = await plant(
    "failing",
    `${good} test("bad", () => assert.is(1, 2, "one is not two")); test.run();`,
  );
  assert.equal([outcome.passed, outcome.failed], [1, 1]);
  assert.is(outcome.fault, "1 of 2 tests failed");
  assert.match(outcome.output, "one is not two");
});

test("the end of the log tells why a test failed, however long its message is", async () => {
  const body = 'const long = "working\\n".repeat(500);\n';
  const outcome = await plant(
    "long",
    `${body}test("up", () => assert.ok(false, \`${"$"}{long}  error: no screen\\n${"$"}{long}\`));
     test("same", () => assert.equal({ a: 1 }, { a: 2 }));
     test("plain", () => { throw new Error("first\\nsecond"); }); test.run();`,
  );
  const told = digest(outcome.output);
  assert.equal(told.slice(0, 3), ['"up"', "  error: no screen", '"same"'], outcome.output);
  assert.match(told.join("\n"), /"same"\n {2}--.*1\n {2}\+\+.*2\n"plain"\n {2}first\n {2}second/);
});

test("what before throws, which uvu hides, fails the file", async () => {
  const outcome = await plant(
    "before",
    `test.before(() => { throw new Error("no set-up"); }); ${good} test.run();`,
  );
  assert.equal([outcome.passed, outcome.failed], [0, 1]);
  assert.match(outcome.fault ?? "", "only 0 of 1 tests ran to their end");
});

test("a suite hidden by its before fails the file although another suite passes", async () => {
  const hidden =
    'const s = suite("s"); s.before(() => { throw new Error("no"); }); s("x", () => {}); s.run();';
  const outcome = await plant("half", `${good} test.run(); ${hidden}`);
  assert.equal([outcome.passed, outcome.failed], [1, 1]);
});

test("what after throws fails the file", async () => {
  const outcome = await plant(
    "after",
    `test.after(() => { throw new Error("not cleaned up"); }); ${good} test.run();`,
  );
  assert.is.not(outcome.fault, undefined);
});

test("a file without tests, without run() or without anything fails", async () => {
  assert.is((await plant("none", "test.run();")).fault, "it ran no test");
  assert.match((await plant("norun", good)).fault ?? "", "it printed no counts");
  assert.match((await plant("empty", "")).fault ?? "", "it printed no counts");
});

test("a file may skip all of its tests only where it says why", async () => {
  const skips = 'test.skip("x", () => {}); test.run();';
  assert.is((await plant("silent", skips)).fault, "it ran no test");
  const told = await plant("told", `console.log("skipped: the machine has no lab"); ${skips}`);
  assert.equal([told.fault, told.passed, told.skipped], [undefined, 0, 1]);
});

test("a file that cannot be loaded fails and shows why", async () => {
  const outcome = await plant("unloadable", 'import "./nowhere.ts";');
  assert.is(outcome.failed, 1);
  assert.match(outcome.output, "nowhere.ts");
});

test("a status other than 0 fails a file whose tests all passed", async () => {
  const outcome = await plant(
    "status",
    `${good} test.run(); setTimeout(() => { throw new Error("late"); }, 50);`,
  );
  assert.equal([outcome.passed, outcome.failed], [1, 1]);
  assert.match(outcome.fault ?? "", "exit status is 1");
});

test("a file that ends before its tests do fails", async () => {
  const outcome = await plant("early", 'test("never", () => new Promise(() => {})); test.run();');
  assert.is(outcome.failed, 1);
});

test("a process that a signal ends fails", async () => {
  const outcome = await plant("signal", 'test("x", () => process.kill(process.pid, "SIGKILL")); test.run();');
  assert.is(outcome.fault, "it was ended by SIGKILL");
});

test("at the time limit a file is ended together with what it started", async () => {
  const body = `import { spawn } from "node:child_process";
    console.log("child", spawn("sleep", ["60"]).pid);
    test("hangs", () => new Promise((resolve) => setTimeout(resolve, 60_000))); test.run();`;
  const outcome = await plant("hanging", body, 1200);
  assert.match(outcome.fault ?? "", "it took longer than 0.02 min");
  const pid = Number(/child (\d+)/.exec(outcome.output)?.[1]);
  assert.ok(pid > 0);
  // A zombie that nobody reaped is as good as gone.
  const state = fs.existsSync(`/proc/${pid}/stat`)
    ? fs.readFileSync(`/proc/${pid}/stat`, "utf8").split(") ")[1]?.[0]
    : "Z";
  assert.is(state, "Z");
});

test("something left behind that holds the output open does not keep the runner waiting", async () => {
  const body = `import { spawn } from "node:child_process";
    spawn("sleep", ["60"], { stdio: "inherit" }).unref(); ${good} test.run();`;
  const started = performance.now();
  const outcome = await plant("leftover", body);
  assert.is(outcome.fault, undefined);
  assert.ok(performance.now() - started < 20_000);
});

test("counts are read through colours, the last ones win, and text that only looks alike is none", () => {
  const counts = (passed: number) =>
    `\n  Total:     3\n\u001b[32m  Passed:    ${passed}\u001b[39m\n  Skipped:   0\n  Duration:  1.00ms\n\n`;
  assert.equal(readCounts(counts(3)), { total: 3, passed: 3, skipped: 0 });
  assert.equal(readCounts(counts(1) + counts(2)), { total: 3, passed: 2, skipped: 0 });
  assert.is(readCounts("Total: 3\nPassed: 3\nSkipped: 0\n"), undefined);
  assert.is(judge({ status: 0, signal: null, output: counts(3) }).fault, undefined);
  assert.is(judge({ status: 0, signal: null, output: "3 passed" }).failed, 1);
});

test("test files are found in all folders but hidden and foreign ones, and picked by a part of their name", () => {
  const tree = fs.mkdtempSync(path.join(folder, "tree-"));
  for (const file of [
    "src/a/b.test.ts",
    "tests/all.test.ts",
    "node_modules/x/x.test.ts",
    ".lab/y.test.ts",
    "src/b.ts",
  ]) {
    fs.mkdirSync(path.dirname(path.join(tree, file)), { recursive: true });
    fs.writeFileSync(path.join(tree, file), "");
  }
  assert.equal(findTests(tree, []), ["tests/all.test.ts", "src/a/b.test.ts"]);
  assert.equal(findTests(tree, ["a/b"]), ["src/a/b.test.ts"]);
  assert.equal(findTests(tree, ["nothing"]), []);
});

test("the command ends with the counts and a status, alone files last, and refuses an empty choice", () => {
  const project = fs.mkdtempSync(path.join(folder, "project-"));
  fs.mkdirSync(path.join(project, "scripts"));
  fs.copyFileSync(path.join(root, "scripts", "test.ts"), path.join(project, "scripts", "test.ts"));
  fs.symlinkSync(path.join(root, "node_modules"), path.join(project, "node_modules"));
  fs.writeFileSync(path.join(project, "package.json"), '{ "type": "module" }');
  const head = 'import { test } from "uvu";\n';
  fs.writeFileSync(
    path.join(project, "a.test.ts"),
    `// runner: alone\n${head}test("x", () => {}); test.run();`,
  );
  fs.writeFileSync(path.join(project, "b.test.ts"), `${head}test("x", () => {}); test.run();`);
  fs.writeFileSync(
    path.join(project, "c.test.ts"),
    `${head}test("x", () => { throw new Error("c"); }); test.run();`,
  );
  fs.writeFileSync(
    path.join(project, "d.test.ts"),
    `// runner: elsewhere\n${head}test("x", () => {}); test.run();`,
  );
  const command = (...args: string[]) => {
    const result = spawnSync(process.execPath, ["scripts/test.ts", ...args], {
      cwd: project,
      encoding: "utf8",
    });
    return { status: result.status, lines: result.stdout.trimEnd().split("\n") };
  };
  const all = command();
  assert.is(all.status, 1);
  assert.is(all.lines.at(-1), "2 passed, 1 failed");
  assert.ok(all.lines.includes("failed: c.test.ts: 1 of 1 tests failed"));
  assert.is(
    all.lines
      .filter((line) => /^(ok|FAILED) /.test(line))
      .at(-1)
      ?.slice(0, 18),
    "ok      a.test.ts:",
  );
  assert.not.ok(all.lines.some((line) => line.includes("d.test.ts")));
  const elsewhere = command("--runner", "elsewhere");
  assert.equal([elsewhere.status, elsewhere.lines.at(-1)], [0, "1 passed, 0 failed"]);
  assert.equal([command("b", "--serial").status, command("b").lines.at(-1)], [0, "1 passed, 0 failed"]);
  assert.equal([command("nothing").status, command("nothing").lines.at(-1)], [1, "0 passed, 1 failed"]);
  assert.is.not(command("--limit", "soon").status, 0);
});

test.run();
