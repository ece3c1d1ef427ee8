//! Devices that cache translations (ATS), on a model SMMU that is strict and whose devices ask again at once: what is gone
//! has left their caches too, a device that does not answer is the only one that suffers, and nobody has it who is not
//! trusted with it.

mod vm;

use iommu::addr::{Iova, Span};
use iommu::id::DeviceId;
use iommu::model::smmu::{Config, Denied, Initiator};
use iommu::object::driver::{Access, DeviceInfo, HwptFlags, UserData};
use iommu::object::{Device, Error, Item, Record};
use iommu::physical::IommuError;
use iommu::smmuv3::slice::STAGE_ONE;
use proptest::prelude::*;
use vm::{GUEST, PAGE, Piece, RAM, Space, Vm, bytes, entry, nested, say, says};

const STREAM: u32 = 0x108;
const OTHER: u32 = 0x110;
const NAME: u64 = 0x20;
const VA: u64 = 0x1000;
/// STE.EATS = 1, in word 1 (IHI 0070, §5.2).
const EATS: u64 = 1 << 28;
/// F_BAD_ATS_TREQ and F_TRANSL_FORBIDDEN.
const NO_REQUEST: Result<u64, Denied> = Err(fault(0x05));
const NO_TRANSLATED: Result<(), Denied> = Err(fault(0x07));

const fn fault(number: u8) -> Denied {
    Denied::Fault {
        number,
        stage_two: false,
    }
}

fn ats() -> Config {
    Config {
        ats: true,
        substream_bits: 8,
        ..Config::default()
    }
}

fn device(vm: &Vm, stream: u32, ats: bool) -> Device {
    let streams = [DeviceId(stream)];
    let info = DeviceInfo {
        pasid_bits: 8,
        ats,
        ..vm.iommus[0].info(&streams)
    };
    vm.context.bind(&info).expect("bound")
}

/// What a device has, or is told now.
fn ask(vm: &Vm, from: impl Into<Initiator>, iova: u64) -> Result<u64, Denied> {
    vm.model().ats_translate(from, iova, true)
}

/// A write to what it has.
fn write(vm: &Vm, stream: u32, address: u64) -> Result<(), Denied> {
    vm.model().translated_write(stream, address, &[0x5a; 8])
}

fn unmap(vm: &Vm, at: u64, len: u64) {
    let range = Span::<Iova>::new(Iova(at), len).expect("no wrap");
    vm.ioas.unmap(range).expect("unmapped");
}

fn map(vm: &Vm, at: u64, page: u64) {
    let memory = std::sync::Arc::new(Piece(page, PAGE));
    let access = Access::READ | Access::WRITE;
    vm.ioas
        .map(Iova(at), memory, 0, PAGE, access)
        .expect("mapped");
}

fn contained(vm: &Vm) -> Vec<(u32, Error)> {
    let records = std::iter::from_fn(|| vm.context.record());
    records
        .filter_map(|item| match item {
            Item::Record {
                record: Record::Contained { device, error },
                ..
            } => Some((device, error)),
            _ => None,
        })
        .collect()
}

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
fn what_leaves_a_table_leaves_the_device_after_the_tlbs() {
    for range_invalidation in [true, false] {
        let vm = Vm::one(Config {
            range_invalidation,
            ..ats()
        });
        let device = device(&vm, STREAM, true);
        device.attach(0, &vm.parent).expect("attached");
        assert_eq!(ask(&vm, STREAM, GUEST + 8), Ok(RAM + 8));
        assert_eq!(write(&vm, STREAM, RAM + 8), Ok(()));
        map(&vm, 0x1000_0000, RAM + 5 * PAGE);
        assert_eq!(ask(&vm, STREAM, 0x1000_0000), Ok(RAM + 5 * PAGE));
        vm.model().commands();
        unmap(&vm, 0x1000_0000, PAGE);
        let told = vm.model().commands();
        let codes: Vec<_> = told.iter().map(|it| it[0] as u8).collect();
        assert_eq!(codes, [0x2a, 0x46, 0x40, 0x46]);
        // One page, of what has no PASID.
        assert_eq!(told[2], [0x40 | u64::from(STREAM) << 32, 0x1000_0000]);
        assert!(ask(&vm, STREAM, 0x1000_0000).is_err());
        assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM), "it has kept the rest");
    }
}

#[test]
fn who_is_not_trusted_is_refused_and_costs_no_command() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, false);
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), NO_REQUEST);
    assert_eq!(write(&vm, STREAM, RAM), NO_TRANSLATED);
    assert_eq!(vm.model().translate(STREAM, GUEST, true), Ok(RAM));
    map(&vm, 0x1000_0000, RAM);
    vm.model().commands();
    unmap(&vm, 0x1000_0000, PAGE);
    device.detach(0).expect("detached");
    let told = vm.model().commands();
    assert!(!told.iter().any(|it| it[0] as u8 == 0x40), "{told:x?}");
    // Nor is one that shares the other's stream.
    let info = DeviceInfo {
        ats: true,
        group: STREAM,
        ..vm.iommus[0].info(&[DeviceId(STREAM)])
    };
    let shared = vm.context.bind(&info).map(|it| it.id());
    assert_eq!(shared, Err(Error::Incompatible));
}

#[test]
fn an_attachment_starts_and_ends_with_an_empty_cache() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, true);
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM));
    // Another table in place of this one.
    let other = vm.context.ioas().expect("memory");
    let memory = std::sync::Arc::new(Piece(RAM + 7 * PAGE, PAGE));
    let access = Access::READ | Access::WRITE;
    other
        .map(Iova(GUEST), memory, 0, PAGE, access)
        .expect("mapped");
    let hwpt = other
        .paging(&vm.iommus[0].driver(), HwptFlags::empty(), None)
        .expect("a table");
    device.replace(0, &hwpt).expect("replaced");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM + 7 * PAGE));
    // What it has is worth nothing once it is detached.
    device.detach(0).expect("detached");
    assert_eq!(write(&vm, STREAM, RAM + 7 * PAGE), NO_TRANSLATED);
    device.attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM));
    vm.model().commands();
    device.silence().expect("silent");
    assert!(write(&vm, STREAM, RAM).is_err());
    let told = vm.model().commands();
    let codes: Vec<_> = told.iter().map(|it| it[0] as u8).collect();
    assert_eq!(codes[codes.len() - 3..], [0x40, 0x40, 0x46]);
}

#[test]
fn pasids_of_the_hosts_are_told_one_by_one() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, true);
    let driver = vm.iommus[0].driver();
    let spaces = [1, 2].map(|page| {
        let ioas = vm.context.ioas().expect("memory");
        let memory = std::sync::Arc::new(Piece(RAM + page * PAGE, PAGE));
        let access = Access::READ | Access::WRITE;
        ioas.map(Iova(VA), memory, 0, PAGE, access).expect("mapped");
        let hwpt = ioas.paging(&driver, HwptFlags::PASID, None);
        (ioas, hwpt.expect("a table"))
    });
    let with = |pasid| Initiator::from(STREAM).with_substream(pasid);
    device.attach(1, &spaces[0].1).expect("attached");
    device.attach(2, &spaces[1].1).expect("attached");
    device.attach(0, &spaces[1].1).expect("attached");
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM + PAGE));
    assert_eq!(ask(&vm, with(2), VA), Ok(RAM + 2 * PAGE));
    assert_eq!(ask(&vm, STREAM, VA), Ok(RAM + 2 * PAGE));
    vm.model().commands();
    spaces[1].0.unmap_all().expect("unmapped");
    let told = vm.model().commands();
    let told: Vec<_> = told.iter().filter(|it| it[0] as u8 == 0x40).collect();
    let stream = u64::from(STREAM) << 32;
    assert_eq!(told.len(), 2);
    assert_eq!(told[0][0], 0x40 | stream);
    assert_eq!(told[1][0], 0x40 | stream | 1 << 11 | 2 << 12);
    assert!(ask(&vm, with(2), VA).is_err() && ask(&vm, STREAM, VA).is_err());
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM + PAGE));
    // A table in place of another, and none.
    device.replace(1, &spaces[1].1).expect("replaced");
    assert!(ask(&vm, with(1), VA).is_err());
    device.replace(1, &spaces[0].1).expect("replaced");
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM + PAGE));
    device.detach(1).expect("detached");
    assert!(ask(&vm, with(1), VA).is_err());
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
fn a_device_that_does_not_answer_is_refused_and_the_others_do_not_notice() {
    let vm = Vm::one(ats());
    let devices = [STREAM, OTHER].map(|stream| device(&vm, stream, true));
    for (device, stream) in devices.iter().zip([STREAM, OTHER]) {
        device.attach(0, &vm.parent).expect("attached");
        assert_eq!(ask(&vm, stream, GUEST), Ok(RAM));
    }
    map(&vm, 0x1000_0000, RAM);
    vm.model().mute(STREAM, true);
    // The unmapping is complete: the one who does not forget reaches nothing.
    unmap(&vm, 0x1000_0000, PAGE);
    assert_eq!(write(&vm, STREAM, RAM), NO_TRANSLATED);
    assert_eq!(
        vm.model().translate(STREAM, GUEST, true),
        Err(Denied::StreamAbort)
    );
    assert_eq!(ask(&vm, OTHER, GUEST), Ok(RAM));
    assert_eq!(write(&vm, OTHER, RAM), Ok(()));
    let why = Error::Hardware(IommuError::DeviceTlb(DeviceId(STREAM)));
    assert_eq!(contained(&vm), [(devices[0].id(), why)]);
    assert_eq!(contained(&vm), []);
    // Its owner may take it back, once it answers.
    devices[0].detach(0).expect("detached");
    let refused = devices[0].attach(0, &vm.parent);
    assert_eq!(refused, Err(why));
    assert!(write(&vm, STREAM, RAM).is_err());
    vm.model().mute(STREAM, false);
    devices[0].attach(0, &vm.parent).expect("attached");
    assert_eq!(ask(&vm, STREAM, GUEST), Ok(RAM));
    // Detaching one that does not answer is no error: it reaches nothing.
    vm.model().mute(STREAM, true);
    devices[0].detach(0).expect("detached");
    assert!(write(&vm, STREAM, RAM).is_err());
}

#[test]
fn a_pasid_that_a_device_does_not_forget_ends_the_device() {
    let vm = Vm::one(ats());
    let device = device(&vm, STREAM, true);
    let ioas = vm.context.ioas().expect("memory");
    let memory = std::sync::Arc::new(Piece(RAM, PAGE));
    let access = Access::READ | Access::WRITE;
    ioas.map(Iova(VA), memory, 0, PAGE, access).expect("mapped");
    let hwpt = ioas.paging(&vm.iommus[0].driver(), HwptFlags::PASID, None);
    let hwpt = hwpt.expect("a table");
    device.attach(1, &hwpt).expect("attached");
    device.attach(2, &hwpt).expect("attached");
    let with = |pasid| Initiator::from(STREAM).with_substream(pasid);
    assert_eq!(ask(&vm, with(1), VA), Ok(RAM));
    vm.model().mute(STREAM, true);
    device.detach(1).expect("refused, with everything else");
    for pasid in [1, 2] {
        let refused = vm.model().translated_write(with(pasid), RAM, &[0]);
        assert_eq!(refused, NO_TRANSLATED);
        assert!(vm.model().translate(with(pasid), VA, true).is_err());
    }
    let why = Error::Hardware(IommuError::DeviceTlb(DeviceId(STREAM)));
    assert_eq!(contained(&vm), [(device.id(), why)]);
    drop(device);
    // A mapping change meets nobody any more.
    ioas.unmap_all().expect("unmapped");
}

#[test]
fn what_a_device_did_not_forget_is_not_held_against_its_next_owner() {
    let vm = Vm::one(ats());
    let driver = vm.iommus[0].driver();
    let ioas = vm.context.ioas().expect("memory");
    let access = Access::READ | Access::WRITE;
    let page = || std::sync::Arc::new(Piece(RAM, PAGE));
    ioas.map(Iova(VA), page(), 0, PAGE, access).expect("mapped");
    let hwpt = ioas.paging(&driver, HwptFlags::PASID, None);
    let hwpt = hwpt.expect("a table");
    let with = Initiator::from(STREAM).with_substream(1);
    let first = device(&vm, STREAM, true);
    first.attach(1, &hwpt).expect("attached");
    assert_eq!(ask(&vm, with, VA), Ok(RAM));
    vm.model().mute(STREAM, true);
    ioas.unmap_all().expect("unmapped");
    drop(first);
    vm.model().mute(STREAM, false);
    ioas.map(Iova(VA), page(), 0, PAGE, access).expect("mapped");
    let next = device(&vm, STREAM, true);
    next.attach(1, &hwpt).expect("attached");
    assert_eq!(vm.model().translate(with, VA, true), Ok(RAM));
    assert_eq!(contained(&vm).len(), 1, "the first one's");
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

#[derive(Clone, Copy, Debug)]
enum Step {
    /// Whatever a guest writes in its entry: Config, EATS, S1DSS.
    Entry(usize, u64, u64),
    Parent(usize),
    Own(usize, u32),
    Detach(usize, u32),
    Silence(usize),
    Map,
    Unmap,
    Mute(usize, bool),
}

fn step() -> impl Strategy<Value = Step> {
    let who = 0..2usize;
    prop_oneof![
        4 => (who.clone(), prop_oneof![Just(0u64), Just(4), Just(5)], 0..4u64)
            .prop_map(|(who, config, eats)| Step::Entry(who, config, eats)),
        2 => who.clone().prop_map(Step::Parent),
        2 => (who.clone(), 0..3u32).prop_map(|(who, pasid)| Step::Own(who, pasid)),
        3 => (who.clone(), 0..3u32).prop_map(|(who, pasid)| Step::Detach(who, pasid)),
        1 => who.clone().prop_map(Step::Silence),
        2 => Just(Step::Map),
        2 => Just(Step::Unmap),
        1 => (who, any::<bool>()).prop_map(|(who, mute)| Step::Mute(who, mute)),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 128, failure_persistence: None, ..ProptestConfig::default() })]

    /// I4: whatever is attached and whatever guests write, STE.EATS of a device that is not trusted is never set, and no
    /// transaction of any device that says to be translated lands where nothing is mapped.
    #[test]
    fn eats_is_never_set_for_a_device_that_is_not_trusted(
        steps in proptest::collection::vec(step(), 1..40),
        coherent: bool,
    ) {
        const STREAMS: [u32; 2] = [STREAM, OTHER];
        const EXTRA: u64 = 0x1000_0000;
        let vm = Vm::one(Config { coherent, torn_fetches: true, ..ats() });
        let page = RAM + 9 * PAGE;
        let space = Space::plain(&vm, 1);
        space.map(&vm, VA, Some(EXTRA));
        let contexts = vm.take(64);
        space.place(&vm, contexts);
        let slice = vm.slice(0);
        let own = vm.ioas.paging(&vm.iommus[0].driver(), HwptFlags::PASID, None).expect("a table");
        // The first is trusted, the second is not.
        let devices = [0, 1].map(|at| device(&vm, STREAMS[at], at == 0));
        let names = [0, 1].map(|at| slice.vdevice(&devices[at], NAME + at as u64).expect("named"));
        let mut nesteds = Vec::new();
        let mut mapped = false;
        let put = |device: &Device, to: &iommu::object::HwptNested| match device.replace(0, to) {
            Err(Error::NotAttached(_)) => device.attach(0, to).is_ok(),
            result => result.is_ok(),
        };
        for step in steps {
            match step {
                Step::Entry(who, config, eats) => {
                    let mut words = entry(contexts, 0);
                    words[0] = words[0] & !(7 << 1) | config << 1;
                    words[1] |= eats << 28;
                    let data = bytes(words);
                    let data = UserData { kind: STAGE_ONE, bytes: &data };
                    if let Ok(nested) = slice.nested_from(data, None) {
                        put(&devices[who], &nested);
                        nesteds.push(nested);
                    }
                }
                Step::Parent(who) => {
                    let _ = devices[who].attach(0, &vm.parent);
                }
                Step::Own(who, pasid) => {
                    let _ = devices[who].attach(pasid, &own);
                }
                Step::Detach(who, pasid) => devices[who].detach(pasid).expect("detached"),
                Step::Silence(who) => devices[who].silence().expect("silent"),
                Step::Map if !mapped => {
                    map(&vm, EXTRA, page);
                    mapped = true;
                }
                Step::Unmap if mapped => {
                    unmap(&vm, EXTRA, PAGE);
                    mapped = false;
                }
                Step::Map | Step::Unmap => {}
                Step::Mute(who, mute) => vm.model().mute(STREAMS[who], mute),
            }
            for (at, stream) in STREAMS.iter().enumerate() {
                for pasid in [None, Some(1), Some(2)] {
                    let from = Initiator { substream: pasid, ..Initiator::from(*stream) };
                    for iova in [VA, EXTRA, GUEST] {
                        let told = ask(&vm, from, iova);
                        let forbidden = vm.model().translated_write(from, page, &[1]);
                        if at == 1 {
                            prop_assert!(told.is_err());
                            prop_assert!(forbidden.is_err());
                        }
                        // What it has, it may use; and that is never what is gone.
                        if let (Ok(at), Ok(())) = (told, forbidden) {
                            prop_assert!(mapped || at & !0xfff != page);
                        }
                    }
                }
            }
        }
        prop_assert_eq!(vm.model().violations(), []);
        drop(devices);
        drop(names);
    }
}
