/** Rules that the project as a whole keeps: it type-checks, is formatted, and its parts know only those below them. */
import { spawnSync } from "node:child_process";
import * as fs from "node:fs";
import * as os from "node:os";
import * as path from "node:path";
import ts from "typescript";
import { test } from "uvu";
import * as assert from "uvu/assert";

const root = path.dirname(import.meta.dirname);

/** Runs a tool of node_modules by this Node; what it says is printed when it fails. */
function passes(tool: string, ...args: string[]): void {
  const file = path.join(root, "node_modules", tool);
  const result = spawnSync(process.execPath, [file, ...args], { cwd: root, encoding: "utf8" });
  if (result.status !== 0) console.log(`${result.stdout}${result.stderr}`);
  assert.is(result.status, 0, `${tool} ${args.join(" ")} found faults, see above`);
}

test("tsc finds no fault", () => passes("typescript/bin/tsc", "-p", "."));

test("biome finds no fault", () => passes("@biomejs/biome/bin/biome", "ci", "--colors=off"));

/** Layers of src/ (docs/architecture.md): a folder may import from its own layer and those before it. */
const layers = [
  ["model", "pci", "policy"],
  ["plan", "formula", "host"],
  ["resources", "provider", "report"],
];
const layerOf = (folder: string) => layers.findIndex((layer) => layer.includes(folder));

/** Folders, and single files of others, without I/O; and what they may use of packages and Node's modules all the same. */
const pure: Record<string, readonly string[]> = {
  model: [],
  pci: [],
  policy: [],
  plan: [],
  // The templates, and the Salt modules that are shipped as they are, are files of the project.
  formula: ["handlebars", "node:fs", "node:fs/promises", "node:url"],
  // The form of what the agent says.
  "host/protocol.ts": [],
};
const harmless = [
  "node:buffer",
  "node:crypto",
  "node:path",
  "node:path/posix",
  "node:util",
  "valibot",
  "yaml",
];

/** The entry of `pure` that holds for a file of src/. */
function purity(file: string): readonly string[] | undefined {
  const name = file.slice("src/".length);
  return pure[name] ?? pure[name.split("/")[0] ?? ""];
}

/** What is wrong with the imports of a file of src/, given by its path relative to the project. */
function importFaults(file: string, source: string): string[] {
  const folder = file.split("/")[1] ?? "";
  if (layerOf(folder) === -1) return [`${file} is in no folder with a layer`];
  return ts.preProcessFile(source, true, true).importedFiles.flatMap(({ fileName }) => {
    if (!fileName.startsWith(".")) {
      const allowed = purity(file);
      const isFine = !allowed || allowed.includes(fileName) || harmless.includes(fileName);
      return isFine ? [] : [`${file} is pure and imports ${fileName}`];
    }
    const target = path.posix.join(path.posix.dirname(file), fileName);
    const [top, other = ""] = target.split("/");
    if (top !== "src")
      return target === "package.json" ? [] : [`${file} imports ${target} from outside src/`];
    if (layerOf(other) > layerOf(folder)) return [`${file} imports upward from ${target}`];
    if (purity(file) && !purity(target)) return [`${file} is pure and imports ${target}`];
    return [];
  });
}

/** Every file that would be committed, relative to the project: all but hidden folders, installed and generated things. */
function projectFiles(relative = ""): string[] {
  const generated = ["node_modules", "__pycache__", "rendered"];
  return fs.readdirSync(path.join(root, relative), { withFileTypes: true }).flatMap((entry) => {
    const name = path.posix.join(relative, entry.name);
    const isHidden = entry.name.startsWith(".") && ![".ci", ".gitignore"].includes(entry.name);
    if (isHidden || generated.includes(entry.name)) return [];
    if (entry.isDirectory()) return projectFiles(name);
    return entry.isFile() && !entry.name.endsWith(".pyc") ? [name] : [];
  });
}

const files = projectFiles();
const read = (file: string) => fs.readFileSync(path.join(root, file), "utf8");

test("imports go one way, and pure folders import nothing that does I/O", () => {
  const sources = files.filter(
    (file) => /^src\/.*\.ts$/.test(file) && !/\.test\.ts$|\/test[A-Z][^/]*\.ts$|\/testing\//.test(file),
  );
  assert.ok(sources.length > 10);
  assert.equal(
    sources.flatMap((file) => importFaults(file, read(file))),
    [],
  );
});

test("a wrong import is found in each of its forms", () => {
  const wrong: [string, string][] = [
    ["src/model/a.ts", 'import { x } from "../plan/x.ts";'],
    ["src/model/a.ts", 'import type { X } from "../provider/x.ts";'],
    ["src/plan/a.ts", 'export * from "../report/x.ts";'],
    ["src/host/a.ts", 'const x = await import("../resources/x.ts");'],
    ["src/plan/a.ts", 'import { x } from "../host/x.ts";'],
    ["src/host/protocol.ts", 'import { x } from "./pool.ts";'],
    ["src/pci/a.ts", 'import * as fs from "node:fs";'],
    ["src/policy/a.ts", 'import { execa } from "execa";'],
    ["src/plan/a.ts", 'import * as fs from "node:fs/promises";'],
    ["src/provider/a.ts", 'import { startTwin } from "../../lab/twin/twin.ts";'],
    ["src/misc/a.ts", ""],
  ];
  for (const [file, source] of wrong) assert.is(importFaults(file, source).length, 1, `${file}: ${source}`);
  const right: [string, string][] = [
    ["src/plan/a.ts", 'import { x } from "../model/x.ts"; import { y } from "./y.ts";'],
    ["src/plan/a.ts", 'import type { X } from "../host/protocol.ts";'],
    ["src/provider/a.ts", 'import { x } from "../host/x.ts"; import ssh2 from "ssh2";'],
    ["src/formula/a.ts", 'import handlebars from "handlebars"; import { x } from "../policy/x.ts";'],
    ["src/host/a.ts", 'import net from "node:net"; import type { X } from "../plan/x.ts";'],
  ];
  for (const [file, source] of right) assert.equal(importFaults(file, source), []);
});

test("no test is left marked as the only one", () => {
  const marked = files.filter((file) => file.endsWith(".test.ts") && /^\s*\w+\.only\(/m.test(read(file)));
  assert.equal(marked, []);
});

test("no file is larger than 300 kB", () => {
  assert.equal(
    files.filter((file) => fs.statSync(path.join(root, file)).size > 300_000),
    [],
  );
});

test("the lock names digests and no addresses", () => {
  const lock = JSON.parse(read("package-lock.json")) as {
    packages: Record<string, { resolved?: string; integrity?: string }>;
  };
  const packages = Object.entries(lock.packages).filter(([name]) => name !== "");
  assert.ok(packages.length > 100);
  assert.equal(
    packages
      .filter(([, { resolved, integrity }]) => resolved !== undefined || !integrity)
      .map(([name]) => name),
    [],
  );
});

/** Words that belong to one machine: where this clone and its user's home lie, and the package sources it is told to use. */
function machineWords(): string[] {
  const homes = [root, os.homedir()].filter((folder) => !["/", "/root", "/home/user"].includes(folder));
  const environment = [
    "GOPROXY",
    "PIP_INDEX_URL",
    "PIP_EXTRA_INDEX_URL",
    "PIP_FIND_LINKS",
    "npm_config_registry",
    "NPM_CONFIG_REGISTRY",
  ];
  const hosts = environment.flatMap((name) => (process.env[name] ?? "").match(/(?<=:\/\/)[^/:,|\s]+/g) ?? []);
  return [...new Set([...homes, ...hosts])];
}

test("no file names a path of this machine or the host of a package registry", () => {
  const registries = [
    "registry" + ".npmjs",
    "pypi" + ".org",
    "pythonhosted" + ".org",
    "proxy.golang" + ".org",
    "deb.debian" + ".org",
  ];
  const words = [...machineWords(), ...registries, "/work" + "/main", "/work" + "/shared"];
  const found = files.flatMap((file) =>
    words.filter((word) => read(file).includes(word)).map((word) => `${file}: ${word}`),
  );
  assert.equal(found, []);
});

test.run();
