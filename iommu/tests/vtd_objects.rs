//! IOMMUFD's objects over the VT-d driver, on a model unit that is strict.

use std::sync::Arc;

use iommu::addr::{Iova, Span};
use iommu::id::{DeviceId, IommuIndex};
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, Denied, VtdModel};
use iommu::object::driver::{Access, DeviceInfo, Driver};
use iommu::object::unit::Unit;
use iommu::object::{Context, Device, Error};
use iommu::vtd::{Features, HW_INFO, Vtd};

mod vtd_unit;

use vtd_unit::{Piece, start};

const RAM: u64 = 0x2000_0000;
const BYTES: u64 = 0x80_0000;
const ACCESS: Access = Access::READ.union(Access::WRITE);

/// A unit, and the objects' driver of it.
struct Machine {
    vtd: VtdModel,
    driver: Arc<dyn Driver>,
}

impl Machine {
    fn new(memory: &Memory, index: u8, config: Config) -> Self {
        let (vtd, driver) = start(memory, index, config);
        let largest = driver.features().largest;
        Self::with((vtd, driver), memory, index, (39, largest))
    }

    /// With tables of so many bits of input, and of pages of at most so many bytes.
    fn with(
        (vtd, driver): (VtdModel, Vtd<Memory, VtdModel>),
        memory: &Memory,
        index: u8,
        (bits, largest): (u8, u64),
    ) -> Self {
        let platform = Arc::new(memory.clone());
        let unit = Unit::new(IommuIndex(index), driver, platform, bits);
        let driver = Arc::new(unit.with_second_stages_of_vtd(largest));
        Self { vtd, driver }
    }

    fn bind(&self, context: &Context, source: u32) -> Device {
        let streams = [DeviceId(source)];
        let info = DeviceInfo {
            driver: Arc::clone(&self.driver),
            streams: &streams,
            group: source,
            pasid_bits: 0,
            reserved: &[],
            ats: false,
            coherent: true,
            isolated_messages: true,
            shares_page_requests: false,
        };
        context.bind(&info).expect("bound")
    }
}

fn memory(coherent: bool) -> Memory {
    let memory = if coherent {
        Memory::coherent()
    } else {
        Memory::non_coherent()
    };
    memory.add_ram(RAM, BYTES);
    memory
}

fn context() -> Context {
    Context::new(64, 16).expect("memory")
}

#[test]
fn a_device_is_attached_replaced_and_detached() {
    for coherent in [true, false] {
        let memory = memory(coherent);
        let config = Config {
            coherent,
            ..Config::default()
        };
        let machine = Machine::new(&memory, 0, config);
        let context = context();
        let device = machine.bind(&context, 0x310);
        let reach = |at| machine.vtd.translate(0x310, at, true);
        assert_eq!(reach(0), Err(Denied::Fault(1)));
        let first = context.ioas().unwrap();
        let second = context.ioas().unwrap();
        let all = Arc::new(Piece(RAM, BYTES));
        first.map(Iova(0), all, 0, BYTES, ACCESS).unwrap();
        let part = Arc::new(Piece(RAM + 0x1000, 0x1000));
        second.map(Iova(0), part, 0, 0x1000, ACCESS).unwrap();
        let own = first.nest_parent(&machine.driver).unwrap();
        let other = second.nest_parent(&machine.driver).unwrap();
        device.attach(0, &own).unwrap();
        assert_eq!(reach(0x12_3000), Ok(RAM + 0x12_3000));
        device.replace(0, &other).unwrap();
        assert_eq!(reach(0), Ok(RAM + 0x1000));
        assert_eq!(reach(0x1000), Err(Denied::Fault(5)));
        device.replace(0, &own).unwrap();
        assert_eq!(reach(0x1000), Ok(RAM + 0x1000));
        // What is unmapped while a device uses it is gone on return.
        first
            .unmap(Span {
                base: Iova(0),
                len: BYTES,
            })
            .unwrap();
        assert_eq!(reach(0x1000), Err(Denied::Fault(5)));
        device.detach(0).unwrap();
        assert_eq!(reach(0), Err(Denied::Fault(2)));
        drop((device, own, other));
        context.close().unwrap();
        // Root, context table of one bus, queue with its status page; nothing of the tables.
        assert_eq!(memory.live(), (3, 4096 + 4096 + 8192));
    }
}

#[test]
fn one_address_space_serves_devices_behind_two_units() {
    let memory = memory(true);
    let machines = [0, 1].map(|index| Machine::new(&memory, index, Config::default()));
    let context = context();
    let ioas = context.ioas().unwrap();
    let page = Arc::new(Piece(RAM, 0x1000));
    ioas.map(Iova(0x5000), page, 0, 0x1000, ACCESS).unwrap();
    let table = ioas.nest_parent(&machines[0].driver).unwrap();
    let devices = [(0, 0x100), (0, 0x200), (1, 0x100)].map(|(unit, source): (usize, u32)| {
        let device = machines[unit].bind(&context, source + unit as u32 * 8);
        device.attach(0, &table).unwrap();
        device
    });
    let reach = |unit: usize, source| machines[unit].vtd.translate(source, 0x5000, false);
    assert_eq!(reach(0, 0x100), Ok(RAM));
    assert_eq!(reach(0, 0x200), Ok(RAM));
    assert_eq!(reach(1, 0x108), Ok(RAM));
    ioas.unmap(Span {
        base: Iova(0x5000),
        len: 0x1000,
    })
    .unwrap();
    for (unit, source) in [(0, 0x100), (0, 0x200), (1, 0x108)] {
        assert_eq!(reach(unit, source), Err(Denied::Fault(6)));
    }
    drop(devices);
    context.close().unwrap();
}

#[test]
fn a_table_with_pages_that_a_unit_lacks_is_not_for_it() {
    let memory = memory(true);
    let large = Machine::new(&memory, 0, Config::default());
    let small = Machine::new(
        &memory,
        1,
        Config {
            large: 1,
            ..Config::default()
        },
    );
    let context = context();
    let ioas = context.ioas().unwrap();
    let table = ioas.nest_parent(&large.driver).unwrap();
    let device = small.bind(&context, 0x100);
    assert_eq!(device.attach(0, &table), Err(Error::Incompatible));
    // The other way round it is.
    let table = ioas.nest_parent(&small.driver).unwrap();
    let device = large.bind(&context, 0x100);
    device.attach(0, &table).unwrap();
}

/// Three units of a machine: what one lacks, tables of the others do without. One is in another mode, one does not snoop.
#[test]
fn units_that_differ_share_a_table_of_what_all_have() {
    let memory = memory(false);
    let base = Config {
        coherent: false,
        ..Config::default()
    };
    let configs = [
        base,
        Config {
            scalable: true,
            large: 0b01,
            ..base
        },
        Config {
            widths: 0b010,
            domains: 2,
            ..base
        },
    ];
    let started = [0, 1, 2].map(|index| start(&memory, index, configs[usize::from(index)]));
    let shared = Features::shared(started.iter().map(|(_, driver)| driver.features()));
    assert_eq!(shared, (39, 2 << 20));
    let mut index = 0;
    let machines = started.map(|unit| {
        index += 1;
        Machine::with(unit, &memory, index - 1, shared)
    });
    let context = context();
    let ioas = context.ioas().unwrap();
    let all = Arc::new(Piece(RAM, BYTES));
    ioas.map(Iova(0x4000_0000), all, 0, BYTES, ACCESS).unwrap();
    let end = Arc::new(Piece(RAM, 0x1000));
    let last = (1 << 39) - 0x1000;
    ioas.map(Iova(last), end, 0, 0x1000, ACCESS).unwrap();
    // Whichever of them it is made for.
    for maker in 0..3 {
        let table = ioas.nest_parent(&machines[maker].driver).unwrap();
        let devices: Vec<_> = machines.iter().map(|it| it.bind(&context, 0x310)).collect();
        for (device, machine) in devices.iter().zip(&machines) {
            device.attach(0, &table).unwrap();
            let reach = |at| machine.vtd.translate(0x310, at, true);
            assert_eq!(reach(0x4012_3000), Ok(RAM + 0x12_3000), "{maker}");
            assert_eq!(reach(last), Ok(RAM), "{maker}");
            assert!(reach(0).is_err() && reach(1 << 39).is_err());
        }
        // A unit of its own for each: one that is closed leaves the others open.
        devices[0].detach(0).unwrap();
        assert!(machines[0].vtd.translate(0x310, last, true).is_err());
        assert_eq!(machines[1].vtd.translate(0x310, last, true), Ok(RAM));
        assert_eq!(machines[2].vtd.translate(0x310, last, true), Ok(RAM));
    }
}

#[test]
fn the_hardware_is_described_in_linuxs_words() {
    let memory = memory(true);
    let machine = Machine::new(&memory, 0, Config::default());
    let info = machine.driver.hw_info(0).unwrap();
    assert_eq!((info.kind, info.len), (HW_INFO, 24));
    // CAP: 39 and 48 bits, 2 MiB and 1 GiB, PSI with 18, drains, 8 records at 0x220, 16-bit domains.
    assert_eq!(info.words[..2], [0, 0x00d2_078c_226f_0606]);
    assert!(machine.driver.hw_info(2).is_err());
}
