//! Tables of the host's own for single PASIDs, from the objects to a model SMMU that is strict.

mod failures;
mod random;
mod reach;
mod rules;
#[path = "../vm/mod.rs"]
mod vm;

use iommu::addr::{Iova, Span};
use iommu::id::DeviceId;
use iommu::model::smmu::{Config, Denied, Initiator};
use iommu::object::driver::{Access, DeviceInfo, HwptFlags};
use iommu::object::{Device, HwptPaging, Ioas};
use vm::{PAGE, Piece, RAM, Vm};

const STREAM: u32 = 0x108;
const VA: u64 = 0x1000;

/// C_BAD_CD and F_TRANSLATION, of stage 1.
const BAD_CONTEXT: Result<u64, Denied> = fault(0x0a);
const UNMAPPED: Result<u64, Denied> = fault(0x10);
const fn fault(number: u8) -> Result<u64, Denied> {
    Err(Denied::Fault {
        number,
        stage_two: false,
    })
}

/// With substreams, PASIDs of 16 bits.
fn pasids() -> Config {
    Config {
        substream_bits: 16,
        ..Config::default()
    }
}

/// An address space with a page of memory at `VA`, and its table for PASIDs.
struct Own {
    ioas: Ioas,
    hwpt: HwptPaging,
    page: u64,
}

impl Own {
    fn new(vm: &Vm, page: u64) -> Self {
        let ioas = vm.context.ioas().expect("memory");
        let page = RAM + page * PAGE;
        map(&ioas, VA, page);
        let driver = vm.iommus[0].driver();
        let hwpt = ioas.paging(&driver, HwptFlags::PASID, None);
        let hwpt = hwpt.expect("a table");
        Self { ioas, hwpt, page }
    }
}

fn map(ioas: &Ioas, va: u64, page: u64) {
    let memory = std::sync::Arc::new(Piece(page, PAGE));
    let access = Access::READ | Access::WRITE;
    ioas.map(Iova(va), memory, 0, PAGE, access).expect("mapped");
}

fn unmap(ioas: &Ioas, va: u64) {
    let range = Span::<Iova>::new(Iova(va), PAGE).expect("no wrap");
    ioas.unmap(range).expect("unmapped");
}

fn device(vm: &Vm, stream: u32, pasid_bits: u8) -> Device {
    let streams = [DeviceId(stream)];
    let info = DeviceInfo {
        pasid_bits,
        ..vm.iommus[0].info(&streams)
    };
    vm.context.bind(&info).expect("bound")
}

/// Where a write goes; PASID 0 is one without.
fn reach(vm: &Vm, pasid: u32) -> Result<u64, Denied> {
    reach_at(vm, pasid, VA)
}

fn reach_at(vm: &Vm, pasid: u32, va: u64) -> Result<u64, Denied> {
    let from = Initiator::from(STREAM);
    let from = match pasid {
        0 => from,
        _ => from.with_substream(pasid),
    };
    vm.model().translate(from, va, true)
}

fn opcodes(vm: &Vm) -> Vec<u8> {
    vm.model().commands().iter().map(|it| it[0] as u8).collect()
}
