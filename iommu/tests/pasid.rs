//! Tables of the host's own for single PASIDs, from the objects to a model SMMU that is strict.

mod vm;

use std::collections::BTreeMap;

use iommu::addr::{Iova, Span};
use iommu::id::DeviceId;
use iommu::model::smmu::{Config, Denied, Initiator};
use iommu::object::driver::{Access, DeviceInfo, Driver, HwptFlags, Requester, Target, UserData};
use iommu::object::{Device, Errno, Error, HwptPaging, Ioas};
use iommu::physical::IommuError;
use iommu::table::StageOneAttributes;
use proptest::prelude::*;
use vm::{GUEST, PAGE, Piece, RAM, Space, Vm, entry, nested};

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

#[test]
fn each_pasid_and_what_has_none_reaches_its_own_memory() {
    let vm = Vm::one(pasids());
    let device = device(&vm, STREAM, 16);
    let owns = [1, 2, 3].map(|page| Own::new(&vm, page));
    let places = [0, 5, 0xffff];
    for (pasid, own) in places.iter().zip(&owns) {
        device.attach(*pasid, &own.hwpt).expect("attached");
    }
    for (at, (pasid, own)) in (0u64..).zip(places.iter().zip(&owns)) {
        assert_eq!(reach(&vm, *pasid), Ok(own.page));
        let from = Initiator::from(STREAM);
        let from = if *pasid == 0 {
            from
        } else {
            from.with_substream(*pasid)
        };
        let bytes = (0x1111 * (at + 1)).to_le_bytes();
        vm.model().dma_write(from, VA + 8, &bytes).expect("written");
        assert_eq!(vm.memory.load(own.page + 8), 0x1111 * (at + 1));
        let read = vm.model().dma_read(from, VA + 8, 8);
        assert_eq!(read.as_deref(), Ok(&bytes[..]));
    }
    // PASIDs that nobody attached: with a level 2 table, and without one.
    assert_eq!(reach(&vm, 6), BAD_CONTEXT);
    assert!(reach(&vm, 0x8000).is_err());
    // One table at several PASIDs.
    device.attach(6, &owns[1].hwpt).expect("attached");
    assert_eq!(reach(&vm, 6), Ok(owns[1].page));
    device.detach(5).expect("detached");
    assert_eq!(reach(&vm, 5), BAD_CONTEXT);
    assert_eq!(reach(&vm, 6), Ok(owns[1].page));
    device.replace(6, &owns[2].hwpt).expect("replaced");
    assert_eq!(reach(&vm, 6), Ok(owns[2].page));
    drop(device);
    for pasid in [0, 5, 6, 0xffff] {
        assert_eq!(reach(&vm, pasid), fault(0x04), "C_BAD_STE");
    }
}

#[test]
fn what_a_pasids_table_forgets_is_of_its_address_space_alone() {
    for range_invalidation in [true, false] {
        let vm = Vm::one(Config {
            range_invalidation,
            ..pasids()
        });
        let device = device(&vm, STREAM, 4);
        let owns = [1, 2].map(|page| Own::new(&vm, page));
        device.attach(1, &owns[0].hwpt).expect("attached");
        device.attach(2, &owns[1].hwpt).expect("attached");
        assert_eq!(
            (reach(&vm, 1), reach(&vm, 2)),
            (Ok(owns[0].page), Ok(owns[1].page))
        );
        vm.model().commands();
        unmap(&owns[0].ioas, VA);
        let [told, sync] = vm.model().commands()[..] else {
            panic!("one command and its end");
        };
        // CMD_TLBI_NH_VA of VMID 0 and the first address space there is.
        assert_eq!(told[0] & 0xffff_ffff_0000_00ff, 0x12 | 1 << 48);
        assert_eq!(sync[0] as u8, 0x46);
        assert_eq!(reach(&vm, 1), UNMAPPED);
        assert_eq!(reach(&vm, 2), Ok(owns[1].page));
        // The number goes back after everything under it was forgotten, by CMD_TLBI_NH_ASID.
        device.detach(2).expect("detached");
        let told = vm.model().commands();
        assert!(told.contains(&[0x11 | 2 << 48, 0]), "{told:x?}");
        assert!(!told.iter().any(|it| matches!(it[0] as u8, 0x28 | 0x2a)));
    }
}

#[test]
fn the_entry_stays_as_it_is_while_pasids_come_and_go() {
    for cd_two_level in [false, true] {
        let vm = Vm::one(Config {
            cd_two_level,
            torn_fetches: true,
            ..pasids()
        });
        let device = device(&vm, STREAM, 10);
        let owns = [1, 2].map(|page| Own::new(&vm, page));
        device.attach(0, &owns[0].hwpt).expect("attached");
        opcodes(&vm);
        for pasid in [1, 63, 64, 1023] {
            device.attach(pasid, &owns[1].hwpt).expect("attached");
            assert_eq!(reach(&vm, pasid), Ok(owns[1].page));
            assert_eq!(reach(&vm, 0), Ok(owns[0].page));
        }
        for pasid in [1, 1023, 64, 63] {
            device.detach(pasid).expect("detached");
            assert_eq!(reach(&vm, pasid), BAD_CONTEXT);
            assert_eq!(reach(&vm, 0), Ok(owns[0].page));
        }
        // CMD_CFGI_CD, CMD_TLBI_NH_ASID as the address space goes, CMD_SYNC: no CMD_CFGI_STE.
        let told = opcodes(&vm);
        assert!(
            told.iter().all(|it| matches!(it, 0x05 | 0x11 | 0x46)),
            "{told:x?}"
        );
        assert_eq!(
            told.iter().filter(|it| **it == 0x05).count(),
            // Two steps each way, as words are fetched one by one; two new level 2 tables.
            16 + if cd_two_level { 2 } else { 0 }
        );
        // The other way round: what has no PASID leaves and comes back beside one that stays.
        device.attach(7, &owns[1].hwpt).expect("attached");
        opcodes(&vm);
        device.detach(0).expect("detached");
        assert_eq!(
            (reach(&vm, 0), reach(&vm, 7)),
            (BAD_CONTEXT, Ok(owns[1].page))
        );
        device.attach(0, &owns[0].hwpt).expect("attached");
        assert_eq!(
            (reach(&vm, 0), reach(&vm, 7)),
            (Ok(owns[0].page), Ok(owns[1].page))
        );
        assert!(!opcodes(&vm).contains(&0x03));
    }
}

#[test]
fn which_tables_go_together_is_as_iommufd_says() {
    let vm = Vm::one(pasids());
    let device = device(&vm, STREAM, 4);
    let driver = vm.iommus[0].driver();
    let own = Own::new(&vm, 1);
    let errno = |result: Result<u32, Error>| result.map_err(Error::errno);
    // No such PASID, no table for PASIDs, an address space's automatic table.
    assert_eq!(errno(device.attach(16, &own.hwpt)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &vm.parent)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &own.ioas)), Err(Errno::EINVAL));
    // Beside a second stage alone, and beside a guest's first stage.
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(errno(device.attach(1, &own.hwpt)), Err(Errno::EINVAL));
    device.detach(0).expect("detached");
    let slice = vm.slice(0);
    let vdevice = slice.vdevice(&device, 7).expect("named");
    let space = Space::plain(&vm, 1);
    let contexts = vm.take(64);
    space.place(&vm, contexts);
    let guests = nested(&slice, entry(contexts, 0), None);
    device.attach(0, &guests).expect("attached");
    assert_eq!(errno(device.attach(1, &own.hwpt)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &guests)), Err(Errno::EINVAL));
    device.detach(0).expect("detached");
    // And the other way round.
    device.attach(1, &own.hwpt).expect("attached");
    assert_eq!(errno(device.attach(0, &vm.parent)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(0, &guests)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(0, &own.ioas)), Err(Errno::EINVAL));
    assert_eq!(errno(device.attach(1, &own.hwpt)), Err(Errno::EBUSY));
    assert_eq!(reach(&vm, 1), Ok(own.page));
    device.attach(0, &own.hwpt).expect("attached");
    assert_eq!(errno(device.replace(0, &vm.parent)), Err(Errno::EINVAL));
    assert_eq!(reach(&vm, 0), Ok(own.page));
    assert_eq!(device.detach(2), Ok(()));
    // Alone it may become a second stage, and a first one again.
    device.detach(1).expect("detached");
    device.replace(0, &vm.parent).expect("replaced");
    assert_eq!(vm.model().translate(STREAM, GUEST, true), Ok(RAM));
    device.replace(0, &own.hwpt).expect("replaced");
    assert_eq!(reach(&vm, 0), Ok(own.page));
    // A nest parent is a second stage.
    let both = HwptFlags::PASID | HwptFlags::NEST_PARENT;
    let refused = own.ioas.paging(&driver, both, None).map(|it| it.id());
    assert_eq!(errno(refused), Err(Errno::EOPNOTSUPP));
    let slice = own.hwpt.viommu(&driver, 1, UserData::default());
    assert_eq!(errno(slice.map(|it| it.id())), Err(Errno::EINVAL));
    drop(vdevice);
}

#[test]
fn an_smmu_without_a_first_stage_or_without_pasids_has_no_tables_for_them() {
    let vm = Vm::one(Config {
        stage_one: false,
        substream_bits: 0,
        ..Config::default()
    });
    let refused = vm
        .ioas
        .paging(&vm.iommus[0].driver(), HwptFlags::PASID, None);
    let refused = refused.map(|it| it.id()).map_err(Error::errno);
    assert_eq!(refused, Err(Errno::EOPNOTSUPP));
    // The device has PASIDs, its SMMU has not: only what comes without one.
    let vm = Vm::one(Config::default());
    let device = device(&vm, STREAM, 4);
    let own = Own::new(&vm, 1);
    let refused = device.attach(1, &own.hwpt).map_err(Error::errno);
    assert_eq!(refused, Err(Errno::EOPNOTSUPP));
    device.attach(0, &own.hwpt).expect("attached");
    assert_eq!(reach(&vm, 0), Ok(own.page));
}

#[test]
fn the_driver_itself_refuses_what_the_objects_never_ask_for() {
    let vm = Vm::one(pasids());
    let unit = &vm.iommus[0].unit;
    let from = Requester {
        stream: DeviceId(STREAM),
        pasid_bits: 4,
        ats: false,
    };
    let own = Own::new(&vm, 1);
    let device = device(&vm, STREAM, 4);
    // A second stage at a PASID.
    device.attach(0, &vm.parent).expect("attached");
    let root = iommu::object::driver::Root {
        format: iommu::object::driver::Format::ArmStageTwo,
        root: iommu::addr::Hpa(0x1000),
        input_bits: 39,
        output_bits: 48,
        largest: 1 << 30,
        cleaned: true,
    };
    let tag = iommu::id::CacheTag(9);
    let second = Target::Paging { tag, root };
    assert_eq!(unit.attach(&from, 1, &second), Err(Error::Incompatible));
    // A PASID beside a second stage; that stays.
    let table = iommu::physical::StageOneTable {
        asid: 9,
        root: iommu::addr::Hpa(0x1000),
        input_bits: 39,
        granule: iommu::physical::Granule::Size4K,
        attributes: StageOneAttributes::MAIR,
    };
    let put = |pasid, table| {
        use iommu::physical::PhysicalIommu;
        let mut smmu = unit.physical().lock();
        let with = iommu::physical::ContextSetup {
            pasid_bits: 4,
            ats: false,
        };
        smmu.attach_context(DeviceId(STREAM), pasid, with, table)
    };
    assert_eq!(put(1, Some(&table)), Err(IommuError::Unsupported));
    assert_eq!(vm.model().translate(STREAM, GUEST, true), Ok(RAM));
    device.detach(0).expect("detached");
    // A second stage beside a PASID; that stays too.
    device.attach(1, &own.hwpt).expect("attached");
    assert_eq!(unit.attach(&from, 0, &second), Err(Error::Unsupported(0)));
    assert_eq!((reach(&vm, 0), reach(&vm, 1)), (BAD_CONTEXT, Ok(own.page)));
    // An address space that the SMMU's tables cannot have.
    let wide = iommu::physical::StageOneTable {
        root: iommu::addr::Hpa(1 << 50),
        ..table
    };
    assert_eq!(put(1, Some(&wide)), Err(IommuError::Unsupported));
    assert_eq!(reach(&vm, 1), fault(0x04), "the last one is refused");
}

#[test]
fn a_silenced_device_is_silent_at_its_pasids_too() {
    let vm = Vm::one(pasids());
    let device = device(&vm, STREAM, 4);
    let owns = [1, 2].map(|page| Own::new(&vm, page));
    device.attach(0, &owns[0].hwpt).expect("attached");
    device.attach(1, &owns[1].hwpt).expect("attached");
    device.silence().expect("silent");
    let silent = Err(Denied::StreamAbort);
    assert_eq!((reach(&vm, 0), reach(&vm, 1)), (silent, silent));
    // What changes meanwhile is in force afterwards.
    device.attach(2, &owns[1].hwpt).expect("attached");
    device.detach(1).expect("detached");
    device.replace(0, &owns[1].hwpt).expect("replaced");
    assert_eq!(
        (reach(&vm, 0), reach(&vm, 1), reach(&vm, 2)),
        (silent, silent, silent)
    );
    assert!(vm.serve(0).is_empty());
    device.detach(0).expect("detached");
    assert_eq!(
        (reach(&vm, 0), reach(&vm, 1), reach(&vm, 2)),
        (BAD_CONTEXT, BAD_CONTEXT, Ok(owns[1].page))
    );
    // Silent without anything, then a PASID.
    device.detach(2).expect("detached");
    device.silence().expect("silent");
    device.attach(3, &owns[0].hwpt).expect("attached");
    assert_eq!(reach(&vm, 3), silent);
    device.detach(0).expect("loud again");
    assert_eq!(reach(&vm, 3), Ok(owns[0].page));
}

#[test]
fn faults_of_a_pasid_name_it() {
    let vm = Vm::one(pasids());
    let device = device(&vm, STREAM, 4);
    let own = Own::new(&vm, 1);
    device.attach(3, &own.hwpt).expect("attached");
    assert_eq!(reach_at(&vm, 3, 0x9000), UNMAPPED);
    let [(fault, _)] = vm.serve(0)[..] else {
        panic!("one record");
    };
    assert_eq!((fault.pasid, fault.iova), (Some(3), Some(Iova(0x9000))));
}

/// Every allocation of an attachment fails once: what was before is what is after, and no memory is gone.
#[test]
fn each_frame_that_cannot_be_had_leaves_everything_as_it_was() {
    for cd_two_level in [false, true] {
        for first in [true, false] {
            let vm = Vm::one(Config {
                cd_two_level,
                ..pasids()
            });
            let device = device(&vm, STREAM, 8);
            let owns = [1, 2].map(|page| Own::new(&vm, page));
            if !first {
                device.attach(0, &owns[0].hwpt).expect("attached");
            }
            let before = (vm.memory.live(), reach(&vm, 0), reach(&vm, 200));
            let mut failures = 0;
            for nth in 0.. {
                vm.memory.fail_allocation(nth, false);
                let attached = device.attach(200, &owns[1].hwpt);
                vm.memory.heal();
                match attached {
                    Ok(_) => break,
                    Err(error) => assert_eq!(error.errno(), Errno::ENOMEM),
                }
                failures += 1;
                let after = (vm.memory.live(), reach(&vm, 0), reach(&vm, 200));
                assert_eq!(after, before, "{cd_two_level} {first} {nth}");
            }
            // The table, and its second level. The stream's own level 2 table may be the first of its kind.
            assert!(failures >= usize::from(first) + usize::from(cd_two_level));
            assert_eq!(reach(&vm, 200), Ok(owns[1].page));
            device.detach(200).expect("detached");
            device.detach(0).expect("detached");
        }
    }
}

/// The hardware refuses or hangs at each command in turn: nobody reaches what is not theirs, and afterwards all works.
#[test]
fn a_command_that_fails_refuses_and_the_next_attachment_works() {
    for opcode in [0x03, 0x05] {
        for live in [false, true] {
            let vm = Vm::one(pasids());
            let device = device(&vm, STREAM, 4);
            let owns = [1, 2].map(|page| Own::new(&vm, page));
            // There is an entry.
            device.attach(0, &vm.parent).expect("attached");
            device.detach(0).expect("detached");
            if live {
                device.attach(0, &owns[0].hwpt).expect("attached");
            }
            let rid = reach(&vm, 0);
            vm.model().refuse(opcode, 1);
            let attached = device.attach(1, &owns[1].hwpt);
            // The opcode that the way does not have fails nothing.
            if live == (opcode == 0x05) {
                assert_eq!(attached.map_err(Error::errno), Err(Errno::EIO));
                assert!(reach(&vm, 1).is_err());
                assert_eq!(reach(&vm, 0), rid);
                device.attach(1, &owns[1].hwpt).expect("attached");
            }
            assert_eq!(reach(&vm, 1), Ok(owns[1].page));
        }
    }
    // It hangs: the table that it may read is not given away, whatever becomes of the objects.
    let vm = Vm::one(pasids());
    let device = device(&vm, STREAM, 4);
    let own = Own::new(&vm, 1);
    device.attach(1, &own.hwpt).expect("attached");
    let live = vm.memory.live();
    vm.model().hang(true);
    assert!(device.detach(1).is_err());
    assert_eq!(vm.memory.live(), live);
    vm.model().hang(false);
    device.detach(1).expect("detached");
    assert!(vm.memory.live().0 < live.0);
    assert_eq!(reach(&vm, 1), fault(0x04));
}

#[test]
fn nothing_stays_behind_when_all_of_it_is_gone() {
    let vm = Vm::one(Config {
        cd_two_level: true,
        ..pasids()
    });
    let warm = |stream| {
        let device = device(&vm, stream, 16);
        let own = Own::new(&vm, 1);
        device.attach(0, &own.hwpt).expect("attached");
        for pasid in [1, 100, 3000, 60_000] {
            device.attach(pasid, &own.hwpt).expect("attached");
        }
    };
    warm(STREAM);
    let before = vm.memory.live();
    for _ in 0..300 {
        // More lives than there are address spaces.
        warm(STREAM);
    }
    assert_eq!(vm.memory.live(), before);
}

#[derive(Clone, Copy, Debug)]
enum Step {
    Attach(usize, usize),
    Replace(usize, usize),
    Detach(usize),
    Silence,
    Map(usize),
    Unmap(usize),
}

/// What the steps are about: nothing, and PASIDs in one and in two level 2 tables.
const PLACES: [u32; 4] = [0, 1, 70, 71];

fn step() -> impl Strategy<Value = Step> {
    let place = 0..PLACES.len();
    let own = 0..3usize;
    prop_oneof![
        4 => (place.clone(), own.clone()).prop_map(|(at, own)| Step::Attach(at, own)),
        4 => (place.clone(), own.clone()).prop_map(|(at, own)| Step::Replace(at, own)),
        3 => place.prop_map(Step::Detach),
        1 => Just(Step::Silence),
        2 => own.clone().prop_map(Step::Map),
        2 => own.prop_map(Step::Unmap),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// Against what was last asked for and granted: each PASID reaches what its table says, and nothing else.
    #[test]
    fn any_order_of_attachments_and_mappings_holds(
        steps in proptest::collection::vec(step(), 1..40),
        cd_two_level: bool,
        coherent: bool,
        range_invalidation: bool,
    ) {
        let vm = Vm::one(Config {
            cd_two_level,
            coherent,
            range_invalidation,
            torn_fetches: true,
            ..pasids()
        });
        let device = device(&vm, STREAM, 8);
        let owns = [1, 2, 3].map(|page| Own::new(&vm, page));
        let mut mapped = [true; 3];
        let mut attached = BTreeMap::new();
        let mut silent = false;
        for step in steps {
            match step {
                Step::Attach(at, own) => {
                    let done = device.attach(PLACES[at], &owns[own].hwpt);
                    prop_assert_eq!(done.is_ok(), !attached.contains_key(&at));
                    attached.entry(at).or_insert(own);
                }
                Step::Replace(at, own) => {
                    let done = device.replace(PLACES[at], &owns[own].hwpt);
                    prop_assert_eq!(done.is_ok(), attached.contains_key(&at));
                    attached.entry(at).and_modify(|it| *it = own);
                }
                Step::Detach(at) => {
                    device.detach(PLACES[at]).expect("detached");
                    attached.remove(&at);
                    silent &= at != 0;
                }
                Step::Silence => {
                    device.silence().expect("silent");
                    silent = true;
                }
                Step::Map(own) if !mapped[own] => {
                    map(&owns[own].ioas, VA, owns[own].page);
                    mapped[own] = true;
                }
                Step::Unmap(own) if mapped[own] => {
                    unmap(&owns[own].ioas, VA);
                    mapped[own] = false;
                }
                Step::Map(_) | Step::Unmap(_) => {}
            }
            for (at, pasid) in PLACES.iter().enumerate() {
                let found = reach(&vm, *pasid);
                match attached.get(&at) {
                    _ if silent => prop_assert_eq!(found, Err(Denied::StreamAbort)),
                    Some(own) if mapped[*own] => prop_assert_eq!(found, Ok(owns[*own].page)),
                    _ => prop_assert!(found.is_err()),
                }
            }
        }
        prop_assert_eq!(vm.model().violations(), []);
    }
}
