//! What Linux's `arm-smmu-v3` does to the registers, in its order: probe, reset, attachments, unmaps, shutdown and a
//! kernel that starts on top of it. Facts from the driver of Linux 6.12; offsets and values are the document's.

use super::*;

/// Stream table of two levels: 2^8 level 1 descriptors for 16-bit StreamIDs.
const L1: u64 = TABLE;
const L2: u64 = RAM + 0x50_0000;
const RA: u64 = 1 << 62;

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

    /// arm_smmu_device_reset. `running`: a kernel before left it on.
    fn reset(&mut self, running: bool) {
        assert_eq!(self.guest.read(CR0) & 1 != 0, running);
        if running {
            assert_eq!(self.guest.read(GBPA) >> 31, 0);
            let gbpa = self.guest.read(GBPA) | 1 << 20;
            self.guest.write(GBPA, u64::from(gbpa) | 1 << 31);
            assert_eq!(self.guest.read(GBPA) >> 31, 0);
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
        self.synced(0b1101, CR0, CR0ACK);
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
    for stream in 0..256 {
        linux
            .guest
            .ram
            .store(L2 + stream * 64, &[1, 0, 0, 0, 0, 0, 0, 0]);
    }
    linux.guest.ram.store(L1, &[L2 | 9]);
}

#[test]
fn linux_probes_attaches_unmaps_and_shuts_down() {
    let mut linux = linux();
    linux.probe();
    linux.reset(false);
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
    linux.synced(0, CR0, CR0ACK);
    let last: Vec<_> = linux
        .guest
        .smmu
        .streams
        .iter()
        .map(|it| it.current)
        .collect();
    assert_eq!(last, [Some(StageOne::Bypass); 3]);
    assert_eq!(linux.misuse(), 0);
}

#[test]
fn a_kernel_that_finds_it_running_stops_all_dma_first() {
    let mut linux = linux();
    linux.probe();
    linux.reset(false);
    level_two(&mut linux);
    linux.attach(8, CONTEXTS);
    linux.guest.attached();
    // CONS.ERR and GERROR of the one before do not matter.
    linux.reset(true);
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
