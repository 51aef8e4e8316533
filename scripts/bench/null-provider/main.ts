// The same contract, the same resources, no host: what the engine itself costs.
import { diffByPath } from "../../../src/provider/diff.ts";
import type { Handler, ProviderPackage } from "../../../src/provider/handler.ts";
import { runProvider } from "../../../src/provider/process.ts";
import { schemaOf } from "../../../src/provider/schema.ts";

const idle: Handler = {
  refreshBeforeUpdate: true,
  check: async (inputs) => ({ inputs, failures: [] }),
  diff: async ({ oldInputs, news }) => ({ changes: diffByPath(oldInputs, news) }),
  create: async (inputs, { name }) => ({ id: name, outputs: { name, ...inputs } }),
  read: async (request) => request,
  update: async ({ news }) => news,
  delete: async () => {},
};

const pkg: ProviderPackage = {
  name: "guidomain",
  version: "0.0.0",
  schema: schemaOf("0.0.0"),
  handlers: { "guidomain:index:Host": idle, "guidomain:index:GuiDomain": idle },
  checkConfig: () => [],
  configure: async () => {},
  scrub: (text) => text,
  close: async () => {},
};

await runProvider(pkg);
