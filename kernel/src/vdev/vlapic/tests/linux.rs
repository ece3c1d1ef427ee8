//! What Linux does to a local APIC in x2APIC mode, in its order (arch/x86/kernel/apic: `clear_local_APIC`,
//! `setup_local_APIC`, `end_local_APIC_setup`, `__setup_APIC_LVTT`, `x2apic_cluster`).

use super::Vlapics;
use crate::vdev::CpuSet;
use crate::vdev::vlapic::Effects;

struct Cpu<'a> {
    apics: &'a mut Vlapics,
    cpu: usize,
    now: u64,
}

impl Cpu<'_> {
    fn read(&mut self, msr: u32) -> u64 {
        self.apics.read_msr(self.cpu, msr, self.now).unwrap()
    }

    fn write(&mut self, msr: u32, value: u64) -> Effects {
        self.apics
            .write_msr(self.cpu, msr, value, self.now)
            .unwrap()
    }

    fn clear(&mut self) {
        assert_eq!(self.read(0x803) & 0xff, 0x14, "integrated");
        assert_eq!(self.read(0x803) >> 16 & 0xff, 5, "six entries");
        self.write(0x837, 0x1_00fe);
        for lvt in [0x832, 0x835, 0x836, 0x834, 0x833] {
            let entry = self.read(lvt);
            self.write(lvt, entry | 0x1_0000);
        }
        for lvt in [0x832, 0x835, 0x836, 0x837, 0x834] {
            self.write(lvt, 0x1_0000);
        }
        self.write(0x828, 0);
        assert_eq!(self.read(0x828), 0);
    }

    fn setup(&mut self) {
        self.clear();
        let spurious = self.read(0x80f);
        self.write(0x80f, spurious & !0x100);
        self.write(0x808, 0x10);
        for word in 0..8 {
            assert_eq!((self.read(0x820 + word), self.read(0x810 + word)), (0, 0));
        }
        let spurious = self.read(0x80f) & !0xff;
        self.write(0x80f, spurious | 0x1ff);
        let entry = self.read(0x835) & 0x1_0000;
        assert_eq!(entry, 0x1_0000, "no virtual wire");
        self.write(0x835, 0x1_0700);
        self.write(0x836, if self.cpu == 0 { 0x400 } else { 0x1_0400 });
        self.write(0x828, 0);
        self.write(0x837, 0xfe);
        self.write(0x828, 0);
        assert_eq!(self.read(0x828), 0, "no error on the way");
        self.write(0x832, 0x4_00ec);
    }
}

#[test]
fn two_processors_come_up_and_talk() {
    let mut apics = Vlapics::new(2, 0).unwrap();
    let on = |apics: &mut Vlapics, cpu: usize| {
        let base = apics.base(cpu);
        apics.set_base(cpu, base | 0x400).unwrap();
        Cpu {
            apics,
            cpu,
            now: 1000,
        }
        .setup();
    };
    on(&mut apics, 0);
    // INIT and start-up at 0x99000, by physical ID.
    let mut first = Cpu {
        apics: &mut apics,
        cpu: 0,
        now: 1000,
    };
    assert_eq!(first.write(0x830, 1 << 32 | 0xc500).init, CpuSet::one(1));
    first.write(0x830, 1 << 32 | 0x8500);
    let start = first.write(0x830, 1 << 32 | 0x0699);
    assert_eq!((start.start, start.page), (CpuSet::one(1), 0x99));
    on(&mut apics, 1);

    // A reschedule to the cluster's second member, by its logical ID, as itself reads it.
    let logical = Cpu {
        apics: &mut apics,
        cpu: 1,
        now: 1000,
    }
    .read(0x80d);
    let mut first = Cpu {
        apics: &mut apics,
        cpu: 0,
        now: 1000,
    };
    assert_eq!(
        first.write(0x830, logical << 32 | 0x8fd).kick,
        CpuSet::one(1)
    );
    assert_eq!(apics.acknowledge(1), Some(0xfd));
    assert_eq!(
        Cpu {
            apics: &mut apics,
            cpu: 1,
            now: 1000
        }
        .write(0x80b, 0)
        .end,
        None
    );

    // The clock event: armed, and it comes when its time has come, again after it is armed again.
    for deadline in [2000, 3000] {
        assert!(
            apics
                .set_deadline(0, deadline, deadline - 500)
                .kick
                .contains(0)
        );
        assert_eq!(apics.next_tick(0), Some(deadline));
        assert!(!apics.tick(0, deadline - 1) && apics.tick(0, deadline));
        assert_eq!(
            (apics.acknowledge(0), apics.next_tick(0)),
            (Some(0xec), None)
        );
        Cpu {
            apics: &mut apics,
            cpu: 0,
            now: deadline,
        }
        .write(0x80b, 0);
    }
    // An IRQ work to itself.
    let mut first = Cpu {
        apics: &mut apics,
        cpu: 0,
        now: 4000,
    };
    assert_eq!(first.write(0x83f, 0xf6).kick, CpuSet::one(0));
    assert_eq!(apics.acknowledge(0), Some(0xf6));
    assert_eq!(
        apics.misuse(),
        0,
        "nothing that the architecture does not allow"
    );
}
