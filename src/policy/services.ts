/**
 * The services that policy speaks of on a Qubes 4.3 host: what each is about, and the policy as installed.
 * Sources: qubes-host.md (f); core-admin 4.3.50 (which Admin API call reads or changes, one qube or the system); recordings.
 */
import { POWER_SERVICE } from "../model/power.ts";
import { type Files, POLICY } from "./load.ts";

/** Which of the four files of policy.d/include says who may make an Admin API call. */
type Scope = "global-ro" | "global-rwx" | "local-ro" | "local-rwx";

const words = (text: string) => text.trim().split(/\s+/);
const CLASSES = ["block", "mic", "pci", "usb"];
const devices = (...calls: string[]) =>
  CLASSES.flatMap((name) => calls.map((call) => `admin.vm.device.${name}.${call}`));

const ADMIN: Record<Scope, string[]> = {
  "global-ro": words(`admin.Events admin.deviceclass.List admin.label.Get admin.label.Index admin.label.List
    admin.pool.Info admin.pool.List admin.pool.ListDrivers admin.pool.UsageDetails admin.pool.volume.List
    admin.property.Get admin.property.GetAll admin.property.GetDefault admin.property.Help admin.property.List
    admin.vm.List admin.vm.Stats admin.vmclass.List`),
  "global-rwx":
    words(`admin.backup.Cancel admin.backup.Execute admin.label.Create admin.label.Remove admin.pool.Add
    admin.pool.Remove admin.pool.Set.ephemeral_volatile admin.pool.Set.revisions_to_keep admin.property.Reset
    admin.property.Set admin.vm.Create.AppVM admin.vm.Create.DispVM admin.vm.Create.RemoteVM
    admin.vm.Create.StandaloneVM admin.vm.Create.TemplateVM admin.vm.CreateDisposable admin.vm.CreateInPool.AppVM
    admin.vm.CreateInPool.DispVM admin.vm.CreateInPool.StandaloneVM admin.vm.CreateInPool.TemplateVM admin.vm.Remove`),
  "local-ro": [
    ...words(`admin.backup.Info admin.vm.CurrentState admin.vm.device.denied.List admin.vm.feature.CheckWithAdminVM
      admin.vm.feature.CheckWithNetvm admin.vm.feature.CheckWithTemplate
      admin.vm.feature.CheckWithTemplateAndAdminVM admin.vm.feature.Get admin.vm.feature.List admin.vm.firewall.Get
      admin.vm.notes.Get admin.vm.property.Get admin.vm.property.GetAll admin.vm.property.GetDefault
      admin.vm.property.Help admin.vm.property.List admin.vm.tag.Get admin.vm.tag.List admin.vm.volume.Info
      admin.vm.volume.List admin.vm.volume.ListSnapshots`),
    ...devices("Assigned", "Attached", "Available"),
  ],
  "local-rwx": [
    ...words(`admin.vm.Console admin.vm.Kill admin.vm.Pause admin.vm.Resume admin.vm.Shutdown admin.vm.Start
      admin.vm.Suspend admin.vm.Unpause admin.vm.device.denied.Add admin.vm.device.denied.Remove
      admin.vm.feature.Remove admin.vm.feature.Set admin.vm.firewall.Reload admin.vm.firewall.Set admin.vm.notes.Set
      admin.vm.property.Reset admin.vm.property.Set admin.vm.tag.Remove admin.vm.tag.Set admin.vm.volume.Clear
      admin.vm.volume.CloneFrom admin.vm.volume.CloneTo admin.vm.volume.Import admin.vm.volume.ImportWithSize
      admin.vm.volume.Resize admin.vm.volume.Revert admin.vm.volume.Set.ephemeral
      admin.vm.volume.Set.revisions_to_keep admin.vm.volume.Set.rw`),
    ...devices("Assign", "Attach", "Detach", "Set.assignment", "Unassign"),
  ],
};

const scopes = Object.entries(ADMIN) as [Scope, string[]][];
const readers = new Set([...ADMIN["global-ro"], ...ADMIN["local-ro"]]);

/** The calls of the Admin API that only read. */
export const adminReads = (scope: "global" | "local"): readonly string[] => ADMIN[`${scope}-ro`];
export const onlyReads = (service: string): boolean => readers.has(service);

/** Calls that read or change the policy itself. */
const POLICY_API: Record<string, string[]> = {
  "policy-ro": words("policy.List policy.include.List policy.Get policy.include.Get policy.GetFiles"),
  "policy-rwx": words("policy.Replace policy.include.Replace policy.Remove policy.include.Remove"),
};

/** Services that hand the caller a command line in another qube. */
export const COMMANDS = ["qubes.VMShell", "qubes.VMRootShell", "qubes.VMExec", "qubes.VMExecGUI"];

const INSTALLED = `policy.RegisterArgument * @anyvm @anyvm deny
policy.RegisterArgument * @anyvm dom0 deny
qubes.ConnectTCP * @anyvm @anyvm deny
qubes.FeaturesRequest * @anyvm dom0 allow
qubes.NotifyTools * @anyvm dom0 allow
qubes.Filecopy * @anyvm @anyvm ask
qubes.GetDate * @tag:anon-vm @anyvm deny
qubes.GetDate * @anyvm @anyvm allow target=dom0
qubes.GetRandomizedTime * @anyvm dom0 allow
qubes.GetImageRGBA * @anyvm @dispvm allow
qubes.GetImageRGBA * @anyvm @anyvm ask
qubes.NotifyUpdates * @anyvm dom0 allow
qubes.OpenInVM * @anyvm @dispvm allow
qubes.OpenInVM * @anyvm @anyvm ask
qubes.OpenURL * @anyvm @dispvm allow
qubes.OpenURL * @anyvm @anyvm ask
qubes.StartApp * @anyvm @dispvm allow
qubes.StartApp * @anyvm @anyvm ask
qubes.SyncAppMenus * @anyvm dom0 allow
qubes.Notifications * @anyvm @default allow target=dom0
qubes.UpdatesProxy * @tag:whonix-updatevm @default allow target=sys-whonix
qubes.UpdatesProxy * @tag:whonix-updatevm @anyvm deny
qubes.UpdatesProxy * @type:TemplateVM @default allow target=sys-net
qubes.UpdatesProxy * @anyvm @anyvm deny
qubes.VMShell * @anyvm @dispvm allow
qubes.VMShell * @anyvm @anyvm deny
qubes.VMRootShell * @anyvm @anyvm deny
qubes.VMExec * @anyvm @dispvm allow
qubes.VMExec * @anyvm @anyvm deny
qubes.VMExecGUI * @anyvm @dispvm allow
qubes.VMExecGUI * @anyvm @anyvm deny
`;

const includes = (lists: [string, string[]][]) =>
  lists
    .flatMap(([name, services]) =>
      services.map((each) => `!include-service ${each} * include/admin-${name}\n`),
    )
    .join("");

/** What a Qubes 4.3 host denies and allows before anybody adds to it. */
export const STOCK: Files = {
  [`${POLICY}/35-compat.policy`]: "!compat-4.0\n",
  [`${POLICY}/90-admin-default.policy`]: includes(scopes),
  [`${POLICY}/90-admin-policy-default.policy`]: includes(Object.entries(POLICY_API)),
  [`${POLICY}/90-default.policy`]: INSTALLED,
  [`${POLICY}/91-admin-default-deny.policy`]: ["admin.vm.property.GetAll", "admin.property.GetAll"]
    .flatMap((each) => [
      `${each} * @anyvm @anyvm deny notify=no\n`,
      `${each} * @anyvm @adminvm deny notify=no\n`,
    ])
    .join(""),
  [`${POLICY}/include/admin-global-ro`]: "!include include/admin-global-rwx\n",
  [`${POLICY}/include/admin-global-rwx`]: "",
  [`${POLICY}/include/admin-local-ro`]: "!include include/admin-local-rwx\n",
  [`${POLICY}/include/admin-local-rwx`]: "",
  [`${POLICY}/include/admin-policy-ro`]: "!include include/admin-policy-rwx\n",
  [`${POLICY}/include/admin-policy-rwx`]: "",
};

/** Every service that the reference knows. */
export const SERVICES: readonly string[] = [
  ...new Set([
    ...scopes.flatMap(([, list]) => list),
    ...Object.values(POLICY_API).flat(),
    "policy.EvalGUI",
    "policy.EvalSimple",
    ...INSTALLED.split("\n").flatMap((line) => line.split(" ")[0] || []),
    ...words(`qubes.ClipboardCopy qubes.ClipboardPaste qubes.GetAppmenus qubes.SetMonitorLayout qubes.WaitForSession
      qubes.WindowIconUpdater qubes.PowerSupply qubes.SetBrightness qubes.InputMouse qubes.InputKeyboard
      qubes.InputTablet qubes.RestoreById qubes.SaltLinuxVM`),
    POWER_SERVICE,
  ]),
].sort();

/** What people call what a service does, in the order in which they ask for it. The first that fits counts. */
const GROUPS: [string, RegExp][] = [
  ["run any command", /^qubes\.VM(Root)?(Shell|Exec)|^qubes\.SaltLinuxVM$|^admin\.vm\.Console$/],
  ["the rules themselves", /^policy\.(?!Eval)|^admin\.vm\.tag\.(Set|Remove)$/],
  ["PCI devices", /^admin\.vm\.device\.pci\.(Assign$|Attach$|Detach|Set|Unassign)/],
  ["other devices", /^admin\.vm\.device\.\w+\.(Assign$|Attach$|Detach|Set|Unassign|Add|Remove)/],
  ["shut the machine down, restart it, let it sleep", /^guidomain\.Power$/],
  ["start applications", /^qubes\.(StartApp|OpenInVM|OpenURL)$/],
  ["start and stop qubes", /^admin\.vm\.(Start|Shutdown|Kill|Pause|Unpause|Suspend|Resume)$/],
  ["make and remove qubes", /^admin\.vm\.(Create.*|Remove|volume\.Clone.*)$/],
  [
    "settings of qubes",
    /^admin\.vm\.(property|feature|firewall|notes|volume)\.(Set.*|Reset|Remove|Reload|Resize|Revert|Clear|Import.*)$/,
  ],
  [
    "the whole system",
    /^admin\.(label|pool|property|backup)\.(Create|Remove|Add|Set.*|Reset|Execute|Cancel)$/,
  ],
  ["carry text and files between qubes", /^qubes\.(Clipboard.*|Filecopy)$|^policy\.Eval/],
  ["see qubes and the system", /^admin\./],
  [
    "show windows and menus",
    /^qubes\.(GetImageRGBA|GetAppmenus|SetMonitorLayout|WaitForSession|SyncAppMenus|WindowIconUpdater|Notifications)$/,
  ],
  ["keyboard, mouse, battery, brightness", /^qubes\.(Input.*|PowerSupply|SetBrightness)$/],
];
const OTHER = "other services";
export const GROUP_NAMES: readonly string[] = [...GROUPS.map(([name]) => name), OTHER];

export const groupOf = (service: string): string =>
  GROUPS.find(([, form]) => form.test(service))?.[0] ?? OTHER;
