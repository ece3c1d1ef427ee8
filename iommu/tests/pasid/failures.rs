//! Memory that cannot be had, and commands that fail.

use super::{Own, STREAM, device, fault, opcodes, pasids, reach};
use crate::vm::Vm;
use iommu::model::smmu::Config;
use iommu::object::{Errno, Error};

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

/// Without memory for a copy of the contexts one table takes the place of another nevertheless, by way of none.
#[test]
fn a_replacement_needs_no_memory() {
    for cd_two_level in [false, true] {
        for nth in 0..2 {
            let vm = Vm::one(Config {
                cd_two_level,
                ..pasids()
            });
            let device = device(&vm, STREAM, 8);
            let owns = [1, 2].map(|page| Own::new(&vm, page));
            device.attach(0, &owns[0].hwpt).expect("attached");
            device.attach(70, &owns[0].hwpt).expect("attached");
            device.attach(71, &owns[1].hwpt).expect("attached");
            let live = vm.memory.live();
            opcodes(&vm);
            vm.memory.fail_allocation(nth, true);
            device.replace(70, &owns[1].hwpt).expect("replaced");
            vm.memory.heal();
            // CMD_CFGI_CD twice, or the copy.
            let copied = nth == 1 && !cd_two_level;
            assert_eq!(opcodes(&vm).contains(&0x05), !copied);
            assert_eq!(vm.memory.live(), live);
            assert_eq!([70, 71].map(|it| reach(&vm, it)), [Ok(owns[1].page); 2]);
            assert_eq!(reach(&vm, 0), Ok(owns[0].page));
        }
    }
}

/// The SMMU does not hear of the copy: the objects put back what was, and the next replacement works.
#[test]
fn a_replacement_that_fails_leaves_what_was() {
    let vm = Vm::one(pasids());
    let device = device(&vm, STREAM, 4);
    let owns = [1, 2].map(|page| Own::new(&vm, page));
    device.attach(1, &owns[0].hwpt).expect("attached");
    device.attach(2, &owns[1].hwpt).expect("attached");
    vm.model().refuse(0x03, 1);
    let replaced = device.replace(1, &owns[1].hwpt).map(drop);
    assert_eq!(replaced.map_err(Error::errno), Err(Errno::EIO));
    assert_eq!(
        [1, 2].map(|it| reach(&vm, it)),
        owns.each_ref().map(|it| Ok(it.page))
    );
    device.replace(1, &owns[1].hwpt).expect("replaced");
    assert_eq!([1, 2].map(|it| reach(&vm, it)), [Ok(owns[1].page); 2]);
    assert_eq!(vm.model().violations(), []);
}
