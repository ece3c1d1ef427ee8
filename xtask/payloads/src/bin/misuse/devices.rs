//! The interrupt controller and the PCI host, against their rules.

use crate::map::{ECAM, FRAME, GICD, GICR, ITS, SMMU_OF_THE_MACHINE, UART, WINDOW};
use core::arch::asm;
use payloads::access::{attempt, load, store};
use payloads::edu::Edu;
use payloads::pci::Function;
use payloads::runtime::Guest;

/// Registers of the wrong width read as nothing; every register takes every value without harm.
pub fn interrupt_controller(guest: &mut Guest) {
    let checks = &mut guest.checks;
    // CTLR, TYPER, IIDR, ISENABLER1, ICFGR2: 32 bits only.
    let narrow = [0x0, 0x4, 0x8, 0x104, 0xc08]
        .into_iter()
        .flat_map(|offset| [1, 2].map(|width| load(GICD + offset, width)));
    let odd = narrow.filter(|outcome| !outcome.is_nothing()).count();
    checks.check(
        odd == 0,
        format_args!("{odd} registers of the distributor answer to a wrong width"),
    );
    let frames = [
        ("the distributor", GICD),
        ("its redistributor", GICR),
        ("its private interrupts", GICR + FRAME),
        ("the ITS", ITS),
    ];
    for (what, frame) in frames {
        let mut refused = 0;
        for value in [!0, 0] {
            for offset in (0..FRAME).step_by(4) {
                refused += u64::from(store(frame + offset, 4, value).refused);
                refused += u64::from(load(frame + offset, 4).refused);
                if offset % 512 == 0 {
                    refused += u64::from(store(frame + offset, 8, value).refused);
                    refused += u64::from(load(frame + offset, 1).refused);
                }
            }
        }
        checks.check(
            refused == 0,
            format_args!("{what} takes everything: {refused} refused"),
        );
    }
    // A command queue that is no memory, with commands to run in it: the ITS stops, not the guest.
    let beyond = 0x8000_0000_0000_0000 | (1 << 40) | 0xff;
    let wrote = [
        store(ITS + 0x80, 8, beyond),
        store(ITS, 4, 1),
        store(ITS + 0x88, 8, 0xf_ffe0),
    ];
    let stopped = wrote.iter().all(|outcome| !outcome.refused);
    let read = load(ITS + 0x90, 8);
    checks.check(
        stopped && !read.refused,
        format_args!("a command queue outside of memory runs nothing: {read:x?}"),
    );
    store(ITS, 4, 0);
    // SAFETY: interrupts are masked and nobody waits for any; each is skipped if refused.
    unsafe {
        for value in [!0_u64, 0, 0xff_ffff, 1023, 8192] {
            attempt(|| {
                asm!("msr S3_0_C12_C12_1, {}", in(reg) value); // ICC_EOIR1_EL1
                0
            });
            attempt(|| {
                asm!("msr S3_0_C12_C11_1, {}", in(reg) value); // ICC_DIR_EL1
                0
            });
            attempt(|| {
                asm!("msr S3_0_C12_C11_5, {}", in(reg) value); // ICC_SGI1R_EL1
                0
            });
            attempt(|| {
                asm!("msr S3_0_C12_C11_6, {}", in(reg) value); // ICC_ASGI1R_EL1
                0
            });
            attempt(|| {
                asm!("msr S3_0_C12_C11_7, {}", in(reg) value); // ICC_SGI0R_EL1
                0
            });
        }
    }
    checks.check(true, format_args!("no interrupt ends that never began"));
}

/// Functions that are not there read as all ones; registers of the one that is there take every value; a BAR over
/// something else covers nothing.
pub fn configuration_space(guest: &mut Guest) {
    let Guest { tree, checks } = guest;
    let Some(function) = Function::find(tree, 0x1234, 0x11e8) else {
        return checks.check(false, format_args!("finds its edu device"));
    };
    let own = ECAM + (u64::from(function.device) << 15);
    let mut present = 0;
    for at in 0..4096_u64 {
        let read = load(ECAM + (at << 12), 4);
        store(ECAM + (at << 12) + 4, 4, !0);
        let absent = !read.refused && read.value == 0xffff_ffff;
        present += u64::from(!absent);
    }
    // Its own, and the host bridge where there is one.
    checks.check(
        (1..=2).contains(&present),
        format_args!("{present} functions answer"),
    );
    let wide = load(own, 8);
    checks.check(
        wide.refused || wide.value == !0 || wide.value == 0,
        format_args!("a load of 8 bytes reads nothing: {wide:x?}"),
    );
    for value in [!0, 0] {
        for width in [4, 2, 1] {
            for offset in (0..0x1000_u64).step_by(width) {
                store(own + offset, width as u8, value);
            }
        }
    }
    checks.check(
        function.read(0) == 0x11e8_1234,
        format_args!("its function is still there after every write"),
    );

    let distributor = load(GICD + 4, 4);
    for place in [
        GICD,
        SMMU_OF_THE_MACHINE,
        ECAM,
        UART,
        0x4000_0000,
        0xffff_0000,
    ] {
        function.write(0x10, place as u32);
        function.write(0x04, 0x2);
        let (smmu, memory) = (load(SMMU_OF_THE_MACHINE, 4), load(own, 4));
        checks.check(
            load(GICD + 4, 4) == distributor && smmu.refused && memory.value == 0x11e8_1234,
            format_args!("a BAR at {place:#x} covers nothing"),
        );
        function.write(0x04, 0);
    }
    checks.check(
        load(WINDOW, 4).refused,
        format_args!("without a BAR the window is empty"),
    );
    let edu = Edu::find(tree).is_some();
    let behind = load(WINDOW + (1 << 20), 4).refused && load(WINDOW - 4, 4).refused;
    checks.check(
        edu && behind,
        format_args!("its BAR covers its window and no more"),
    );
    function.write(0x04, 0);
}
