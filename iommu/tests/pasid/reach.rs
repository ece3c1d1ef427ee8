//! What a PASID reaches, and who is told of it.

use super::{
    BAD_CONTEXT, Own, STREAM, UNMAPPED, VA, device, fault, opcodes, pasids, reach, reach_at, unmap,
};
use crate::vm::Vm;
use iommu::addr::Iova;
use iommu::model::smmu::{Config, Denied, Initiator};

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

/// A device that goes on while its table is another: the entry leads to a copy of the contexts, and nothing of it stays.
#[test]
fn a_table_in_place_of_another_is_a_copy_of_the_contexts() {
    for (cd_two_level, coherent) in [(false, true), (true, true), (true, false)] {
        let vm = Vm::one(Config {
            cd_two_level,
            coherent,
            torn_fetches: true,
            ..pasids()
        });
        let device = device(&vm, STREAM, 8);
        let owns = [1, 2, 3].map(|page| Own::new(&vm, page));
        for (pasid, own) in [(0, 0), (1, 1), (70, 0), (71, 1)] {
            device.attach(pasid, &owns[own].hwpt).expect("attached");
            assert_eq!(reach(&vm, pasid), Ok(owns[own].page));
        }
        let live = vm.memory.live();
        for pasid in [70, 1, 0] {
            opcodes(&vm);
            device.replace(pasid, &owns[2].hwpt).expect("replaced");
            // CMD_CFGI_STE and CMD_SYNC; CMD_TLBI_NH_ASID where it was the last of a table.
            let told = opcodes(&vm);
            assert_eq!(told[..2], [0x03, 0x46], "{told:x?}");
            assert_eq!(reach(&vm, pasid), Ok(owns[2].page));
            assert_eq!(reach(&vm, 71), Ok(owns[1].page));
            assert_eq!(vm.memory.live(), live);
        }
        unmap(&owns[2].ioas, VA);
        assert_eq!([0, 1, 70].map(|it| reach(&vm, it)), [UNMAPPED; 3]);
        assert_eq!(vm.model().violations(), []);
    }
}
