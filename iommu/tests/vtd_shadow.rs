//! Shadow tables of the objects over the VT-d driver, on a model unit that is strict.

use std::sync::Arc;

use iommu::addr::{Gpa, Iova, Span};
use iommu::id::{DeviceId, IommuIndex};
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, Denied, VtdModel};
use iommu::object::driver::{Access, DeviceInfo, Driver, StageOne};
use iommu::object::unit::Unit;
use iommu::object::{Context, Delivery, Device, Error, HwptShadow, Item};
use iommu::physical::PhysicalIommu;
use iommu::vtd::Vtd;
use iommu::vtd::slice::{EVENTS, VIOMMU};

mod vtd_unit;

use vtd_unit::{Piece, start};

const RAM: u64 = 0x2000_0000;
const BYTES: u64 = 0x100_0000;
const RW: Access = Access::READ.union(Access::WRITE);
const SOURCE: u16 = 0x310;
const NAME: u64 = 0x18;

type Hardware = Unit<Memory, Vtd<Memory, VtdModel>>;

fn unit(memory: &Memory, config: Config) -> (VtdModel, Arc<Hardware>) {
    memory.add_ram(RAM, BYTES);
    let (vtd, driver) = start(memory, 0, config);
    let platform = Arc::new(memory.clone());
    let largest = driver.features().largest;
    let unit = Unit::new(IommuIndex(0), driver, platform, 39).with_second_stages_of_vtd(largest);
    (vtd, Arc::new(unit))
}

fn bind(context: &Context, driver: &Arc<dyn Driver>) -> Device {
    let info = DeviceInfo {
        driver: Arc::clone(driver),
        streams: &[DeviceId(SOURCE as u32)],
        group: 1,
        pasid_bits: 0,
        reserved: &[],
        ats: false,
        coherent: true,
        isolated_messages: true,
        shares_page_requests: false,
    };
    context.bind(&info).expect("bound")
}

fn span(base: u64, len: u64) -> Span<Iova> {
    Span {
        base: Iova(base),
        len,
    }
}

/// All of a range, by as many calls as that takes.
fn set_all(shadow: &HwptShadow, range: Span<Iova>, to: Option<(Gpa, Access)>) -> Result<(), Error> {
    let mut done = 0;
    while done < range.len {
        let rest = span(range.base.0 + done, range.len - done);
        let to = to.map(|(to, access)| (Gpa(to.0.wrapping_add(done)), access));
        let set = shadow.set(rest, to)?;
        assert!((set.bytes > 0 || set.changed) && set.bytes <= rest.len);
        done += set.bytes;
    }
    Ok(())
}

/// The guest has 4 MiB of writable memory at 1 GiB, and 4 MiB behind it that it may only read.
fn partition(context: &Context) -> iommu::object::Ioas {
    let ioas = context.ioas().unwrap();
    let memory = Arc::new(Piece(RAM, BYTES));
    ioas.map(Iova(0x4000_0000), memory.clone(), 0, 0x40_0000, RW)
        .unwrap();
    ioas.map(
        Iova(0x4040_0000),
        memory,
        0x80_0000,
        0x40_0000,
        Access::READ,
    )
    .unwrap();
    ioas
}

#[test]
fn a_shadow_leads_to_the_partitions_memory_and_nowhere_else() {
    for coherent in [true, false] {
        let memory = match coherent {
            true => Memory::coherent(),
            false => Memory::non_coherent(),
        };
        let config = Config {
            coherent,
            ..Config::default()
        };
        let (vtd, unit) = unit(&memory, config);
        let driver: Arc<dyn Driver> = unit.clone();
        let context = Context::new(64, 16).unwrap();
        let ioas = partition(&context);
        let parent = ioas.nest_parent(&driver).unwrap();
        let viommu = parent.viommu(&driver, VIOMMU, Default::default()).unwrap();
        let device = bind(&context, &driver);
        let shadow = viommu.shadow().unwrap();
        device.attach(0, &shadow).unwrap();
        let reach = |at, write| vtd.translate(SOURCE, at, write);
        assert_eq!(reach(0, false), Err(Denied::Fault(6)));
        // 8 KiB over the end of what may be written, a page before memory, and one far past it.
        let to = |at| Some((Gpa(at), RW));
        set_all(&shadow, span(0x1000, 0x2000), to(0x403f_f000)).unwrap();
        set_all(&shadow, span(0x8000, 0x2000), to(0x3fff_f000)).unwrap();
        set_all(&shadow, span(0x10_0000, 0x1000), to(RAM)).unwrap();
        set_all(&shadow, span(0x11_0000, 0x1000), to(!0xfff)).unwrap();
        assert_eq!(reach(0x1000, true), Ok(RAM + 0x3f_f000));
        assert_eq!(reach(0x2000, false), Ok(RAM + 0x80_0000));
        assert_eq!(reach(0x2000, true), Err(Denied::Fault(5)));
        assert_eq!(reach(0x8000, false), Err(Denied::Fault(6)));
        assert_eq!(reach(0x9000, true), Ok(RAM));
        assert_eq!(reach(0x10_0000, false), Err(Denied::Fault(6)));
        assert_eq!(reach(0x11_0000, false), Err(Denied::Fault(6)));
        assert_eq!(shadow.next(Iova(0)), Some(Iova(0x1000)));
        assert_eq!(shadow.next(Iova(0x3000)), Some(Iova(0x9000)));
        assert_eq!(shadow.next(Iova(0xa000)), None);
        // What changes is changed, whatever has been cached.
        set_all(&shadow, span(0x1000, 0x2000), to(0x4000_5000)).unwrap();
        assert_eq!(reach(0x1000, false), Ok(RAM + 0x5000));
        assert_eq!(reach(0x2000, true), Ok(RAM + 0x6000));
        set_all(&shadow, span(0, 1 << 38), None).unwrap();
        assert_eq!(reach(0x2000, false), Err(Denied::Fault(6)));
        assert_eq!(shadow.next(Iova(0)), None);
        // Memory that the partition loses leaves its shadows too.
        set_all(&shadow, span(0, 0x40_0000), to(0x4000_0000)).unwrap();
        assert_eq!(reach(0x12_3000, true), Ok(RAM + 0x12_3000));
        ioas.unmap(span(0x4000_0000, 0x40_0000)).unwrap();
        assert_eq!(reach(0x12_3000, true), Err(Denied::Fault(5)));
        set_all(&shadow, span(0, 0x40_0000), to(0x4000_0000)).unwrap();
        assert_eq!(reach(0x12_3000, true), Err(Denied::Fault(5)));
        drop((device, shadow, viommu, parent, ioas));
        context.close().unwrap();
        // Root, context table of one bus, queue with its status page; nothing of the tables.
        assert_eq!(memory.live(), (3, 4096 + 4096 + 8192));
    }
}

#[test]
fn what_is_there_already_costs_no_store_and_what_changes_one_invalidation() {
    let memory = Memory::coherent();
    let (vtd, unit) = unit(&memory, Config::default());
    let driver: Arc<dyn Driver> = unit.clone();
    let context = Context::new(64, 16).unwrap();
    let ioas = partition(&context);
    let parent = ioas.nest_parent(&driver).unwrap();
    let viommu = parent.viommu(&driver, VIOMMU, Default::default()).unwrap();
    let device = bind(&context, &driver);
    let shadow = viommu.shadow().unwrap();
    device.attach(0, &shadow).unwrap();
    let spent = |what: &dyn Fn()| {
        let before = unit.physical().lock().counters();
        what();
        let after = unit.physical().lock().counters();
        (
            after.descriptors - before.descriptors,
            after.waits - before.waits,
        )
    };
    let set = |at, len, to| set_all(&shadow, span(at, len), Some((Gpa(to), RW))).unwrap();
    assert_eq!(spent(&|| set(0, 0x20_0000, 0x4000_0000)), (0, 0));
    assert_eq!(vtd.translate(SOURCE, 0x1_0000, true), Ok(RAM + 0x1_0000));
    let entries = vtd.counters().entries;
    assert_eq!(vtd.translate(SOURCE, 0x1f_f000, true), Ok(RAM + 0x1f_f000));
    assert_eq!(vtd.counters().entries, entries, "one block");
    // All of it, a part of it, and a part that differs.
    assert_eq!(spent(&|| set(0, 0x20_0000, 0x4000_0000)), (0, 0));
    assert_eq!(spent(&|| set(0x5000, 0x3000, 0x4000_5000)), (0, 0));
    assert_eq!(spent(&|| set(0x5000, 0x1000, 0x4000_7000)), (1, 1));
    assert_eq!(vtd.translate(SOURCE, 0x5000, true), Ok(RAM + 0x7000));
    assert_eq!(vtd.translate(SOURCE, 0x6000, true), Ok(RAM + 0x6000));
    assert_eq!(
        spent(&|| set_all(&shadow, span(0x6000, 0x1000), None).unwrap()),
        (1, 1)
    );
    assert_eq!(
        spent(&|| set_all(&shadow, span(0x6000, 0x1000), None).unwrap()),
        (0, 0)
    );
}

#[test]
fn faults_of_a_shadow_and_of_a_missing_entry_are_the_guests() {
    let memory = Memory::coherent();
    let (vtd, unit) = unit(&memory, Config::default());
    let driver: Arc<dyn Driver> = unit.clone();
    let context = Context::new(64, 16).unwrap();
    let ioas = partition(&context);
    let parent = ioas.nest_parent(&driver).unwrap();
    let viommu = parent.viommu(&driver, VIOMMU, Default::default()).unwrap();
    let device = bind(&context, &driver);
    let _name = viommu.vdevice(&device, NAME).unwrap();
    let events = viommu.veventq(EVENTS, 8).unwrap();
    let refuse = viommu.nested(StageOne::Refuse, None).unwrap();
    let shadow = viommu.shadow().unwrap();
    let fault = || {
        let mut faults = [iommu::vtd::event::decode(IommuIndex(0), [0; 2]); 2];
        let drained = unit.physical().lock().drain_faults(&mut faults);
        assert_eq!(drained.count, 1);
        context.deliver(&faults[0])
    };
    let event = |reason: u64, address: u64, read: bool| {
        let word = u64::from(read) << 62 | reason << 32 | NAME;
        match events.pop() {
            Some(Item::Record { record, .. }) => assert_eq!(record, [address, word, 0, 0]),
            other => panic!("{other:?}"),
        }
    };
    device.attach(0, &refuse).unwrap();
    assert_eq!(vtd.translate(SOURCE, 0x7123, true), Err(Denied::Fault(2)));
    assert_eq!(fault(), Delivery::Event(events.id()));
    event(2, 0x7000, false);
    device.replace(0, &shadow).unwrap();
    assert_eq!(vtd.translate(SOURCE, 0x7123, false), Err(Denied::Fault(6)));
    assert_eq!(fault(), Delivery::Event(events.id()));
    event(6, 0x7000, true);
    // Of our own second stage it is not.
    device.replace(0, &parent).unwrap();
    assert_eq!(vtd.translate(SOURCE, 0x7123, false), Err(Denied::Fault(6)));
    assert_eq!(fault(), Delivery::Record);
    assert_eq!(events.pop(), None);
}
