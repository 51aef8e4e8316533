/**
 * What is expected of 13 real machines, read by hand from each file of tests/fixtures/hardware. Addresses leave out the
 * segment 0000. The dumps do not say which display has the screen, so where there are two the bare verdict is "unknown";
 * `lit` is the verdict when this display is known to have it.
 */
import { test } from "uvu";
import * as assert from "uvu/assert";
import type { PciFunction } from "../host/protocol.ts";
import { select } from "./selector.ts";
import { siblings } from "./siblings.ts";
import { PROFILES, profileFacts } from "./testing/profile.ts";
import { isSystem, isUsb, mainDisplays, pathAddress, pciTree } from "./tree.ts";
import { type Verdict, verdictAudio, verdictGpu } from "./verdict.ts";

type Says = Verdict["verdict"];
interface Gpu {
  at: string;
  bare: Says;
  lit: Says;
  /** Why `lit` is what it is: rules that are neither "go" nor a note. */
  rules: string[];
  takes: string[];
  stays: string[];
  why: string;
}
interface Expected {
  gpus: Gpu[];
  audio: { functions: string[]; verdict: Says; loose: string[]; why: string } | null;
}

const TABLE: Record<string, Expected> = {
  "asrock-x570-phantom-gaming-4-navi10": {
    gpus: [
      {
        at: "0a:00.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["reset"],
        takes: ["0a:00.1"],
        stays: [],
        why: "denied dump; alone on its bus with its HDMI sound, behind the card's own switch, but Navi 10 does not survive a bus reset, and whether it has FLR is not known",
      },
    ],
    audio: {
      functions: ["0c:00.4"],
      verdict: "unknown",
      loose: ["0c:00.4"],
      why: "0a:00.1 is the card's; 0c:00.4 shares its slot with USB and the security processor, its reset is not known",
    },
  },
  "asus-h81-gt1030": {
    gpus: [
      {
        at: "00:02.0",
        bare: "unknown",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "FLR and PM; alone in its slot; a second display is there",
      },
      {
        at: "01:00.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["quirk:nvidia"],
        takes: ["01:00.1"],
        stays: [],
        why: "no FLR, no PM, but all of bus 01 is the card: bus reset; NVIDIA is not proved",
      },
    ],
    audio: { functions: ["00:1b.0"], verdict: "go", loose: [], why: "FLR; 01:00.1 is the GT 1030's" },
  },
  "asus-rog-zephyrus-g14-ga401ih": {
    gpus: [
      {
        at: "01:00.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["quirk:nvidia"],
        takes: ["01:00.1"],
        stays: [],
        why: "FLR; its sound has none but the bus is all theirs; NVIDIA is not proved",
      },
      {
        at: "04:00.0",
        bare: "no",
        lit: "no",
        rules: ["reset"],
        takes: ["04:00.1"],
        stays: ["04:00.2", "04:00.3", "04:00.4", "04:00.5", "04:00.6"],
        why: "APU: no FLR, its PM reset is void (kernel quirk), and the security processor, two USB controllers (the keyboard) and the sound stay on its bus",
      },
    ],
    audio: {
      functions: ["04:00.6"],
      verdict: "go",
      loose: [],
      why: "the codec is AMD's 1022, not the display's, and has a PM reset; 01:00.1 and 04:00.1 belong to displays; 04:00.5 (0480) is no sound function",
    },
  },
  "dell-poweredge-r210-ii": {
    gpus: [
      {
        at: "03:03.0",
        bare: "go",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "the only display; PM reset, and alone behind the PCI bridge",
      },
    ],
    audio: null,
  },
  "dell-xps-13-9310": {
    gpus: [
      {
        at: "00:02.0",
        bare: "go",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "the only display; FLR and PM",
      },
    ],
    audio: {
      functions: ["00:1f.3"],
      verdict: "options",
      loose: ["00:1f.3"],
      why: "class 0401 beside LPC, SMBus and SPI: only the sound function; neither FLR nor PM on a root bus",
    },
  },
  "framework-laptop-13-amd": {
    gpus: [
      {
        at: "c1:00.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["reset", "reset"],
        takes: ["c1:00.1"],
        stays: ["c1:00.2", "c1:00.3", "c1:00.4", "c1:00.5", "c1:00.6"],
        why: "APU in a denied dump: its reset and its HDMI sound's are not known; security processor, USB and codec stay",
      },
    ],
    audio: {
      functions: ["c1:00.6"],
      verdict: "unknown",
      loose: ["c1:00.6"],
      why: "the codec (1022); c1:00.1 (1002) is the display's; denied dump",
    },
  },
  "intel-nuc12snki72-arc": {
    gpus: [
      {
        at: "00:02.0",
        bare: "unknown",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "FLR; two displays",
      },
      {
        at: "03:00.0",
        bare: "unknown",
        lit: "go",
        rules: [],
        takes: ["04:00.0"],
        stays: [],
        why: "Arc: FLR; its sound sits on a bus of its own behind the card's switch",
      },
    ],
    audio: {
      functions: ["00:1f.3"],
      verdict: "options",
      loose: ["00:1f.3"],
      why: "beside LPC, SMBus and SPI; no reset; 04:00.0 is the Arc's",
    },
  },
  "lenovo-thinkpad-12983pg": {
    gpus: [
      {
        at: "00:02.0",
        bare: "go",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "the only display; FLR and PM",
      },
    ],
    audio: { functions: ["00:1b.0"], verdict: "go", loose: [], why: "FLR and PM, alone in its slot" },
  },
  "lenovo-thinkpad-t400s": {
    gpus: [
      {
        at: "00:02.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["reset"],
        takes: [],
        stays: ["00:02.1"],
        why: "denied dump; 00:02.1 is the placeholder of a second head, not a second display",
      },
    ],
    audio: { functions: ["00:1b.0"], verdict: "unknown", loose: ["00:1b.0"], why: "denied dump" },
  },
  "lenovo-thinkpad-t440s": {
    gpus: [
      {
        at: "00:02.0",
        bare: "go",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "the only display; FLR and PM",
      },
    ],
    audio: {
      functions: ["00:03.0", "00:1b.0"],
      verdict: "go",
      loose: [],
      why: "both have FLR; 00:03.0 is the HDMI sound, but in a slot of its own",
    },
  },
  "lenovo-thinkpad-w541-k2100m": {
    gpus: [
      {
        at: "00:02.0",
        bare: "unknown",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "FLR and PM; two displays",
      },
      {
        at: "01:00.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["quirk:nvidia"],
        takes: ["01:00.1"],
        stays: [],
        why: "no FLR, no PM, but all of bus 01 is the card; NVIDIA is not proved",
      },
    ],
    audio: {
      functions: ["00:03.0", "00:1b.0"],
      verdict: "go",
      loose: [],
      why: "both have FLR; 01:00.1 is the Quadro's",
    },
  },
  "lenovo-thinkpad-x230": {
    gpus: [
      {
        at: "00:02.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["reset"],
        takes: [],
        stays: [],
        why: "denied dump: its reset is not known",
      },
    ],
    audio: { functions: ["00:1b.0"], verdict: "unknown", loose: ["00:1b.0"], why: "denied dump" },
  },
  "system76-oryx-pro-rtx2060": {
    gpus: [
      {
        at: "00:02.0",
        bare: "unknown",
        lit: "go",
        rules: [],
        takes: [],
        stays: [],
        why: "FLR and PM; two displays",
      },
      {
        at: "01:00.0",
        bare: "unknown",
        lit: "unknown",
        rules: ["quirk:nvidia"],
        takes: ["01:00.1", "01:00.2", "01:00.3"],
        stays: [],
        why: "FLR; the card's own sound, USB and UCSI (class 0c80) go along, and the bus is all theirs",
      },
    ],
    audio: {
      functions: ["00:1f.3"],
      verdict: "options",
      loose: ["00:1f.3"],
      why: "beside LPC, SMBus and SPI; no reset; 01:00.1 is the card's",
    },
  },
};

const short = (functions: readonly PciFunction[]) => functions.map((fn) => fn.sbdf.slice("0000:".length));
const connector = (name: string, connected: boolean) => ({ name, connected, enabled: connected });

test("every profile has its row, and no row is without a profile", () => {
  assert.equal(Object.keys(TABLE).sort(), PROFILES.toSorted());
  assert.is(PROFILES.length, 13);
});

for (const [name, { gpus, audio }] of Object.entries(TABLE)) {
  const facts = profileFacts(name);
  const tree = pciTree(facts.pci);
  const displays = mainDisplays(tree);

  test(`${name}: its displays, what goes with each, what stays`, () => {
    assert.equal(
      short(displays),
      gpus.map(({ at }) => at),
    );
    for (const gpu of gpus) {
      const found = select(tree, { address: gpu.at }, "display");
      if (!("functions" in found)) throw new Error(found.refused.what);
      const [display] = found.functions;
      if (!display) throw new Error(gpu.at);
      const { takes, stays } = siblings(tree, display);
      assert.equal(short(takes), gpu.takes, `${gpu.at} takes: ${gpu.why}`);
      assert.equal(short(stays), gpu.stays, `${gpu.at} stays: ${gpu.why}`);
      assert.not.ok(takes.some((fn) => isSystem(fn) && fn.vendor !== display.vendor));
    }
  });

  test(`${name}: the verdict on each display`, () => {
    for (const { at, bare, lit, rules, why } of gpus) {
      const at0 = `0000:${at}`;
      /** The facts as they are when display `has` lights the panel, and the others have a socket with nothing in it. */
      const withScreen = (has: (sbdf: string) => boolean) => {
        const pci = facts.pci.map((fn) =>
          displays.some(({ sbdf }) => sbdf === fn.sbdf)
            ? { ...fn, outputs: [connector("card0-eDP-1", has(fn.sbdf))], bootVga: has(fn.sbdf) }
            : fn,
        );
        return { ...facts, pci };
      };
      const judge = (these: typeof facts) => {
        const display = these.pci.find(({ sbdf }) => sbdf === at0);
        if (!display) throw new Error(at);
        return verdictGpu(these, display);
      };
      assert.is(judge(facts).verdict, bare, `${at} bare: ${why}`);
      const seen = judge(withScreen((sbdf) => sbdf === at0));
      assert.is(seen.verdict, lit, `${at} lit: ${why}`);
      assert.equal(
        seen.reasons.flatMap(({ rule, effect }) => (effect === "go" || effect === "note" ? [] : [rule])),
        rules,
        `${at}: ${why}`,
      );
      if (displays.length > 1)
        assert.is(judge(withScreen((sbdf) => sbdf !== at0)).verdict, "no", `${at} has no screen`);
      for (const { fn, options } of seen.devices)
        assert.equal(options, fn.sbdf === at0 ? { permissive: "True" } : {}, at);
    }
  });

  test(`${name}: the sound for an audio domain`, () => {
    const found = select(tree, { class: "audio" }, "audio");
    if (audio === null) {
      assert.ok("refused" in found && found.refused.rule === "no-match");
      return;
    }
    if (!("functions" in found)) throw new Error(found.refused.what);
    assert.equal(short(found.functions), audio.functions, audio.why);
    const { verdict, devices } = verdictAudio(facts, found.functions);
    assert.is(verdict, audio.verdict, audio.why);
    assert.equal(
      short(devices.filter(({ options }) => options["no-strict-reset"] === "True").map(({ fn }) => fn)),
      audio.loose,
    );
  });

  test(`${name}: nothing is "no" for what a dump without rights hides; without an IOMMU all is`, () => {
    const hidden = { ...facts, pci: facts.pci.map((fn) => ({ ...fn, reset: null })) };
    const without = { ...facts, xen: { ...facts.xen, iommu: false } };
    for (const display of mainDisplays(pciTree(hidden.pci)))
      assert.is.not(verdictGpu(hidden, display).verdict, "no");
    for (const display of displays) assert.is(verdictGpu(without, display).verdict, "no");
    assert.is(verdictAudio(without, facts.pci.slice(0, 1)).verdict, "no");
  });

  test(`${name}: a USB controller goes with no display but the card it is on`, () => {
    for (const display of displays)
      for (const fn of siblings(tree, display).takes.filter(isUsb)) assert.is(fn.vendor, display.vendor);
  });

  test(`${name}: each function has a path, and only a VMD domain none that Qubes takes`, () => {
    for (const fn of tree.functions)
      assert.is(pathAddress(tree, fn) === null, fn.sbdf.startsWith("10000:"), fn.sbdf);
    assert.is(new Set(tree.paths.values()).size, tree.functions.length);
  });
}

test("paths of real machines, worked out by hand from the bridges", () => {
  const paths = (name: string, ...sbdfs: string[]) => {
    const tree = pciTree(profileFacts(name).pci);
    return sbdfs.map((sbdf) => tree.paths.get(sbdf));
  };
  assert.equal(paths("intel-nuc12snki72-arc", "0000:00:02.0", "0000:03:00.0", "0000:04:00.0"), [
    "00_02.0",
    "00_01.0-00_00.0-00_01.0-00_00.0",
    "00_01.0-00_00.0-00_04.0-00_00.0",
  ]);
  assert.equal(paths("dell-poweredge-r210-ii", "0000:03:03.0"), ["00_1e.0-00_03.0"]);
  assert.equal(paths("framework-laptop-13-amd", "0000:c3:00.6"), ["00_08.3-00_00.6"]);
  // The root bus of a VMD domain is e0, and no bridge is above it.
  assert.equal(paths("dell-xps-13-9310", "10000:e0:06.0", "10000:e1:00.0"), [
    "10000_e0_06.0",
    "10000_e0_06.0-00_00.0",
  ]);
});

test.run();
