//! The virtual local APICs beside the manual's words, and beside a model that shares nothing with them.

mod ideal;
mod lent;
mod linux;
mod modes;
mod random;
mod registers;
mod timer;
mod unit;

use super::{Effects, Vlapics};

/// x2APIC mode on every vCPU, enabled by software.
fn x2apic(cpus: usize) -> Vlapics {
    let mut apics = Vlapics::new(cpus, 0).unwrap();
    for cpu in 0..cpus {
        apics.set_running(cpu);
        let base = apics.base(cpu);
        apics.set_base(cpu, base | 0x400).unwrap();
        apics.write_msr(cpu, 0x80f, 0x1ff, 0).unwrap();
    }
    apics
}

/// xAPIC mode on every vCPU, enabled by software, flat logical IDs.
fn xapic(cpus: usize) -> Vlapics {
    let mut apics = Vlapics::new(cpus, 0).unwrap();
    for cpu in 0..cpus {
        apics.set_running(cpu);
        store(&mut apics, cpu, 0xf0, 0x1ff);
        store(&mut apics, cpu, 0xd0, 1 << (24 + cpu % 8));
    }
    apics
}

fn load(apics: &mut Vlapics, cpu: usize, offset: u64) -> u64 {
    apics.read(cpu, offset, 4, 0)
}

fn store(apics: &mut Vlapics, cpu: usize, offset: u64, value: u64) -> Effects {
    apics.write(cpu, offset, 4, value, 0)
}
