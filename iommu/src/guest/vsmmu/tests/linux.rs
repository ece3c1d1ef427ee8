//! What Linux's `arm-smmu-v3` does to the registers, in its order: probe, reset, attachments, unmaps, detachments, events,
//! shutdown, and a kernel that starts after that, or on top of it. Facts from the driver of Linux 6.12; offsets and values are the document's.

use super::*;

/// Stream table of two levels: 2^8 level 1 descriptors for 16-bit StreamIDs.
const L1: u64 = TABLE;
const L2: u64 = RAM + 0x50_0000;
const RA: u64 = 1 << 62;
const GBPA_ABORT: u32 = 1 << 20;
/// Entries (IHI 0070, 5.2): V with Config = abort, V with Config = bypass.
const ABORT: u64 = 1;
const BYPASS: u64 = 0b1001;

/// How a driver starts.
#[derive(Clone, Copy, Default)]
struct How {
    /// A kernel before left the SMMU on.
    running: bool,
    /// A kernel that collects a crash: whatever floods the event queue is not its own.
    crash: bool,
    /// It was told nothing of any device, and not to stop them (`disable_bypass` of older drivers): it leaves the SMMU off.
    off: bool,
}

/// The driver's side.
struct Linux {
    guest: Guest,
    prod: u32,
    commands_log2: u32,
}

impl Linux {
    /// Writes a control register and waits for its acknowledgement.
    fn synced(&mut self, value: u32, register: u64, ack: u64) {
        self.guest.write(register, value.into());
        for _ in 0..1000 {
            if self.guest.read(ack) == value {
                return;
            }
            self.guest.run();
        }
        panic!("{register:#x} = {value:#x} is not acknowledged");
    }

    /// Posts commands and a CMD_SYNC with CS = SEV, and polls CONS.
    fn issue(&mut self, commands: &[[u64; 2]]) {
        let mask = (2u32 << self.commands_log2) - 1;
        let sync = [0x46 | 2 << 12, 0];
        for command in commands.iter().chain([&sync]) {
            let index = u64::from(self.prod & (mask >> 1));
            self.guest.ram.store(COMMANDS + index * 16, command);
            self.prod = (self.prod + 1) & mask;
        }
        self.guest.write(CMDQ_PROD, self.prod.into());
        for _ in 0..1000 {
            if self.guest.read(CMDQ_CONS) == self.prod {
                return;
            }
            self.guest.run();
        }
        panic!("the CMD_SYNC does not complete");
    }

    /// arm_smmu_device_hw_probe.
    fn probe(&mut self) {
        let idr0 = self.guest.read(0x00);
        assert_eq!(idr0 >> 27 & 3, 1, "two-level tables");
        assert_eq!(idr0 >> 21 & 3, 2, "little-endian");
        assert_ne!(idr0 & 1 << 4, 0, "coherent");
        assert_ne!(idr0 & 1 << 1, 0, "stage 1");
        assert_eq!(idr0 >> 2 & 3, 2, "AArch64");
        assert_eq!(idr0 >> 24 & 3, 1, "no stalls");
        let idr1 = self.guest.read(0x04);
        assert_eq!(idr1 & 7 << 29, 0, "nothing is preset");
        self.commands_log2 = (idr1 >> 21 & 0x1f).min(12);
        assert_eq!(idr1 & 0x3f, 16);
        assert_ne!(self.guest.read(0x0c) & 1 << 10, 0, "range invalidation");
        let idr5 = self.guest.read(0x14);
        assert_eq!((idr5 >> 4 & 7, idr5 & 7), (7, 2), "granules, 40 bits");
        assert_eq!(self.guest.read(0x18), 0, "no implementer with errata");
    }

    /// arm_smmu_update_gbpa.
    fn global_bypass(&mut self, set: u32, clear: u32) {
        assert_eq!(self.guest.read(GBPA) >> 31, 0);
        let value = self.guest.read(GBPA) & !clear | set;
        self.guest.write(GBPA, u64::from(value) | 1 << 31);
        assert_eq!(self.guest.read(GBPA) >> 31, 0);
    }

    /// arm_smmu_device_reset.
    fn reset(&mut self, how: How) {
        assert_eq!(self.guest.read(CR0) & 1 != 0, how.running);
        if how.running {
            self.global_bypass(GBPA_ABORT, 0);
        }
        self.synced(0, CR0, CR0ACK);
        self.guest.write(0x28, 0xd75);
        self.guest.write(0x2c, 0b110);
        self.guest.write(STRTAB_BASE, L1 | RA);
        self.guest.write(STRTAB_CONFIG, 1 << 16 | 8 << 6 | 16);
        let log2 = u64::from(self.commands_log2);
        self.guest.write(CMDQ_BASE, COMMANDS | log2 | RA);
        self.prod = 0;
        self.guest.write(CMDQ_PROD, 0);
        self.guest.write(CMDQ_CONS, 0);
        self.synced(0b1000, CR0, CR0ACK);
        self.issue(&[CFGI_ALL]);
        self.issue(&[[0x30, 0]]);
        self.guest.write(EVENTQ_BASE, EVENTS | 10 | RA);
        self.guest.write(EVENTQ_PROD, 0);
        self.guest.write(EVENTQ_CONS, 0);
        self.synced(0b1100, CR0, CR0ACK);
        self.synced(0, IRQ_CTRL, 0x54);
        self.guest.write(0x68, 0);
        self.guest.write(0xb0, 0);
        self.synced(0b101, IRQ_CTRL, 0x54);
        let queues = if how.crash { 0b1000 } else { 0b1100 };
        if how.off {
            self.global_bypass(0, GBPA_ABORT);
        }
        let enabled = u32::from(!how.off);
        self.synced(queues | enabled, CR0, CR0ACK);
    }

    /// arm_smmu_device_disable: remove, and shutdown.
    fn shut_down(&mut self) {
        self.synced(0, CR0, CR0ACK);
    }

    /// What every stream of the guest's goes through.
    fn now(&self) -> Vec<StageOne> {
        let streams = self.guest.smmu.streams.iter();
        streams.map(|it| it.current.expect("it was set")).collect()
    }

    /// arm_smmu_write_entry for an entry that needs its first word only: that one, a command, the rest, a command.
    fn detach(&mut self, stream: u32, first: u64) {
        let at = L2 + u64::from(stream) * 64;
        self.guest.ram.store(at, &[first]);
        self.issue(&[cfgi_ste(stream)]);
        self.guest.ram.store(at + 8, &[0; 7]);
        self.issue(&[cfgi_ste(stream)]);
    }

    fn misuse(&self) -> u64 {
        self.guest.smmu.counters().misuse
    }

    /// arm_smmu_write_entry for stage 1: the words that are not looked at yet, a command, the first word, a command.
    fn attach(&mut self, stream: u32, contexts: u64) {
        let at = L2 + u64::from(stream) * 64;
        let [first, second] = stage_one(contexts);
        self.guest.ram.store(at + 8, &[second]);
        self.issue(&[cfgi_ste(stream)]);
        self.guest.ram.store(at, &[first]);
        self.issue(&[cfgi_ste(stream)]);
    }
}

fn linux() -> Linux {
    Linux {
        guest: Guest::plain(),
        prod: 0,
        commands_log2: 0,
    }
}

/// A level 2 table of 2^8 entries that abort, as Linux makes it when the first device of a bus is probed.
fn level_two(linux: &mut Linux) {
    level_two_of(linux, ABORT);
}

/// The same, of other entries.
fn level_two_of(linux: &mut Linux, first: u64) {
    for stream in 0..256 {
        linux
            .guest
            .ram
            .store(L2 + stream * 64, &[first, 0, 0, 0, 0, 0, 0, 0]);
    }
    linux.guest.ram.store(L1, &[L2 | 9]);
}

#[test]
fn linux_probes_attaches_unmaps_and_shuts_down() {
    let mut linux = linux();
    linux.probe();
    linux.reset(How::default());
    assert_eq!(linux.misuse(), 0);
    // No entry for any device yet, and Linux wants to know (CR2.RECINVSID).
    assert_eq!(
        linux.guest.attached().split_off(3),
        [0, 1, 2].map(|device| (device, StageOne::Refuse))
    );
    level_two(&mut linux);
    linux.attach(8, CONTEXTS);
    // The first command of the two finds an abort, then there is stage 1, in place of each other.
    assert_eq!(
        linux.guest.attached(),
        [(1, StageOne::Abort), (1, translate(CONTEXTS))]
    );
    // A context of another domain: CMD_CFGI_CD.
    linux.guest.entries();
    linux.issue(&[[0x05 | 8 << 32, 1]]);
    // An unmap in strict mode: TLBI_NH_VA with a range, leaf, level 3.
    let range = [0x12 | 3 << 12 | 1 << 48, 0x10_0000 | 1 << 10 | 3 << 8 | 1];
    linux.issue(&[range]);
    assert_eq!(
        linux.guest.entries(),
        [[0x05 | 8 << 32, 1, 0, 0], [range[0], range[1], 0, 0]]
    );
    // A bad command, as arm_smmu_gerror_handler meets it: CONS.ERR, then a CMD_SYNC in its place, then GERRORN.
    let index = u64::from(linux.prod);
    linux.guest.ram.store(COMMANDS + index * 16, &[0x20, 0]);
    linux.guest.write(CMDQ_PROD, index + 1);
    let error = linux.guest.read(GERROR) ^ linux.guest.read(GERRORN);
    assert_eq!(error, 1);
    assert_eq!(linux.guest.read(CMDQ_CONS), 1 << 24 | index as u32);
    linux.guest.ram.store(COMMANDS + index * 16, &SYNC);
    let gerror = linux.guest.read(GERROR);
    linux.guest.write(GERRORN, gerror.into());
    linux.prod += 1;
    // CONS.ERR stays: it is read with an error only.
    assert_eq!(linux.guest.consumed(), linux.prod);
    // Shutdown.
    linux.shut_down();
    assert_eq!(linux.now(), [StageOne::Bypass; 3]);
    assert_eq!(linux.misuse(), 0);
}

#[test]
fn a_kernel_that_finds_it_running_stops_all_dma_first() {
    let mut linux = linux();
    linux.probe();
    linux.reset(How::default());
    level_two(&mut linux);
    linux.attach(8, CONTEXTS);
    linux.guest.attached();
    // CONS.ERR and GERROR of the one before do not matter.
    linux.reset(How {
        running: true,
        ..How::default()
    });
    let attached = linux.guest.attached();
    // GBPA aborts when SMMUEN goes, and nothing passes until the tables are read anew.
    assert_eq!(
        attached[..3],
        [0, 1, 2].map(|device| (device, StageOne::Abort))
    );
    assert!(
        attached.iter().all(|it| it.1 != StageOne::Bypass),
        "{attached:?}"
    );
    assert_eq!(
        linux.guest.smmu.streams[1].current,
        Some(translate(CONTEXTS))
    );
    assert_eq!(linux.misuse(), 0);
}

#[test]
fn a_device_that_is_detached_passes_or_aborts_at_the_first_command() {
    let mut linux = linux();
    linux.probe();
    linux.reset(How::default());
    level_two(&mut linux);
    for (first, then) in [(BYPASS, StageOne::Bypass), (ABORT, StageOne::Abort)] {
        linux.attach(8, CONTEXTS);
        linux.guest.attached();
        linux.guest.entries();
        linux.detach(8, first);
        assert_eq!(linux.guest.attached(), [(1, then)]);
        // arm_smmu_clear_cd, then the end of its domain: CMD_CFGI_CD, CMD_TLBI_NH_ASID.
        linux.guest.ram.store(CONTEXTS, &[0; 8]);
        let end = [[0x05 | 8 << 32, 1], [0x11 | 5 << 48, 0]];
        end.iter().for_each(|command| linux.issue(&[*command]));
        let entries = linux.guest.entries();
        assert_eq!(entries, end.map(|[first, second]| [first, second, 0, 0]));
        // Its neighbours were not touched.
        assert_eq!(linux.now()[0], StageOne::Refuse);
    }
    assert_eq!(linux.misuse(), 0);
}

#[test]
fn a_driver_starts_again_after_its_shutdown_as_it_did_at_first() {
    let mut linux = linux();
    let mut lives = Vec::new();
    for life in 0..3 {
        linux.guest.attached();
        linux.guest.entries();
        linux.probe();
        linux.reset(How::default());
        // The tables of the life before are others' memory by now.
        linux.guest.ram.store(L1, &[0; 256]);
        linux.issue(&[CFGI_ALL]);
        level_two(&mut linux);
        linux.attach(8, CONTEXTS + life * 0x1000);
        linux.attach(0x18, CONTEXTS + 0x8000);
        let expected = [
            StageOne::Refuse,
            translate(CONTEXTS + life * 0x1000),
            translate(CONTEXTS + 0x8000),
        ];
        assert_eq!(linux.now(), expected);
        linux.shut_down();
        assert_eq!(linux.now(), [StageOne::Bypass; 3]);
        let attached: Vec<usize> = linux.guest.attached().iter().map(|it| it.0).collect();
        lives.push((attached, linux.guest.entries().len()));
    }
    assert_eq!(lives[1], lives[2], "each life does the same");
    assert_eq!(linux.misuse(), 0);
}

#[test]
fn a_crash_kernel_leaves_the_event_queue_off_and_is_not_told() {
    let mut linux = linux();
    linux.probe();
    linux.reset(How::default());
    level_two(&mut linux);
    linux.attach(8, CONTEXTS);
    linux.reset(How {
        running: true,
        crash: true,
        off: false,
    });
    let before = linux.guest.smmu.counters();
    linux
        .guest
        .told
        .borrow_mut()
        .events
        .push_back(Item::Record {
            sequence: 0,
            record: [0x10 | 8 << 32, 0, 0x5000, 0],
        });
    let effect = linux.guest.smmu.deliver(&linux.guest.ram);
    assert_eq!(effect.interrupts, Interrupts::empty());
    assert_eq!(linux.guest.read(EVENTQ_PROD), 0);
    let after = linux.guest.smmu.counters();
    assert_eq!(after.events.disabled, before.events.disabled + 1);
    assert_eq!(after.interrupts, before.interrupts);
    assert_eq!(linux.misuse(), 0);
}

#[test]
fn devices_without_a_domain_pass_where_the_driver_lets_them() {
    let mut linux = linux();
    linux.probe();
    // disable_bypass=0: entries that pass until a device has a domain.
    linux.reset(How::default());
    level_two_of(&mut linux, BYPASS);
    linux.issue(&[cfgi_ste(8), cfgi_ste(0x10), cfgi_ste(0x18)]);
    assert_eq!(linux.now(), [StageOne::Bypass; 3]);
    linux.attach(8, CONTEXTS);
    assert_eq!(linux.now()[1], translate(CONTEXTS));
    linux.shut_down();
    // And where firmware names no device: the SMMU stays off, and lets everything pass.
    linux.guest.attached();
    linux.reset(How {
        off: true,
        ..How::default()
    });
    assert_eq!(linux.now(), [StageOne::Bypass; 3]);
    assert!(
        linux
            .guest
            .attached()
            .iter()
            .all(|it| it.1 == StageOne::Bypass)
    );
    assert_eq!(linux.guest.read(CR0ACK), 0b1100);
    assert_eq!(linux.misuse(), 0);
}

#[test]
fn the_event_thread_reads_all_and_acknowledges_an_overflow() {
    let mut linux = linux();
    linux.probe();
    linux.reset(How::default());
    let record = |n: u64| [0x10 | 8 << 32, 1 << 35, n << 12, 0];
    let (mut cons, mut read, mut overflows) = (0u32, 0u64, 0);
    // 2^10 entries, so that the last round overflows.
    for (round, count) in [(0, 3u32), (1, 1000), (2, 1500)] {
        for _ in 0..count {
            let sequence = linux.guest.smmu.counters().events.recorded as u32;
            let event = Item::Record {
                sequence,
                record: record(sequence.into()),
            };
            linux.guest.told.borrow_mut().events.push_back(event);
            linux.guest.smmu.deliver(&linux.guest.ram);
        }
        // arm_smmu_evtq_thread: queue_sync_prod_in, queue_remove_raw, queue_sync_cons_ovf.
        let prod = linux.guest.read(EVENTQ_PROD);
        overflows += u32::from(prod >> 31 != cons >> 31);
        while prod & 0x7ff != cons & 0x7ff {
            let at = EVENTS + u64::from(cons & 0x3ff) * 32;
            let event: [u64; 4] = linux.guest.ram.load(at);
            if round < 2 {
                assert_eq!(event, record(read));
            }
            read += 1;
            cons = cons & 1 << 31 | (cons + 1) & 0x7ff;
            linux.guest.write(EVENTQ_CONS, cons.into());
        }
        cons = prod & 1 << 31 | cons & 0x7ff;
        linux.guest.write(EVENTQ_CONS, cons.into());
    }
    let events = linux.guest.smmu.counters().events;
    assert_eq!((events.recorded, events.delivered), (2503, read));
    assert_eq!((read, overflows), (3 + 1000 + 1024, 1));
    assert_eq!(linux.guest.read(EVENTQ_PROD), cons, "empty, acknowledged");
    assert_eq!(linux.misuse(), 0);
}
