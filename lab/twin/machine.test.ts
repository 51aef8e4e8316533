/** Runs the Python tests of the machine below the twin's dom0; each of them counts as one test here. */
import { spawnSync } from "node:child_process";
import { join } from "node:path";
import { suite } from "uvu";
import * as assert from "uvu/assert";

const python = suite("machine (Python)");

const program = `
import json, sys, unittest
sys.dont_write_bytecode = True
sys.path.insert(0, sys.argv[1])

class Result(unittest.TextTestResult):
    def addSuccess(self, test): tell(test, None)
    def addFailure(self, test, error): tell(test, self._exc_info_to_string(error, test))
    addError = addFailure
    def addSkip(self, test, reason): tell(test, None)

def tell(test, problem):
    print(json.dumps({"test": test.id(), "problem": problem}), flush=True)

for part in ("machine", "xen"):
    suite = unittest.defaultTestLoader.discover(sys.argv[1] + "/" + part, top_level_dir=sys.argv[1])
    unittest.TextTestRunner(sys.stderr, resultclass=Result).run(suite)
`;

const run = spawnSync("python3", ["-c", program, join(import.meta.dirname, "dom0")], {
  encoding: "utf8",
  timeout: 120_000,
});
const results = run.stdout
  .split("\n")
  .filter((line) => line.startsWith('{"test"'))
  .map((line) => JSON.parse(line) as { test: string; problem: string | null });

for (const { test, problem } of results)
  python(test, () => {
    if (problem !== null) throw new Error(problem);
  });

python("they ran", () => {
  assert.ok(results.length > 20, run.stderr);
});

python.run();
