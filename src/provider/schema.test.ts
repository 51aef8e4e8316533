/** The schema, the classes that programs import and the rules of the model speak of the same properties. */
import { runtime } from "@pulumi/pulumi";
import { test } from "uvu";
import * as assert from "uvu/assert";
import { ARGUMENTS as audioDomainArguments } from "../model/audioDomain.ts";
import { ARGUMENTS as guiDomainArguments } from "../model/guiDomain.ts";
import { ARGUMENTS as attachmentArguments } from "../model/pciAttachment.ts";
import * as resources from "../resources/index.ts";
import { schemaOf } from "./schema.ts";

interface Resource {
  inputProperties: Record<string, { description?: string }>;
  properties: Record<string, { description?: string }>;
  required: string[];
}
const schema = schemaOf("1.2.3") as { version: string; resources: Record<string, Resource> };
const of = (type: string) => schema.resources[`guidomain:index:${type}`] as Resource;
const sorted = (names: Iterable<string>) => [...names].sort();

// The compiler refuses a name too many or too few.
const guiArgs: Record<keyof resources.GuiDomainArgs, true> = {
  host: true,
  qube: true,
  display: true,
  gpu: true,
  reboot: true,
  retry: true,
  onFallback: true,
  limits: true,
  clients: true,
  restartClients: true,
  session: true,
  sessionUser: true,
  onDelete: true,
  unreachable: true,
  template: true,
  label: true,
  memory: true,
  maxmem: true,
  vcpus: true,
  autostart: true,
  audiovm: true,
  hostPackages: true,
  viewers: true,
  remote: true,
  login: true,
  input: true,
  level: true,
  apps: true,
  rules: true,
  power: true,
  suspend: true,
  layout: true,
  domain: true,
};
const audioArgs: Record<keyof resources.AudioDomainArgs, true> = {
  host: true,
  qube: true,
  shared: true,
  devices: true,
  usb: true,
  clients: true,
  restartClients: true,
  microphone: true,
  emulated: true,
  bluetooth: true,
  retry: true,
  onFallback: true,
  limits: true,
  onDelete: true,
  unreachable: true,
  template: true,
  label: true,
  memory: true,
  vcpus: true,
  autostart: true,
  domain: true,
};
const attachmentArgs: Record<keyof resources.PciAttachmentArgs, true> = {
  host: true,
  qube: true,
  device: true,
  devices: true,
  options: true,
  onDelete: true,
  unreachable: true,
};
const hostArgs: Record<keyof resources.HostArgs, true> = { name: true, unreachable: true };

await runtime.setMocks({
  newResource: ({ name, inputs }) => ({ id: name, state: inputs }),
  call: ({ inputs }) => inputs,
});
const host = new resources.Host("lab");
const gui = new resources.GuiDomain("sys-gui", { host });
const audio = new resources.AudioDomain("sys-audio", { host });
const attachment = new resources.PciAttachment("dock", { host, qube: "sys-usb", device: { class: "usb" } });
/** What a resource has beside what every resource has. */
const own = (resource: object) =>
  Object.keys(resource).filter((key) => !key.startsWith("__") && key !== "urn" && key !== "id");

test("inputs", () => {
  assert.equal(sorted(Object.keys(of("GuiDomain").inputProperties)), sorted(Object.keys(guiArgs)));
  assert.equal(sorted(guiDomainArguments), sorted(Object.keys(guiArgs)));
  assert.equal(sorted(Object.keys(of("Host").inputProperties)), sorted(Object.keys(hostArgs)));
  assert.equal(sorted(Object.keys(of("AudioDomain").inputProperties)), sorted(Object.keys(audioArgs)));
  assert.equal(sorted(audioDomainArguments), sorted(Object.keys(audioArgs)));
  assert.equal(sorted(Object.keys(of("PciAttachment").inputProperties)), sorted(Object.keys(attachmentArgs)));
  assert.equal(sorted(attachmentArguments), sorted(Object.keys(attachmentArgs)));
});

test("outputs", () => {
  assert.equal(sorted(own(gui)), sorted(Object.keys(of("GuiDomain").properties)));
  assert.equal(sorted(own(host)), sorted(Object.keys(of("Host").properties)));
  assert.equal(sorted(own(audio)), sorted(Object.keys(of("AudioDomain").properties)));
  assert.equal(sorted(own(attachment)), sorted(Object.keys(of("PciAttachment").properties)));
});

test("each property is described; what is required exists", () => {
  for (const { inputProperties, properties, required } of Object.values(schema.resources)) {
    for (const [name, { description }] of Object.entries({ ...inputProperties, ...properties }))
      assert.ok(description, name);
    for (const name of required) assert.ok(properties[name], name);
  }
  assert.is(schema.version, "1.2.3");
});

test.run();
