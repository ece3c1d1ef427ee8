//! Devices that cache translations (ATS), on a model SMMU that is strict and whose devices ask again at once: what is gone
//! has left their caches too, a device that does not answer is the only one that suffers, and nobody has it who is not
//! trusted with it.

mod guest;
mod host;
mod random;
mod silent;
#[path = "../vm/mod.rs"]
mod vm;

use iommu::addr::{Iova, Span};
use iommu::id::DeviceId;
use iommu::model::smmu::{Config, Denied, Initiator};
use iommu::object::driver::{Access, DeviceInfo};
use iommu::object::{Device, Error, Item, Record};
use vm::{PAGE, Piece, Vm};

const STREAM: u32 = 0x108;
const OTHER: u32 = 0x110;
const NAME: u64 = 0x20;
const VA: u64 = 0x1000;

/// STE.EATS = 1, in word 1 (IHI 0070, §5.2).
const EATS: u64 = 1 << 28;

/// F_BAD_ATS_TREQ and F_TRANSL_FORBIDDEN.
const NO_REQUEST: Result<u64, Denied> = Err(fault(0x05));
const NO_TRANSLATED: Result<(), Denied> = Err(fault(0x07));
const fn fault(number: u8) -> Denied {
    Denied::Fault {
        number,
        stage_two: false,
    }
}

fn ats() -> Config {
    Config {
        ats: true,
        substream_bits: 8,
        ..Config::default()
    }
}

fn device(vm: &Vm, stream: u32, ats: bool) -> Device {
    let streams = [DeviceId(stream)];
    let info = DeviceInfo {
        pasid_bits: 8,
        ats,
        ..vm.iommus[0].info(&streams)
    };
    vm.context.bind(&info).expect("bound")
}

/// What a device has, or is told now.
fn ask(vm: &Vm, from: impl Into<Initiator>, iova: u64) -> Result<u64, Denied> {
    vm.model().ats_translate(from, iova, true)
}

/// A write to what it has.
fn write(vm: &Vm, stream: u32, address: u64) -> Result<(), Denied> {
    vm.model().translated_write(stream, address, &[0x5a; 8])
}

fn unmap(vm: &Vm, at: u64, len: u64) {
    let range = Span::<Iova>::new(Iova(at), len).expect("no wrap");
    vm.ioas.unmap(range).expect("unmapped");
}

fn map(vm: &Vm, at: u64, page: u64) {
    let memory = std::sync::Arc::new(Piece(page, PAGE));
    let access = Access::READ | Access::WRITE;
    vm.ioas
        .map(Iova(at), memory, 0, PAGE, access)
        .expect("mapped");
}

fn contained(vm: &Vm) -> Vec<(u32, Error)> {
    let records = std::iter::from_fn(|| vm.context.record());
    records
        .filter_map(|item| match item {
            Item::Record {
                record: Record::Contained { device, error },
                ..
            } => Some((device, error)),
            _ => None,
        })
        .collect()
}
