"""
The guard: undoes, alone, what nobody confirmed. It needs no Salt, no network, no controller and no
free disk; only this folder, Python, the journal, and qubesd for what is qubesd's.

    guard.py boot     the first look of a boot, before any GUI domain may start
    guard.py watch    waits for deadlines; ends when there is nothing left to watch

What it finds, and what it does:

    trial.json    in a boot that was not planned for (power loss, an entry that did not come up):
                  undo. In the trial's own boot: a deadline starts. Past a deadline: undo, and leave a
                  boot that only the trial made. The ledger has its id: it counts; remove what
                  goes for good, and tidy up.
    watch.json    a confirmed mode that keeps the display from dom0. In a boot that is made for it:
                  let the GUI domain start, check it; not up in time: undo, reboot. In any other boot
                  (a person, or GRUB after one boot that nobody verified, chose the rescue entry):
                  undo, so that dom0 has its screen for good.
    journal.json  alone: an apply was cut off before its trial began: undo.
    LEAVE         a trial was undone in its own boot, which nobody has left since: reboot.

Deadlines are in CLOCK_BOOTTIME. A trial is undone by who moves it to `undoing` first; that one is
killed and the undo is done again by the next who looks, as often as it takes.
"""

import os
import sys

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))

import common  # noqa: E402
import journal  # noqa: E402
import keys  # noqa: E402
import lock as host_lock  # noqa: E402
import machine  # noqa: E402
import menu  # noqa: E402
import domains as admin  # noqa: E402
import runner  # noqa: E402
import trial as trials  # noqa: E402
import units  # noqa: E402
from steps import reach  # noqa: E402

LONG = 3600  # seconds; what is left of the watch is less
LOOK = 2  # seconds between looks while somebody is at work
RETRIES = (5, 15, 60, 300)  # seconds to the next try of an undo that left something
GRACE, KILLED = 10, 150  # seconds for a holder of the lock to let go; for its commands to end
PROHIBIT = "guidomain: it starts only in a boot that keeps its display from dom0"
GPU = "guidomain.gpu="


def say(*words):
    print("guidomain:", *words, flush=True)


class Guard:
    def __init__(self, run=runner.run):
        self.run = run
        self.tries = 0
        self.until = None  # end of the watch of this boot, CLOCK_BOOTTIME
        self.leaves = None  # when a boot that has to end is ended by us

    # -- looks

    def boot(self):
        """The first look of a boot. It may undo, and reboot."""
        reach("guard.begins")
        trial, kept = trials.load(), trials.watch()
        if trial and trial["phase"] == "rebooting" and trials.in_its_boot(trial):
            trial = self._trial_boot(trial)
        if (trial and trial["boot"]) or (kept and self._made_for(kept)):
            self._watch_over(trial)
        admin.forget_saved(self._changed(kept))
        self._drop_strangers()
        self._may_start(kept, trial)
        if trial and trials.is_committed(trial["id"]):
            return LOOK  # what is still to be removed may take long: no start waits for that
        return self.step()

    def step(self):
        """One look. Seconds to the next one; None when nothing is left to watch."""
        trial = trials.load()
        if trial:
            return self._trial(trial)
        if common.read_text(common.JOURNAL) is not None:
            return self._leftover()
        if trials.is_leaving():
            return self._leave()
        kept = trials.watch()
        return self._mode(kept) if kept else None

    # -- a trial

    def _trial(self, trial):
        if trials.is_committed(trial["id"]):
            return self._alone(
                lambda: trials.settle(trial["id"], trial["owner"], self._emit, self.run)
            )
        if trial["phase"] == "undoing":
            return self._undo(trial)
        seconds = trials.left(trial)
        if seconds is None:
            if trial["phase"] == "rebooting" and trials.in_its_boot(trial):
                self._trial_boot(trial)
                return LOOK
            why = (
                "the trial entry did not boot: GRUB or the machine went back to the normal one"
                if trial["phase"] == "rebooting"
                else "the machine restarted in the middle of it (phase %s)" % trial["phase"]
            )
            return self._undo(trial, why)
        if seconds > 0:
            return min(seconds, LOOK)
        return self._undo(trial, "it was not confirmed in time (phase %s)" % trial["phase"])

    def _trial_boot(self, trial):
        say("trial", trial["id"], "begins")
        menu.unchoose()
        moved = trials.move(
            trial["id"], ["rebooting"], "trial", deadline=trials.due(trial["seconds"])
        )
        reach("guard.trial")
        return moved or trials.load()

    def _undo(self, trial, why=None):
        if why is not None:
            # Only from the phase that was seen: a confirmation may be faster.
            now = trials.move(
                trial["id"],
                [trial["phase"]],
                "undoing",
                why=why,
                deadline=None,
                **{"from": trial["phase"]},
            )
            if now is None:
                return 0
            trial = now
            say("undoing", trial["id"] + ":", why)
        lock = self._lock(kill=why is not None)
        if lock is None:
            return LOOK  # somebody is at it
        try:
            trial = trials.load()
            if trial is None or trial["phase"] != "undoing" or trials.is_committed(trial["id"]):
                return 0
            outcome = trials.undo(trial, self._emit, self.run, told=True)
        finally:
            lock.release()
        # Once: where something stays as it is, the next boot may be no better.
        if trials.is_wrong_boot(trial) and not trial.get("rebooted"):
            say("leaving a boot that only the trial made")
            trials.move(trial["id"], ["undoing"], "undoing", rebooted=True)
            machine.here.reboot()
        self._may_start(trials.watch(), None)  # with what it was given back
        waits = self._again(outcome["left"])
        if waits is None:
            self._alone(lambda: trials.give_up(trial))
            return 0
        return waits

    def _again(self, left):
        """Seconds to the next try; None where there is to be none."""
        if not left:
            self.tries = 0
            return 0
        if all(reason == keys.STUCK for reason in left.values()):
            say("cannot be put back:", left)
            return 0
        say("could not put back:", left)
        if "qube:dom0" not in left:  # else qubesd does not answer: nothing is known yet
            self.tries += 1
        return RETRIES[max(0, self.tries - 1)] if self.tries <= len(RETRIES) else None

    def _leftover(self):
        """A journal without a trial."""
        record = journal.load()
        if record is None:
            return self._alone(lambda: trials.settle_rest(self._emit, self.run))
        outcome = {"left": {}}

        def undo():
            if trials.load() is None and journal.load() is not None:
                outcome.update(journal.undo(record, self._emit, self.run))

        waits = self._alone(undo)
        return waits or self._again(outcome["left"])

    # -- a confirmed mode

    def _mode(self, kept):
        if "rescuing" in kept:
            return self._rescue(kept, kept["rescuing"])
        if not self._made_for(kept):
            return self._rescue(kept, "the host was booted without what the mode needs")
        here = machine.here
        if kept.get("verified") == here.boot_id():
            menu.untry()
            menu.sync(None, kept)  # a new kernel, perhaps
            return None
        if self.until is None:
            self.until = here.boottime() + kept["seconds"]
        # Mostly it starts by itself. Not where that was put back only after this boot had begun.
        checks = [{"kind": "start", "id": "starts", "qube": kept["qube"], "timeout": LONG}]
        try:
            here.checks(checks + kept["checks"], max(1, self.until - here.boottime()))
        except (common.Failure, admin.AdminError, OSError) as error:
            if here.boottime() >= self.until:
                return self._rescue(
                    kept, "it did not come up in %d s: %s" % (kept["seconds"], error)
                )
            return LOOK
        reach("watch.checked")
        trials.save_surely(common.WATCH, dict(kept, verified=here.boot_id(), armed=False))
        if kept.get("armed"):
            here.unwatch()
        say(kept["qube"], "is up")
        reach("watch.done")
        return 0

    def _leave(self):
        """Such a boot may have no screen, and says nothing about the mode that is confirmed. An
        agent has to tell its controller first."""
        now = machine.here.boottime()
        if self.leaves is None:
            self.leaves = now + GRACE
        elif now >= self.leaves:
            say("leaving a boot that only a trial made, as nobody else does")
            machine.here.reboot()
        return LOOK

    def _rescue(self, kept, why):
        lock = self._lock(kill=False)
        if lock is None:
            return LOOK
        try:
            kept = trials.watch()
            if kept is None or trials.load():
                return 0
            if "rescuing" not in kept:
                kept["rescuing"] = why
                trials.save_surely(common.WATCH, kept)
                say("rescue:", why)
            reach("rescue.begun")
            try:
                left = trials.rescue(kept, self._emit, self.run)["left"]
            except OSError as error:
                if not common.is_full(error):
                    raise
                # The values are back; only the ledger cannot be told. That waits, the screen does not.
                left = {"file:" + common.LEDGER: "no space left on the host"}
            reach("rescue.done")
        finally:
            lock.release()
        # With our tokens still there, another boot would only come back to this.
        tokens = any(key.startswith("bootarg:") for key in left)
        if self._made_for(kept) and not tokens and not kept.get("rebooted"):
            if trials.watch():
                self._mark_rebooted()
            machine.here.reboot()
        return self._again(left)

    @staticmethod
    def _mark_rebooted():
        """Once is enough. Where there is no room to say so: without our tokens the next boot is none
        that would come here again."""
        try:
            trials.save_surely(common.WATCH, dict(trials.watch(), rebooted=True))
        except OSError as error:
            if not common.is_full(error):
                raise

    @staticmethod
    def _made_for(kept):
        words = machine.here.cmdline().split()
        return GPU + kept["qube"] in words and admin.platform() != "none"

    @staticmethod
    def _drop_strangers():
        try:
            for qube, address, there in admin.drop_strangers():
                say("at", address, "there is now", there + ", which", qube, "is not given")
        except OSError as error:
            say("cannot look after devices:", error)

    @staticmethod
    def _changed(kept):
        """Qubes that are not what they were when the machine went down: those of a change under way,
        and of a mode that each boot brings up anew."""
        record = common.read_json(common.JOURNAL) or {"before": {}}
        names = {kept["qube"]} if kept else set()
        for part in ("running", "halted", "renewed"):
            names |= set(record.get(part, []))
        for key in record["before"]:
            kind, qube, _ = keys.split(key)
            if kind in ("qube", "property", "device"):
                names.add(qube)
        return sorted(names)

    # -- both

    @staticmethod
    def _watch_over(trial):
        """A hang is no power cycle: Xen's watchdog makes one of it."""
        if machine.here.watchdog():
            if trial:
                trials.move(trial["id"], [trial["phase"]], trial["phase"], armed=True)
            else:
                trials.save_surely(common.WATCH, dict(trials.watch(), armed=True))
        reach("guard.watchdog")

    def _may_start(self, kept, trial):
        """A GUI domain may start only where its card was never dom0's in this boot: pulled from
        a driver that runs, it takes the machine with it."""
        for mode in (kept, trial and trial["watch"]):
            if mode:
                try:
                    self._prohibit(mode)
                except admin.AdminError as error:
                    if error.type == "QubesVMNotFoundError":
                        continue  # it is only about to be made, or is gone
                    say("cannot tell whether", mode["qube"], "may start:", error)
        reach("guard.prohibit")

    @staticmethod
    def _prohibit(mode):
        if not admin.is_qubes():
            return  # xl takes no card that is not on pciback
        qube, given, available = mode["qube"], trials.given(mode), admin.pci_available()

        def is_hidden(one):
            """By what it is Qubes gives every device of that kind, also one that came since."""
            part = "device" if one["port"] == "*" else "port"
            found = [device["sbdf"] for device in available if device[part] == one[part]]
            return found and all(
                os.path.exists(common.path("/sys/bus/pci/drivers/pciback/" + sbdf))
                for sbdf in found
            )

        hidden = all(is_hidden(one) for one in given)
        now = admin.get_feature(qube, "prohibit-start")
        if given and not hidden:
            if not now:
                admin.set_feature(qube, "prohibit-start", PROHIBIT)
        elif given and now and now.startswith("guidomain:"):
            admin.remove_feature(qube, "prohibit-start")

    @staticmethod
    def _lock(kill):
        """The host's lock; None where somebody holds it on. `kill`: after a while they do not."""
        return host_lock.take("guidomain's guard", GRACE if kill else 0, KILLED if kill else None)

    def _alone(self, work):
        lock = self._lock(kill=False)
        if lock is None:
            return LOOK
        try:
            work()
        finally:
            lock.release()
        return 0

    @staticmethod
    def _emit(stage, text):
        say(stage + ":", text)


def main(words):
    guard = Guard()
    if words == ["boot"]:
        guard.boot()
        return
    while True:
        held = units.live()
        seconds = 0
        while seconds is not None:
            machine.here.sleep(seconds)
            seconds = guard.step()
            if not units.holds(held):
                # Somebody put the folder back from a copy: an agent would take us for dead.
                os.close(held)
                held = units.live()
            gone = common.read_text(common.GUARD + "/guard.py", 1) is None
            if gone and not trials.load() and not trials.is_leaving():
                break  # nothing of ours is left on this host
        os.close(held)
        # Who began a trial while we were ending may have seen us alive.
        if trials.load() is None:
            return


if __name__ == "__main__":
    main(sys.argv[1:])
