//! Tables: each row of HWPT_ALLOC, GET_HW_INFO and HWPT_INVALIDATE.

use alloc::vec;
use alloc::vec::Vec;

use super::super::by_id::{HwptRequest, InvalidateRequest};
use super::super::driver::UserData;
use super::super::mock::{DIRECT_DATA, ENTRY, ILLEGAL, Mock, NESTED_DATA, OP_ATC, OP_TLB, SLICE};
use super::super::{BATCH, Errno, Error, HwptPaging, Ioas, MAX_ENTRIES, Progress};
use super::{Device, K4, NONE, RW, World, bind_to, errno, memory};
use crate::addr::Iova;

const TABLE: [u8; 8] = 0x4000u64.to_le_bytes();

/// A device, an address space, a nest parent and a slice on it.
struct Nest {
    world: World,
    device: Device,
    ioas: Ioas,
    parent: HwptPaging,
    viommu: super::super::Viommu,
}

impl Nest {
    fn new() -> Self {
        let world = World::new();
        let device = world.device(1);
        let ioas = world.ioas();
        let parent = ioas.nest_parent(&world.driver()).unwrap();
        let viommu = parent.viommu(&world.driver(), SLICE, NONE).unwrap();
        Self {
            world,
            device,
            ioas,
            parent,
            viommu,
        }
    }

    fn alloc(&self, change: impl FnOnce(&mut HwptRequest<'_>)) -> Result<u32, Error> {
        let mut request = HwptRequest {
            device: self.device.id(),
            pt: self.ioas.id(),
            ..HwptRequest::default()
        };
        change(&mut request);
        let before = self.world.snapshot();
        let result = self.world.context.by_id().hwpt_alloc(&request);
        if result.is_err() {
            assert_eq!(self.world.snapshot(), before);
        }
        result
    }

    fn refused(&self, change: impl FnOnce(&mut HwptRequest<'_>)) -> Errno {
        errno(self.alloc(change))
    }
}

const DATA: UserData<'static> = UserData {
    kind: NESTED_DATA,
    bytes: &TABLE,
};

#[test]
fn hwpt_alloc_rows_for_all() {
    let nest = Nest::new();
    assert_eq!(nest.refused(|it| it.reserved = 1), Errno::EOPNOTSUPP);
    assert_eq!(
        nest.refused(|it| it.reserved2 = 1),
        Errno::EOPNOTSUPP,
        "checked here"
    );
    assert_eq!(
        nest.refused(|it| it.data.bytes = &TABLE),
        Errno::EINVAL,
        "data of no type"
    );
    assert_eq!(
        nest.refused(|it| it.data.kind = 1),
        Errno::EINVAL,
        "a type of no data"
    );
    assert_eq!(nest.refused(|it| it.device = 99), Errno::ENOENT);
    assert_eq!(nest.refused(|it| it.device = nest.ioas.id()), Errno::ENOENT);
    assert_eq!(
        nest.refused(|it| it.flags = 4),
        Errno::ENOENT,
        "no such fault queue"
    );
    assert_eq!(nest.refused(|it| it.pt = 99), Errno::EINVAL, "not ENOENT");
    assert_eq!(nest.refused(|it| it.pt = nest.device.id()), Errno::EINVAL);
    let nested = nest
        .alloc(|it| (it.pt, it.data) = (nest.viommu.id(), DATA))
        .unwrap();
    let twice = nest.refused(|it| (it.pt, it.data) = (nested, DATA));
    assert_eq!(twice, Errno::EINVAL, "nested on nested");
}

#[test]
fn hwpt_alloc_rows_on_an_ioas() {
    let nest = Nest::new();
    assert_eq!(nest.refused(|it| it.flags = 0x10), Errno::EOPNOTSUPP);
    assert_eq!(
        nest.refused(|it| it.data = DATA),
        Errno::EOPNOTSUPP,
        "data for a table of ours"
    );
    let faults = nest.world.context.fault_queue(4).unwrap();
    let both = nest.refused(|it| (it.flags, it.fault) = (4 | 1, faults.id()));
    assert_eq!(both, Errno::EOPNOTSUPP, "a nest parent has no fault queue");
    nest.world.mock.state().no_dirty = true;
    assert_eq!(nest.refused(|it| it.flags = 2), Errno::EOPNOTSUPP);
    nest.world.mock.state().no_dirty = false;
    let dirty = nest.alloc(|it| it.flags = 2).unwrap();
    let with_faults = nest
        .alloc(|it| (it.flags, it.fault) = (4, faults.id()))
        .unwrap();
    assert!(dirty < with_faults);
}

#[test]
fn hwpt_alloc_eaddrinuse_and_einval_of_the_address_space() {
    let nest = Nest::new();
    // Mapped or allowed beyond a narrower table.
    nest.world.mock.state().input_bits = 32;
    nest.ioas
        .map(Iova(1 << 32), memory(0, K4), 0, K4, RW)
        .unwrap();
    assert_eq!(nest.refused(|_| {}), Errno::EADDRINUSE);
    nest.ioas.unmap_all().unwrap();
    nest.ioas.allow(&[(0, 1 << 33)]).unwrap();
    assert_eq!(nest.refused(|_| {}), Errno::EADDRINUSE);
    nest.ioas.allow(&[]).unwrap();
    nest.alloc(|_| {}).unwrap();
    // Something mapped that is no whole pages.
    let odd = nest.world.ioas();
    odd.map(Iova(0x100), memory(0, K4), 0, 0x20, RW).unwrap();
    let raised = nest.refused(|it| it.pt = odd.id());
    assert_eq!(raised, Errno::EADDRINUSE);
}

#[test]
fn hwpt_alloc_rows_on_a_parent() {
    let nest = Nest::new();
    let direct = UserData {
        kind: DIRECT_DATA,
        bytes: &TABLE,
    };
    let on =
        |pt: u32, flags: u32, data| nest.alloc(|it| (it.pt, it.flags, it.data) = (pt, flags, data));
    let parent = nest.parent.id();
    assert_eq!(
        errno(on(parent, 0, direct)),
        Errno::EOPNOTSUPP,
        "nests through slices only"
    );
    nest.world.mock.state().direct_nested = true;
    assert_eq!(errno(on(parent, 1, direct)), Errno::EOPNOTSUPP);
    assert_eq!(errno(on(parent, 2, direct)), Errno::EOPNOTSUPP);
    assert_eq!(errno(on(parent, 0x10, direct)), Errno::EOPNOTSUPP);
    assert_eq!(errno(on(parent, 0, NONE)), Errno::EOPNOTSUPP, "no data");
    let plain = nest.alloc(|_| {}).unwrap();
    assert_eq!(errno(on(plain, 0, direct)), Errno::EINVAL, "no nest parent");
    let auto = nest.device.attach(0, &nest.ioas).unwrap();
    assert_eq!(errno(on(auto, 0, direct)), Errno::EINVAL, "automatic");
    nest.world.mock.state().refuses = true;
    assert_eq!(
        errno(on(parent, 0, direct)),
        Errno::EINVAL,
        "another format"
    );
    nest.world.mock.state().refuses = false;
    let other = UserData {
        kind: 5,
        bytes: &TABLE,
    };
    assert_eq!(errno(on(parent, 0, other)), Errno::EINVAL, "type");
    let short = UserData {
        kind: DIRECT_DATA,
        bytes: &TABLE[..7],
    };
    assert_eq!(errno(on(parent, 0, short)), Errno::EINVAL, "length");
    let long = UserData {
        kind: DIRECT_DATA,
        bytes: &[0; 9],
    };
    assert_eq!(
        errno(on(parent, 0, long)),
        Errno::EINVAL,
        "EINVAL, not E2BIG"
    );
    assert!(on(parent, 0, direct).is_ok());
}

#[test]
fn hwpt_alloc_rows_on_a_viommu() {
    let nest = Nest::new();
    let on = |flags: u32, data| {
        nest.alloc(|it| (it.pt, it.flags, it.data) = (nest.viommu.id(), flags, data))
    };
    let elsewhere = Mock::new(1);
    let far = bind_to(&nest.world.context, &elsewhere, 9, |_| {}).unwrap();
    let crossed = nest.refused(|it| {
        (it.pt, it.device, it.data) = (nest.viommu.id(), far.id(), DATA);
    });
    assert_eq!(crossed, Errno::EINVAL, "another physical IOMMU");
    assert_eq!(errno(on(1, DATA)), Errno::EOPNOTSUPP);
    assert_eq!(errno(on(2, DATA)), Errno::EOPNOTSUPP);
    assert_eq!(
        errno(on(8, DATA)),
        Errno::EOPNOTSUPP,
        "PASIDs are the guest's own there"
    );
    assert_eq!(errno(on(0, NONE)), Errno::EOPNOTSUPP);
    let other = UserData {
        kind: 2,
        bytes: &TABLE,
    };
    assert_eq!(errno(on(0, other)), Errno::EINVAL);
    let long = UserData {
        kind: NESTED_DATA,
        bytes: &[0; 16],
    };
    assert_eq!(errno(on(0, long)), Errno::EINVAL);
    const BYTES: [u8; 8] = ILLEGAL.to_le_bytes();
    let illegal = UserData {
        kind: NESTED_DATA,
        bytes: &BYTES,
    };
    assert_eq!(errno(on(0, illegal)), Errno::EIO);
    assert!(on(0, DATA).is_ok());
    let decoded = super::super::mock::translate(ILLEGAL);
    assert_eq!(errno(nest.viommu.nested(decoded, None)), Errno::EIO);
}

#[test]
fn get_hw_info_rows() {
    let world = World::new();
    let device = world.device(1);
    let get = |flags, kind, reserved| {
        world
            .context
            .by_id()
            .hw_info(flags, device.id(), kind, reserved)
    };
    assert_eq!(errno(get(2, 0, [0; 3])), Errno::EOPNOTSUPP);
    assert_eq!(errno(get(0, 0, [0, 0, 1])), Errno::EOPNOTSUPP);
    assert_eq!(errno(get(1, 5, [0; 3])), Errno::EOPNOTSUPP, "not its type");
    assert_eq!(
        errno(world.context.by_id().hw_info(0, 99, 0, [0; 3])),
        Errno::ENOENT
    );
    let (info, pasid_bits) = get(0, 5, [0; 3]).unwrap();
    assert_eq!(
        (info.kind, pasid_bits),
        (0xfeed_beef, 20),
        "the input type needs its flag"
    );
    assert_eq!(get(1, info.kind, [0; 3]).unwrap().0, info);
}

/// Entries of two words as bytes, `len` each.
fn bytes(entries: &[[u64; 2]], len: usize) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in entries {
        let whole: Vec<u8> = entry.iter().flat_map(|word| word.to_le_bytes()).collect();
        let mut entry = vec![0; len];
        let copied = len.min(16);
        entry[..copied].copy_from_slice(&whole[..copied]);
        all.extend(entry);
    }
    all
}

fn refused(progress: Progress) -> Errno {
    assert_eq!(progress.complete, 0);
    errno(progress.result)
}

#[test]
fn hwpt_invalidate_rows() {
    let nest = Nest::new();
    let good = bytes(&[[OP_TLB, 7]], 16);
    let run_on = |bytes: &[u8], change: &dyn Fn(&mut InvalidateRequest<'_>)| {
        let mut request = InvalidateRequest {
            id: nest.viommu.id(),
            bytes,
            data_type: ENTRY,
            entry_len: 16,
            entry_num: 1,
            reserved: 0,
        };
        change(&mut request);
        nest.world.context.by_id().hwpt_invalidate(&request)
    };
    let run = |change: &dyn Fn(&mut InvalidateRequest<'_>)| run_on(&good, change);
    assert_eq!(refused(run(&|it| it.reserved = 1)), Errno::EOPNOTSUPP);
    assert_eq!(refused(run(&|it| it.bytes = &[])), Errno::EINVAL);
    assert_eq!(refused(run(&|it| it.entry_len = 0)), Errno::EINVAL);
    assert_eq!(refused(run(&|it| it.entry_len = 4097)), Errno::EINVAL);
    assert_eq!(
        refused(run(&|it| it.entry_num = MAX_ENTRIES as u32 + 1)),
        Errno::EINVAL
    );
    assert_eq!(refused(run(&|it| it.id = 99)), Errno::ENOENT);
    assert_eq!(refused(run(&|it| it.id = nest.ioas.id())), Errno::EINVAL);
    assert_eq!(refused(run(&|it| it.id = nest.parent.id())), Errno::EINVAL);
    let nested = nest
        .alloc(|it| (it.pt, it.data) = (nest.viommu.id(), DATA))
        .unwrap();
    assert_eq!(
        refused(run(&|it| it.id = nested)),
        Errno::EOPNOTSUPP,
        "the slice does it"
    );
    assert_eq!(refused(run(&|it| it.data_type = 5)), Errno::EINVAL);
    assert_eq!(
        refused(run(&|it| it.entry_num = 2)),
        Errno::EFAULT,
        "fewer bytes than said"
    );
    assert_eq!(
        run(&|_| {}),
        Progress {
            complete: 1,
            result: Ok(())
        }
    );
    // Short ones are zero-extended, long ones need a zero tail.
    let short = OP_TLB.to_le_bytes();
    let progress = run_on(&short, &|it| it.entry_len = 8);
    assert_eq!((progress.complete, progress.result), (1, Ok(())));
    let mut long = bytes(&[[OP_TLB, 7], [OP_TLB, 8]], 40);
    let two = |it: &mut InvalidateRequest<'_>| (it.entry_len, it.entry_num) = (40, 2);
    let request = |bytes: &[u8]| {
        let mut request = InvalidateRequest {
            id: nest.viommu.id(),
            data_type: ENTRY,
            ..InvalidateRequest::default()
        };
        two(&mut request);
        nest.world
            .context
            .by_id()
            .hwpt_invalidate(&InvalidateRequest { bytes, ..request })
    };
    assert_eq!(request(&long).complete, 2);
    let before = nest.world.mock.state().submitted.len();
    *long.last_mut().unwrap() = 1;
    assert_eq!(refused(request(&long)), Errno::E2BIG);
    assert_eq!(
        nest.world.mock.state().submitted.len(),
        before,
        "nothing was looked at"
    );
    // A bad entry: those before it are done, those after it are not.
    let mixed = bytes(&[[OP_TLB, 1], [OP_ATC, 0x77], [OP_TLB, 2]], 16);
    let progress = run_on(&mixed, &|it| it.entry_num = 3);
    assert_eq!(
        (progress.complete, errno(progress.result)),
        (1, Errno::EIO),
        "no such name"
    );
    assert_eq!(nest.world.mock.state().submitted.len(), before + 1);
}

#[test]
fn hwpt_invalidate_without_a_slice_takes_entries_of_one_length() {
    let nest = Nest::new();
    nest.world.mock.state().direct_nested = true;
    let data = UserData {
        kind: DIRECT_DATA,
        bytes: &TABLE,
    };
    let id = nest
        .alloc(|it| (it.pt, it.data) = (nest.parent.id(), data))
        .unwrap();
    let run = |bytes: &[u8], entry_len, entry_num, data_type| {
        let request = InvalidateRequest {
            id,
            bytes,
            data_type,
            entry_len,
            entry_num,
            reserved: 0,
        };
        nest.world.context.by_id().hwpt_invalidate(&request)
    };
    assert_eq!(refused(run(&[0; 16], 16, 1, 0)), Errno::EINVAL);
    assert_eq!(
        refused(run(&[0; 32], 32, 1, 0)),
        Errno::EINVAL,
        "EINVAL, not E2BIG"
    );
    assert_eq!(refused(run(&[0; 24], 24, 1, 1)), Errno::EINVAL, "type");
    assert_eq!(run(&[0; 48], 24, 2, 0).complete, 2);
    let mut bad = [0; 48];
    bad[24 + 16] = 2;
    let progress = run(&bad, 24, 2, 0);
    assert_eq!(
        (progress.complete, errno(progress.result)),
        (1, Errno::EOPNOTSUPP)
    );
}

#[test]
fn hwpt_invalidate_batches() {
    let nest = Nest::new();
    let entries = vec![[OP_TLB, 1, 0, 0]; 2 * BATCH + 1];
    let progress = nest.viommu.invalidate(ENTRY, &entries);
    assert_eq!(
        (progress.complete, progress.result),
        (2 * BATCH + 1, Ok(()))
    );
    assert_eq!(nest.world.mock.state().submissions, 3);
}
