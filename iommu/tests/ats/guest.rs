//! Stages 1 of a guest: it tells its devices itself.

use super::{
    EATS, NAME, NO_REQUEST, NO_TRANSLATED, OTHER, STREAM, VA, ask, ats, contained, device, write,
};
use crate::vm::{GUEST, PAGE, RAM, Space, Vm, entry, nested, say, says};
use iommu::id::DeviceId;
use iommu::object::{Device, Error};
use iommu::physical::IommuError;

/// A guest's stream with one page at `VA`, and ATS if `eats`.
struct Guest {
    space: Space,
    slice: iommu::object::Viommu,
    device: Device,
    _nested: iommu::object::HwptNested,
    _vdevice: iommu::object::Vdevice,
}

impl Guest {
    fn new(vm: &Vm, stream: u32, name: u64, trusted: bool, eats: bool) -> Self {
        let space = Space::plain(vm, name as u16);
        space.map(vm, VA, Some(GUEST + PAGE));
        let contexts = vm.take(64);
        space.place(vm, contexts);
        let slice = vm.slice(0);
        let device = device(vm, stream, trusted);
        let _vdevice = slice.vdevice(&device, name).expect("named");
        let mut words = entry(contexts, 0);
        words[1] |= if eats { EATS } else { 0 };
        let _nested = nested(&slice, words, None);
        device.attach(0, &_nested).expect("attached");
        Self {
            space,
            slice,
            device,
            _nested,
            _vdevice,
        }
    }
}

#[test]
fn a_guest_tells_its_devices_itself_and_the_host_of_what_the_guest_cannot_know() {
    let vm = Vm::one(ats());
    let guest = Guest::new(&vm, STREAM, NAME, true, true);
    assert_eq!(ask(&vm, STREAM, VA), Ok(RAM + PAGE));
    // The guest's own: TLBI and CMD_ATC_INV in one batch, without a CMD_SYNC of its own in between.
    guest.space.map(&vm, VA, None);
    vm.model().commands();
    let commands = [says::va(NAME, VA), says::atc(NAME, VA, 0)];
    assert_eq!(say(&guest.slice, &commands).complete, 2);
    let told = vm.model().commands();
    let codes: Vec<_> = told.iter().map(|it| it[0] as u8).collect();
    assert_eq!(codes, [0x12, 0x46, 0x40, 0x46]);
    assert!(ask(&vm, STREAM, VA).is_err());
    // The nest parent's: all of the device, PASIDs too, as the guest's addresses are not known.
    guest.space.map(&vm, VA, Some(GUEST + PAGE));
    assert_eq!(ask(&vm, STREAM, VA), Ok(RAM + PAGE));
    vm.model().commands();
    vm.ioas.unmap_all().expect("unmapped");
    let told = vm.model().commands();
    let codes: Vec<_> = told.iter().map(|it| it[0] as u8).collect();
    let at = codes.iter().position(|it| *it == 0x40).expect("told");
    assert_eq!(codes[at - 3..], [0x46, 0x10, 0x46, 0x40, 0x40, 0x46]);
    assert_eq!([told[at][1], told[at + 1][1]], [52, 52]);
    assert_eq!(told[at + 1][0] >> 9 & 7, 5, "SSV and Global");
    assert!(ask(&vm, STREAM, VA).is_err());
}

#[test]
fn a_guest_whose_entry_has_no_ats_or_that_bypasses_has_none() {
    let vm = Vm::one(ats());
    let guest = Guest::new(&vm, STREAM, NAME, true, false);
    assert_eq!(ask(&vm, STREAM, VA), NO_REQUEST);
    assert_eq!(write(&vm, STREAM, RAM), NO_TRANSLATED);
    // Its CMD_ATC_INV is complete without being sent.
    vm.model().commands();
    assert_eq!(say(&guest.slice, &[says::atc(NAME, VA, 0)]).complete, 1);
    let told = vm.model().commands();
    assert!(told.iter().all(|it| it[0] as u8 == 0x46));
    let bypass = nested(&guest.slice, [1 | 0b100 << 1, EATS], None);
    guest.device.replace(0, &bypass).expect("replaced");
    assert_eq!(ask(&vm, STREAM, GUEST), NO_REQUEST);
    guest.device.detach(0).expect("detached");
}

#[test]
fn a_guests_silent_device_is_its_own_affair() {
    let vm = Vm::one(ats());
    let silent = Guest::new(&vm, STREAM, NAME, true, true);
    let sound = Guest::new(&vm, OTHER, NAME + 1, true, true);
    assert_eq!(ask(&vm, STREAM, VA), Ok(RAM + PAGE));
    assert_eq!(ask(&vm, OTHER, VA), Ok(RAM + PAGE));
    vm.model().mute(STREAM, true);
    let commands = [says::va(NAME, VA), says::atc(NAME, VA, 0), says::NH_ALL];
    let progress = say(&silent.slice, &commands);
    let why = Error::Hardware(IommuError::DeviceTlb(DeviceId(STREAM)));
    assert_eq!((progress.complete, progress.result), (1, Err(why)));
    assert_eq!(write(&vm, STREAM, RAM + PAGE), NO_TRANSLATED);
    assert_eq!(contained(&vm), [(silent.device.id(), why)]);
    // It may say it again: there is nobody to ask.
    assert_eq!(say(&silent.slice, &commands).complete, 3);
    let commands = [says::va(NAME + 1, VA), says::atc(NAME + 1, VA, 0)];
    assert_eq!(say(&sound.slice, &commands).complete, 2);
    assert_eq!(ask(&vm, OTHER, VA), Ok(RAM + PAGE));
    // A time-out that was another's costs a second try.
    vm.model().time_out_atc();
    assert_eq!(say(&sound.slice, &commands).complete, 2);
}
