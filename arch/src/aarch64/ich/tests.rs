//! Words by hand from the field tables of IHI 0069, 12.4, and what the interface does with them.

use super::{Features, Group, Hcr, IchState, ListRegister, Misr, Source, State, Vmcr};
use crate::aarch64::gic::sysreg::{Register, fake};

#[test]
fn a_list_register_is_the_architecture_s_word() {
    let new = ListRegister::new;
    // State [63:62], HW 61, Group 60, NMI 59, Priority [55:48], pINTID [44:32], vINTID [31:0].
    let pending_spi = new(33, 0xA0, Group::One, State::Pending, Source::Software);
    assert_eq!(pending_spi.0, 0x50A0_0000_0000_0021);
    let timer = new(27, 0x80, Group::One, State::Pending, Source::Hardware(27));
    assert_eq!(timer.0, 0x7080_001B_0000_001B);
    let last_spi = new(
        1019,
        0xF8,
        Group::One,
        State::Active,
        Source::Hardware(1019),
    );
    assert_eq!(last_spi.0, 0xB0F8_03FB_0000_03FB);
    // EOI is bit 41, in the place of pINTID[9].
    let with_eoi = new(
        64,
        0x00,
        Group::Zero,
        State::PendingActive,
        Source::SoftwareWithEoi,
    );
    assert_eq!(with_eoi.0, 0xC000_0200_0000_0040);
    let lpi = new(0x1_2345, 0xFF, Group::One, State::Pending, Source::Software);
    assert_eq!(lpi.0, 0x50FF_0000_0001_2345);
}

#[test]
fn a_word_of_the_hardware_reads_back_in_parts() {
    let word = ListRegister(0xB0F8_03FB_0000_03FB);
    assert_eq!(
        (word.virtual_id(), word.priority(), word.group()),
        (1019, 0xF8, Group::One)
    );
    assert_eq!(
        (word.state(), word.source()),
        (State::Active, Source::Hardware(1019))
    );
    assert!(!word.is_free() && ListRegister::EMPTY.is_free());
    // What the guest ended: only the state changes, and the rest is whatever it was.
    assert!(word.with_state(State::Inactive).is_free());
    assert_eq!(word.with_state(State::Pending).0, 0x70F8_03FB_0000_03FB);
    // A hardware interrupt with bit 9 in its number has no EOI bit.
    assert_eq!(
        ListRegister(0x6000_0200_0000_0000).source(),
        Source::Hardware(512)
    );
}

#[test]
#[should_panic(expected = "can be linked")]
fn an_lpi_cannot_be_linked() {
    ListRegister::new(40, 0, Group::One, State::Pending, Source::Hardware(1020));
}

#[test]
#[should_panic(expected = "pending and active")]
fn a_linked_interrupt_cannot_be_pending_and_active() {
    ListRegister::new(
        40,
        0,
        Group::One,
        State::PendingActive,
        Source::Hardware(40),
    );
}

#[test]
fn vtr_is_decoded() {
    // Seen on QEMU's `virt` with GICv3.
    let features = Features::decode(0x90B8_0003);
    let expected = Features {
        list_registers: 4,
        priority_bits: 5,
        preemption_bits: 5,
        id_bits: 24,
        traps_dir: true,
    };
    assert_eq!(features, expected);
    assert_eq!(features.active_priority_registers(), 1);
    // Eight priority bits, seven of preemption, sixteen list registers, 16-bit numbers.
    let large = Features::decode(0xF800_000F);
    assert_eq!(
        (
            large.list_registers,
            large.priority_bits,
            large.preemption_bits
        ),
        (16, 8, 7)
    );
    assert_eq!((large.id_bits, large.active_priority_registers()), (16, 4));
    // More than there can be is not believed.
    assert_eq!(Features::decode(0x1F).list_registers, 16);
}

#[test]
fn control_words_are_the_architecture_s() {
    let hcr = Hcr(Hcr::EN | Hcr::UIE | Hcr::LRENPIE | Hcr::NPIE).with_eoi_count(3);
    assert_eq!(hcr.0, 0x1800_000F);
    assert_eq!(hcr.eoi_count(), 3);
    assert_eq!(hcr.with_eoi_count(0).0, 0xF);
    assert_eq!(Hcr::TC | Hcr::TALL0 | Hcr::TALL1 | Hcr::TDIR, 0x5C00);
    let vmcr = Vmcr(0xF04C_0002);
    assert!(vmcr.group1_enabled() && !vmcr.group0_enabled() && !vmcr.eoi_mode());
    assert_eq!(vmcr.priority_mask(), 0xF0);
    assert!(Vmcr(1 << 9).eoi_mode());
    assert!(Misr(0b1000).has(Misr::NP) && !Misr(0b1000).has(Misr::EOI | Misr::U | Misr::LRENP));
}

#[test]
fn state_that_was_saved_is_restored_and_the_switch_comes_last() {
    fake::set(Register::ICH_VTR_EL2, 0x90B8_0003);
    let mut state = IchState {
        hcr: Hcr(Hcr::EN),
        vmcr: Vmcr(0xFF00_0002),
        ..Default::default()
    };
    state.ap1r[0] = 1 << 16;
    state.lr[3] = ListRegister::new(40, 0x80, Group::One, State::Active, Source::Software);
    super::restore(&state);
    let writes = fake::take_writes();
    assert_eq!(writes.first(), Some(&(Register::ICH_HCR_EL2, 0)));
    assert_eq!(writes.last(), Some(&(Register::ICH_HCR_EL2, 1)));
    let mut seen = IchState::default();
    super::save(&mut seen);
    assert_eq!(seen, state);
}

#[test]
fn registers_that_are_undefined_are_not_touched() {
    fake::set(Register::ICH_VTR_EL2, 0x90B8_0003);
    super::restore(&IchState::default());
    let undefined = [
        Register::ICH_LR4_EL2,
        Register::ICH_AP0R1_EL2,
        Register::ICH_AP1R1_EL2,
    ];
    assert!(
        fake::take_writes()
            .iter()
            .all(|(register, _)| !undefined.contains(register))
    );
}

#[test]
fn a_guest_cannot_reach_the_memory_interface() {
    fake::set(Register::ICH_VTR_EL2, 0x90B8_0003);
    fake::set(Register::ICC_SRE_EL2, 0xF);
    super::init();
    let writes = fake::take_writes();
    assert!(writes.contains(&(Register::ICC_SRE_EL1, 7)));
    assert!(writes.contains(&(Register::ICC_SRE_EL2, 7)));
}
