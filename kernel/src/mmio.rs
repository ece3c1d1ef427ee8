//! A trapped load or store, brought to the virtual device that is there.

use crate::guest_map::{ECAM, GICD, GICR, GICR_STRIDE, ITS, SMMU, UART};
use crate::input;
use crate::partition::Partition;
use crate::system::System;
use crate::terminal;
use crate::vdev::vpci::Effect;
use core::sync::atomic::Ordering;
use iommu::addr::{Gpa, Span};

/// Carries out an access of `size` bytes by `vcpu` at `address`: a store of `value`, or a load. What a load reads (0 for
/// a store); `None` if nothing is there, or the access crosses the end of what is.
pub fn access(
    system: &'static System,
    partition: &'static Partition,
    vcpu: usize,
    address: u64,
    size: u8,
    value: Option<u64>,
) -> Option<u64> {
    let at = Span::<Gpa>::new(Gpa(address), size.into())?;
    let end = at.end();
    let inside = |device: &Span<Gpa>| device.base <= at.base && end <= device.end();
    let redistributors = Span {
        len: partition.cpus.len() as u64 * GICR_STRIDE,
        ..GICR
    };
    if inside(&GICD) {
        let offset = at.base - GICD.base;
        let Some(value) = value else {
            let read = partition.vgic.lock().read_distributor(offset, size);
            system.kick(partition, read.kick);
            return Some(read.value);
        };
        let effects = partition
            .vgic
            .lock()
            .write_distributor(vcpu, offset, size, value);
        system.apply(partition, &effects);
    } else if inside(&redistributors) {
        let offset = at.base - GICR.base;
        let Some(value) = value else {
            let read = partition.vgic.lock().read_redistributor(offset, size);
            system.kick(partition, read.kick);
            return Some(read.value);
        };
        let effects = partition
            .vgic
            .lock()
            .write_redistributor(offset, size, value);
        system.apply(partition, &effects);
    } else if inside(&UART) {
        return Some(uart(system, partition, at.base - UART.base, size, value));
    } else if inside(&ITS) {
        let offset = at.base - ITS.base;
        let Some(value) = value else {
            return Some(partition.vits.lock().read(offset, size));
        };
        let mut its = partition.vits.lock();
        its.write(offset, size, value);
        partition.its_busy.store(its.has_work(), Ordering::Release);
        drop(its);
        partition.serve_its(system);
    } else if inside(&ECAM) {
        let offset = at.base - ECAM.base;
        let Some(value) = value else {
            return Some(partition.devices.read(&system.gate, offset, size));
        };
        let effect = partition.devices.write(&system.gate, offset, size, value);
        partition.remap_bars();
        if let Effect::Reset(slot) = effect {
            partition
                .devices
                .reset_by_guest(system, partition.name(), slot);
        }
    } else if inside(&SMMU) {
        return partition.access_viommu(system, at.base - SMMU.base, size, value);
    } else {
        return None;
    }
    Some(0)
}

fn uart(
    system: &'static System,
    partition: &Partition,
    offset: u64,
    size: u8,
    value: Option<u64>,
) -> u64 {
    let (read, output) = partition.with_uart(system, |uart| {
        // Under the UART's lock, which whoever ends the wait takes after the last look at this.
        if terminal::is_congested() {
            uart.stall();
        }
        match value {
            None => (uart.read(offset, size), None),
            Some(value) => (0, uart.write(offset, size, value).output),
        }
    });
    if let Some(byte) = output {
        terminal::output(partition.index, byte);
    }
    input::room_made(system);
    read
}
