//! Functions that are trusted with ATS: where it is on, and when.

use super::machine::{Bench, Hardware, boot_info, bundle, configuration};
use crate::life::Change;
use crate::pci::fixtures::{edu, host_bridge, nvme};

/// Of 00:01.0, which is trusted, and of 00:03.0, which could have it and keeps what firmware left.
const STREAMS: [u64; 2] = [0x08, 0x18];

impl Bench {
    /// EATS in the entries of both, where these are valid (IHI 0070, 5.2), and their ATS control registers.
    fn ats(&self) -> [(u64, u32); 2] {
        let mut bus = self.ecam.0.lock().unwrap();
        let eats = STREAMS.map(|stream| {
            let entry = self.smmu.entry(stream);
            (entry[0] & 1) * (entry[1] >> 28 & 3)
        });
        let controls = ["00:01.0", "00:03.0"].map(|at| bus.at(at).get(0x104) >> 16);
        [(eats[0], controls[0]), (eats[1], controls[1])]
    }
}

#[test]
fn ats_is_on_for_who_is_trusted_with_it_while_the_partition_runs() {
    let mut machine = configuration();
    machine.partitions[0].devices[0].ats = true;
    let roots = alloc::vec![
        host_bridge(),
        nvme(1, 9).with_ats(),
        edu(2),
        nvme(3, 9).with_ats()
    ];
    let built = Hardware::build_with(&boot_info(), roots, bundle(&machine));
    let bench = Bench::started(1, built);
    let own = &bench.system.partitions[0];
    assert_eq!(bench.ats(), [(1, 0x8000), (0, 4)]);
    for change in [Change::Stop, Change::Restart] {
        arch::cpu::set_index(own.cpus[0]);
        own.life.ask(change);
        own.carry(bench.system, change);
        let on = if change == Change::Restart {
            (1, 0x8000)
        } else {
            // Reset.
            (0, 4)
        };
        assert_eq!(bench.ats(), [on, (0, 4)]);
    }
}
