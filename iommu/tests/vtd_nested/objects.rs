//! IOMMUFD's objects: guests' first stages with and without a slice, PASIDs, automatic tables, faults.

use std::sync::Arc;

use iommu::addr::{Iova, Span};
use iommu::id::{DeviceId, IommuIndex};
use iommu::model::memory::Memory;
use iommu::model::vtd::{Config, Denied, Initiator, VtdModel};
use iommu::object::by_id::{HwptRequest, InvalidateRequest};
use iommu::object::driver::{Access, DeviceInfo, Driver, HwptFlags, StageOne, UserData};
use iommu::object::unit::Unit;
use iommu::object::{Context, Delivery, Device, Error, HwptPaging, Ioas, Item};
use iommu::physical::{FirstStage, PhysicalIommu};
use iommu::vtd::nested::{INVALIDATE, STAGE_ONE};
use iommu::vtd::slice::{EVENTS, VIOMMU};
use iommu::vtd::{HW_INFO, Vtd, event};

use crate::vtd_unit::{Piece, start};

const PAGE: u64 = 4096;
const RAM: u64 = 0x2000_0000;
const BYTES: u64 = 0x80_0000;
const ACCESS: Access = Access::READ.union(Access::WRITE);
pub(super) const VA: u64 = 0x7f12_3456_7000;

pub(super) type Own = Unit<Memory, Vtd<Memory, VtdModel>>;

pub(super) struct World {
    pub memory: Memory,
    pub vtd: VtdModel,
    pub unit: Arc<Own>,
    pub driver: Arc<dyn Driver>,
    pub context: Context,
    pub ioas: Ioas,
    pub parent: HwptPaging,
}

impl World {
    pub fn new(config: Config) -> Self {
        let memory = Memory::coherent();
        memory.add_ram(RAM, BYTES);
        let (vtd, driver) = start(&memory, 0, config);
        let platform = Arc::new(memory.clone());
        let largest = driver.features().largest;
        let unit = Unit::new(IommuIndex(0), driver, platform, 39)
            .with_second_stages_of_vtd(largest)
            .with_first_stages_of_vtd(1 << 21);
        let unit = Arc::new(unit);
        let driver = Arc::clone(&unit) as Arc<dyn Driver>;
        let context = Context::new(64, 16).expect("memory");
        let ioas = context.ioas().expect("memory");
        let all = Arc::new(Piece(RAM, BYTES));
        ioas.map(Iova(0), all, 0, BYTES, ACCESS).expect("mapped");
        let flags = HwptFlags::NEST_PARENT;
        let parent = ioas.paging(&driver, flags, None).expect("a table");
        Self {
            memory,
            vtd,
            unit,
            driver,
            context,
            ioas,
            parent,
        }
    }

    pub fn bind(&self, source: u32) -> Device {
        self.bind_with(source, false)
    }

    /// `ats`: it is trusted to cache translations, and may ask for pages.
    pub fn bind_with(&self, source: u32, ats: bool) -> Device {
        self.bind_behind(&self.driver, source, ats)
    }

    /// Behind another unit, and trusted.
    pub fn bind_to(&self, driver: &Arc<dyn Driver>, source: u32) -> Device {
        self.bind_behind(driver, source, true)
    }

    fn bind_behind(&self, driver: &Arc<dyn Driver>, source: u32, ats: bool) -> Device {
        let streams = [DeviceId(source)];
        let info = DeviceInfo {
            driver: Arc::clone(driver),
            streams: &streams,
            group: source,
            pasid_bits: 15,
            reserved: &[],
            ats,
            coherent: true,
            isolated_messages: true,
            shares_page_requests: false,
        };
        self.context.bind(&info).expect("bound")
    }

    /// A first stage in the pages from `at` on, with one page at [`VA`].
    pub fn tables(&self, at: u64, gpa: u64) -> u64 {
        let mut table = at;
        for level in (1..4).rev() {
            let next = table + PAGE;
            self.store(table + (VA >> (12 + 9 * level) & 511) * 8, next | 7);
            table = next;
        }
        self.store(table + (VA >> 12 & 511) * 8, gpa | 7);
        at
    }

    fn store(&self, at: u64, value: u64) {
        self.memory
            .device_write(RAM + at, value, true)
            .expect("RAM");
    }

    /// Takes the page of [`tables`](Self::tables) away.
    fn clear(&self, at: u64) {
        self.store(at + 3 * PAGE + (VA >> 12 & 511) * 8, 0);
    }

    pub fn reach(&self, source: u16, pasid: u32) -> Result<u64, Denied> {
        let from = Initiator::from(source);
        let from = match pasid {
            0 => from,
            _ => from.with_pasid(pasid),
        };
        self.vtd.translate_as(from, VA, true)
    }

    /// Has the driver's faults delivered.
    fn serve(&self) -> Vec<Delivery> {
        let mut faults = [event::decode(IommuIndex(0), [0; 2]); 8];
        let drained = self.unit.physical().lock().drain_faults(&mut faults);
        let faults = &faults[..drained.count];
        faults.iter().map(|it| self.context.deliver(it)).collect()
    }
}

pub(super) fn table(root: u64) -> StageOne {
    StageOne::Table(FirstStage {
        root,
        input_bits: 48,
        ..FirstStage::default()
    })
}

fn blob(flags: u64, root: u64, width: u64) -> [u8; 24] {
    let mut bytes = [0; 24];
    for (at, word) in [flags, root, width].iter().enumerate() {
        bytes[at * 8..][..8].copy_from_slice(&word.to_le_bytes());
    }
    bytes
}

#[test]
fn a_slice_has_first_stages_each_with_a_domain_of_its_own() {
    let world = World::new(Config::nesting());
    let viommu = world
        .parent
        .viommu(&world.driver, VIOMMU, UserData::default());
    let viommu = viommu.unwrap();
    let devices = [0x310, 0x318].map(|source| world.bind(source));
    let roots = [(0x10_0000, 0x1000), (0x11_0000, 0x2000)].map(|(at, gpa)| world.tables(at, gpa));
    let nested = roots.map(|root| viommu.nested_for_pasids(table(root), None).unwrap());
    assert_eq!(
        devices[0].attach(0, &nested[0]),
        Err(Error::NoVdevice(devices[0].id()))
    );
    let _names = [0, 1].map(|at| viommu.vdevice(&devices[at], 0x100 + at as u64).unwrap());
    // Requests without PASID of both have PASID 0: only the domain tells them apart.
    devices[0].attach(0, &nested[0]).unwrap();
    devices[1].attach(0, &nested[1]).unwrap();
    devices[1].attach(7, &nested[0]).unwrap();
    let reach = || {
        let places = [(0x310, 0), (0x318, 0), (0x318, 7)];
        places.map(|(source, pasid)| world.reach(source, pasid).map(|to| to - RAM))
    };
    assert_eq!(reach(), [Ok(0x1000), Ok(0x2000), Ok(0x1000)]);
    // What is invalidated of one is of that one alone, at each of its PASIDs.
    roots.iter().for_each(|root| world.clear(*root));
    assert_eq!(reach(), [Ok(0x1000), Ok(0x2000), Ok(0x1000)]);
    let done = nested[0].invalidate(INVALIDATE, &[[VA, 1, 1, 0]]);
    assert_eq!((done.complete, done.result), (1, Ok(())));
    let gone = Err(Denied::Fault(0x71));
    assert_eq!(reach(), [gone, Ok(0x2000), gone]);
    // Their faults are the guest's, under its own names and the PASID.
    world.serve();
    let events = viommu.veventq(EVENTS, 4).unwrap();
    assert_eq!(world.reach(0x318, 7), Err(Denied::Fault(0x71)));
    assert_eq!(world.serve(), [Delivery::Event(events.id())]);
    let Some(Item::Record { record, .. }) = events.pop() else {
        panic!("no event");
    };
    assert_eq!(record[0], VA);
    assert_eq!(record[1], 7 << 40 | 0x71 << 32 | 1 << 31 | 0x101);
    // What the host takes away is gone from all, whatever was cached of both stages.
    world.tables(roots[0], 0x1000);
    assert_eq!(reach(), [Ok(0x1000), Ok(0x2000), Ok(0x1000)]);
    let all = Span {
        base: Iova(0),
        len: BYTES,
    };
    world.ioas.unmap(all).unwrap();
    assert!(reach().iter().all(Result::is_err));
    world.serve();
    let before = events.sequence();
    assert!(world.reach(0x310, 0).is_err());
    assert_eq!(world.serve(), [Delivery::Record], "of our own table");
    assert_eq!(events.sequence(), before);
}

#[test]
fn linux_has_them_without_a_slice() {
    let world = World::new(Config::nesting());
    let device = world.bind(0x310);
    let root = world.tables(0x10_0000, 0x3000);
    let by_id = world.context.by_id();
    let request = |data: &'static [u8], kind, pt| {
        by_id.hwpt_alloc(&HwptRequest {
            device: device.id(),
            pt,
            data: UserData { kind, bytes: data },
            ..HwptRequest::default()
        })
    };
    let parent = world.parent.id();
    let good: &'static [u8] = Vec::leak(blob(0, root, 48).to_vec());
    let id = request(good, STAGE_ONE, parent).unwrap();
    let bad = [
        (blob(8, root, 48), Error::IllegalStageOne),
        (blob(1, root, 48), Error::IllegalStageOne),
        (blob(2, root, 48), Error::IllegalStageOne),
        (blob(0, root, 57), Error::IllegalStageOne),
        (blob(0, root, 39), Error::IllegalStageOne),
        (blob(0, root + 8, 48), Error::IllegalStageOne),
        (blob(0, 1 << 39, 48), Error::IllegalStageOne),
        (blob(0, root, 48 | 1 << 32), Error::IllegalStageOne),
    ];
    for (bytes, error) in bad {
        let refused = request(Vec::leak(bytes.to_vec()), STAGE_ONE, parent);
        assert_eq!(refused, Err(error), "{bytes:x?}");
    }
    assert_eq!(request(good, 2, parent), Err(Error::DataType(2)));
    let short = request(&good[..23], STAGE_ONE, parent);
    assert_eq!(short, Err(Error::DataLength(23)));
    by_id.attach(device.id(), 0, id).unwrap();
    assert_eq!(world.reach(0x310, 0), Ok(RAM + 0x3000));
    // An array: what comes before the first bad entry is done, and is counted.
    world.clear(root);
    let entries = |list: &[[u64; 3]]| -> Vec<u8> {
        let words = list.iter().flatten();
        words.flat_map(|word| word.to_le_bytes()).collect()
    };
    let invalidate = |list: &[[u64; 3]], entry_len: usize| {
        let bytes = entries(list);
        let progress = by_id.hwpt_invalidate(&InvalidateRequest {
            id,
            data_type: INVALIDATE,
            bytes: &bytes,
            entry_len: entry_len as u32,
            entry_num: list.len() as u32,
            ..InvalidateRequest::default()
        });
        (progress.complete, progress.result)
    };
    assert!(world.reach(0x310, 0).is_ok());
    let wrong = [
        ([VA, 1, 2], Error::Unsupported(2)),
        ([VA, 1, 1 << 32], Error::Unsupported(0)),
        ([VA + 8, 1, 0], Error::Misaligned(VA + 8)),
        ([VA, u64::MAX, 0], Error::Invalid(u64::MAX)),
        ([VA, 0, 0], Error::Invalid(0)),
    ];
    for (entry, error) in wrong {
        let list = [[0x1000, 1, 0], [0x2000, 3, 1], entry, [VA, 1, 0]];
        assert_eq!(invalidate(&list, 24), (2, Err(error)));
        assert!(world.reach(0x310, 0).is_ok(), "after the bad one");
    }
    assert_eq!(invalidate(&[[0; 3]], 23).1, Err(Error::DataLength(23)));
    assert_eq!(invalidate(&[], 24), (0, Ok(())));
    assert_eq!(invalidate(&[[0, u64::MAX, 0]], 24), (1, Ok(())));
    assert_eq!(world.reach(0x310, 0), Err(Denied::Fault(0x71)));
    // The hardware refuses the third of four: two are complete.
    world.vtd.take_log();
    world.vtd.refuse_after(6, 2, 4);
    let list = [0x1000, 0x2000, 0x3000, 0x4000].map(|at| [at, 1, 0]);
    let (complete, result) = invalidate(&list, 24);
    assert_eq!(complete, 2);
    assert!(matches!(result, Err(Error::Hardware(_))), "{result:?}");
}

#[test]
fn pasids_have_tables_of_either_kind() {
    let world = World::new(Config::nesting());
    let device = world.bind(0x310);
    let ioas = world.context.ioas().unwrap();
    let page = Arc::new(Piece(RAM + 0x5000, PAGE));
    ioas.map(Iova(VA & 0x7f_ffff_f000), page, 0, PAGE, ACCESS)
        .unwrap();
    let first = ioas.paging(&world.driver, HwptFlags::PASID, None).unwrap();
    let flags = HwptFlags::PASID | HwptFlags::NEST_PARENT;
    let second = ioas.paging(&world.driver, flags, None).unwrap();
    device.attach(0, &first).unwrap();
    device.attach(5, &second).unwrap();
    device.attach(6, &first).unwrap();
    let reach = |pasid| {
        let from = Initiator::from(0x310);
        let from = match pasid {
            0 => from,
            _ => from.with_pasid(pasid),
        };
        world.vtd.translate_as(from, VA & 0x7f_ffff_f000, true)
    };
    assert_eq!([0, 5, 6].map(reach), [Ok(RAM + 0x5000); 3]);
    assert!(reach(7).is_err());
    // Of a first stage each PASID is told; what was unmapped is gone on return.
    world.vtd.take_log();
    let range = Span {
        base: Iova(VA & 0x7f_ffff_f000),
        len: PAGE,
    };
    ioas.unmap(range).unwrap();
    let kinds: Vec<_> = world.vtd.take_log().iter().map(|it| it[0] & 0xf).collect();
    assert_eq!(kinds.iter().filter(|it| **it == 6).count(), 2, "{kinds:?}");
    assert_eq!(kinds.iter().filter(|it| **it == 2).count(), 1, "{kinds:?}");
    assert_eq!(reach(0), Err(Denied::Fault(0x71)));
    assert_eq!(reach(5), Err(Denied::Fault(0x79)));
    // A PASID that the device does not have.
    assert_eq!(
        device.attach(1 << 15, &first),
        Err(Error::PasidRange(1 << 15))
    );
    device.detach(5).unwrap();
    device.detach(6).unwrap();
    device.detach(0).unwrap();
    drop((device, first, second));
    let live = world.memory.live().0;
    world.context.close().unwrap();
    assert!(world.memory.live().0 < live, "the nest parent's");
}

/// Whatever allocation of a first stage on a slice fails, nothing is left of it.
#[test]
fn without_nesting_there_are_none() {
    let config = Config {
        nesting: false,
        ..Config::nesting()
    };
    let world = World::new(config);
    let viommu = world
        .parent
        .viommu(&world.driver, VIOMMU, UserData::default());
    let viommu = viommu.unwrap();
    let refused = viommu.nested(table(0x10_0000), None).err();
    assert_eq!(refused, Some(Error::Unsupported(STAGE_ONE)));
    let bytes = blob(0, 0x10_0000, 48);
    let data = UserData {
        kind: STAGE_ONE,
        bytes: &bytes,
    };
    assert_eq!(
        viommu.nested_from(data, None).err(),
        Some(Error::Unsupported(STAGE_ONE))
    );
    // Its other stages 1 are there.
    viommu.nested(StageOne::Bypass, None).unwrap();
}

/// A table of the guest's is known by what the nest parent says of it: it is forgotten with its page, though only a last-level
/// entry changes.
#[test]
fn a_guests_table_that_the_host_takes_away_is_walked_no_more() {
    let world = World::new(Config::nesting());
    let ioas = world.context.ioas().unwrap();
    // The last table of the first stage has an area of its own.
    let root = world.tables(0x10_0000, 0x3000);
    let last = root + 3 * PAGE;
    let pieces = [(0, last), (last, PAGE), (last + PAGE, 0x20_0000)];
    for (at, len) in pieces {
        let memory = Arc::new(Piece(RAM + at, len));
        ioas.map(Iova(at), memory, 0, len, ACCESS).unwrap();
    }
    let parent = ioas.nest_parent(&world.driver).unwrap();
    let viommu = parent.viommu(&world.driver, VIOMMU, UserData::default());
    let viommu = viommu.unwrap();
    let device = world.bind(0x310);
    let _name = viommu.vdevice(&device, 0x100).unwrap();
    let nested = viommu.nested(table(root), None).unwrap();
    device.attach(0, &nested).unwrap();
    let reach = |page| {
        let from = Initiator::from(0x310);
        world.vtd.translate_as(from, VA + page * PAGE, false)
    };
    // Another page of the same table, which nothing has looked at.
    world.store(last + ((VA >> 12 & 511) + 1) * 8, 0x4000 | 7);
    assert_eq!(reach(0), Ok(RAM + 0x3000));
    world.vtd.take_log();
    let page = Span {
        base: Iova(last),
        len: PAGE,
    };
    ioas.unmap(page).unwrap();
    // 6.5.2.3, by page, without IH: of the nested domain, and the slice's own.
    let log = world.vtd.take_log();
    let told: Vec<_> = log.iter().filter(|it| it[0] & 0xf == 2).collect();
    assert_eq!(told.len(), 2);
    assert!(told.iter().all(|it| it[1] == last), "{told:x?}");
    assert_eq!(reach(0), Err(Denied::Fault(0x76)));
    assert_eq!(reach(1), Err(Denied::Fault(0x76)));
}

/// Erratum 772415: flags of a guest's first stage are set in memory that the second stage has read-only.
#[test]
fn a_parent_has_nothing_that_is_read_only_where_a_unit_nests() {
    for (config, nests) in [
        (Config::nesting(), true),
        (
            Config {
                nesting: false,
                ..Config::nesting()
            },
            false,
        ),
    ] {
        let world = World::new(config);
        let device = world.bind(0x310);
        let (info, _) = device.hw_info(HW_INFO).unwrap();
        // Struct iommu_hw_info_vtd: flags, and the registers.
        let (cap, ecap) = world.unit.physical().lock().capabilities();
        assert_eq!(info.words[..3], [u64::from(nests), cap, ecap]);
        let more = || Arc::new(Piece(RAM, BYTES));
        let mapped = world
            .ioas
            .map(Iova(0x4000_0000), more(), 0, PAGE, Access::READ);
        match nests {
            true => assert_eq!(mapped, Err(Error::Access)),
            false => mapped.unwrap(),
        }
        // Of others it is nobody's business, until a guest's first stage is to go on them.
        let other = world.context.ioas().unwrap();
        other.map(Iova(0), more(), 0, PAGE, Access::READ).unwrap();
        let flags = HwptFlags::empty();
        let plain = other.paging(&world.driver, flags, None).unwrap();
        device.attach(0, &plain).unwrap();
        let parent = other.paging(&world.driver, HwptFlags::NEST_PARENT, None);
        assert_eq!(parent.is_err(), nests);
        other.map(Iova(PAGE), more(), 0, PAGE, ACCESS).unwrap();
    }
}
