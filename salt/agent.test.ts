/** Runs the Python tests of what is shipped to hosts; each of them counts as one test here. */
import { execFileSync, spawnSync } from "node:child_process";
import { fileURLToPath } from "node:url";
import { suite } from "uvu";
import * as assert from "uvu/assert";

const python = suite("salt (Python)");
const folder = fileURLToPath(new URL("tests", import.meta.url));

const program = `
import json, sys, unittest
sys.dont_write_bytecode = True

class Result(unittest.TextTestResult):
    def addSuccess(self, test): tell(test, None)
    def addFailure(self, test, error): tell(test, self._exc_info_to_string(error, test))
    addError = addFailure
    def addUnexpectedSuccess(self, test): tell(test, "unexpected success")
    def addSkip(self, test, reason): tell(test, None)

def tell(test, problem):
    print(json.dumps({"test": test.id(), "problem": problem}), flush=True)

unittest.TextTestRunner(sys.stderr, resultclass=Result).run(unittest.defaultTestLoader.discover(sys.argv[1]))
`;

const run = spawnSync("python3", ["-c", program, folder], {
  encoding: "utf8",
  maxBuffer: 1 << 26,
  timeout: 900_000,
});
const results = run.stdout
  .split("\n")
  .filter((line) => line.startsWith('{"test"'))
  .map((line) => JSON.parse(line) as { test: string; problem: string | null });

for (const { test, problem } of results) {
  python(test, () => {
    if (problem !== null) throw new Error(problem);
  });
}

python("all Python tests ran", () => {
  assert.is(run.error, undefined);
  const files = execFileSync("grep", ["-rch", "^    def test_", folder, "--include=test_*.py"], {
    encoding: "utf8",
  });
  const written = files.split("\n").reduce((sum, count) => sum + Number(count), 0);
  assert.ok(written > 0);
  assert.is(results.length, written, run.stderr.slice(-2000));
});

python.run();
