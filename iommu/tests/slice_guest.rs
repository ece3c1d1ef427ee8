//! What a guest builds on a slice, on the model: stages 1 of each granule, doorbells, and invalidations that stop half way;
//! and what the SMMU's driver refuses of slices and names, with its error.

mod vm;

use std::collections::BTreeMap;

use iommu::addr::{Hpa, Iova};
use iommu::id::DeviceId;
use iommu::model::smmu::{Config, Denied, Pace};
use iommu::object::driver::UserData;
use iommu::object::{Errno, Error};
use iommu::physical::IommuError;
use iommu::smmuv3::slice::{STAGE_ONE, VIOMMU};
use vm::{Driven, GUEST, PAGE, Space, Vm, says};

const STREAM: u32 = 0x108;
const NAME: u64 = 0x20;

/// A few numbers that look like none in particular (Numerical Recipes' constants).
struct Numbers(u64);

impl Numbers {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6364136223846793005)
            .wrapping_add(1442695040888963407);
        (self.0 >> 33) % bound
    }
}

#[test]
fn viommu_alloc_rows_of_the_driver() {
    let refused = |vm: &Vm, kind, bytes: &[u8]| {
        let driver = vm.iommus[0].driver();
        let slice = vm.parent.viommu(&driver, kind, UserData { kind: 0, bytes });
        slice.map(|slice| slice.id()).map_err(Error::errno)
    };
    let vm = Vm::one(Config::default());
    for kind in [0, VIOMMU + 1, 0xdead_beef] {
        assert_eq!(refused(&vm, kind, &[]), Err(Errno::EOPNOTSUPP), "{kind}");
    }
    assert_eq!(refused(&vm, VIOMMU, &[0]), Err(Errno::EINVAL), "no data");
    assert!(refused(&vm, VIOMMU, &[]).is_ok());
    let vm = Vm::one(Config {
        stage_one: false,
        ..Config::default()
    });
    assert_eq!(
        refused(&vm, VIOMMU, &[]),
        Err(Errno::EOPNOTSUPP),
        "no nesting"
    );
}

#[test]
fn vdevice_alloc_rows_of_the_driver() {
    let vm = Vm::one(Config::default());
    let slice = vm.slice(0);
    let streams = [DeviceId(STREAM + 1), DeviceId(STREAM + 2)];
    let two = vm.context.bind(&vm.iommus[0].info(&streams));
    let two = two.expect("bound");
    let refused = slice.vdevice(&two, NAME).map(|name| name.id());
    assert_eq!(refused, Err(Error::Unsupported(2)), "two streams");
    let device = vm.device(0, STREAM);
    let refused = slice.vdevice(&device, 1 << 32).map(|name| name.id());
    assert_eq!(refused, Err(Error::Invalid(1 << 32)), "no StreamID");
    assert_eq!(refused.map_err(Error::errno), Err(Errno::EINVAL));
    let name = slice.vdevice(&device, NAME).expect("named");
    let bytes = vm::bytes(vm::entry(GUEST, 21));
    let data = UserData {
        kind: STAGE_ONE,
        bytes: &bytes,
    };
    let illegal = slice.nested_from(data, None).map(|nested| nested.id());
    assert_eq!(illegal.map_err(Error::errno), Err(Errno::EIO), "ILLEGAL");
    drop(name);
}

#[test]
fn stages_1_of_each_granule_go_where_the_guest_sent_them() {
    for (granule, bits) in [
        (12, 39),
        (12, 48),
        (12, 32),
        (14, 36),
        (14, 47),
        (16, 42),
        (16, 48),
    ] {
        let vm = Vm::one(Config::default());
        let space = Space::new(&vm, granule, bits, 3);
        let mut numbers = Numbers(granule.into());
        let bytes = 1u64 << granule;
        // Tables for a few regions, pages all over them.
        let regions = [0, 1 << (bits - 1), (1 << bits) - (bytes << 6)];
        let mut pages = BTreeMap::new();
        for _ in 0..60 {
            let region = regions[numbers.below(3) as usize];
            let va = region + numbers.below(64) * bytes;
            let ipa = GUEST + numbers.below(0x80_0000 >> granule) * bytes;
            pages.insert(va, ipa);
            space.map(&vm, va, Some(ipa));
        }
        let driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
        for region in regions {
            for va in (region..region + (bytes << 6)).step_by(bytes as usize) {
                for offset in [0, bytes / 2 + 8, bytes - 4] {
                    let found = vm.reaches(0, STREAM, va + offset);
                    let expected = match pages.get(&va) {
                        Some(ipa) => Ok(ipa + offset),
                        None => Err(Denied::Fault {
                            number: 0x10,
                            stage_two: false,
                        }),
                    };
                    assert_eq!(found, expected, "{granule}, {bits}: {va:#x} + {offset:#x}");
                }
            }
        }
        // A range in the guest's own granule takes its pages, and no page after them.
        let (num, tg) = (31, u64::from(granule - 10) / 2);
        let middle = regions[0] + 32 * bytes;
        let after = pages.range(middle..middle + 32 * bytes).next();
        let (after, old) = after
            .map(|(va, ipa)| (*va, *ipa))
            .expect("sixty are enough");
        let before = *pages.range(..middle).next().expect("and here").0;
        for va in [before, after] {
            space.map(&vm, va, Some(GUEST));
        }
        let range = [says::vaa(0)[0] | num << 12, regions[0] | tg << 10 | 1];
        assert_eq!(driven.say(&[range]).complete, 1);
        assert_eq!(vm.reaches(0, STREAM, before), Ok(GUEST));
        assert_eq!(vm.reaches(0, STREAM, after), Ok(old));
        assert!(vm.model().refused().is_empty());
    }
}

#[test]
fn more_than_64_doorbell_pages_work() {
    let vm = Vm::one(Config::default());
    let window = 0x800_0000;
    let pages = 200;
    let last = Iova(window + pages * PAGE - 1);
    vm.ioas
        .set_message_window(Iova(window), last)
        .expect("free");
    let doorbell = |page: u64| Hpa(0x1_0000_0040 + page * 0x2_0000);
    let at: Vec<_> = (0..pages)
        .map(|page| vm.ioas.doorbell(doorbell(page)).expect("room").0)
        .collect();
    assert_eq!(vm.ioas.doorbell(doorbell(pages)), Err(Error::NoSpace));
    let space = Space::plain(&vm, 1);
    for (page, at) in at.iter().enumerate() {
        space.map(&vm, 0x10_0000 + page as u64 * PAGE, Some(at & !0xfff));
    }
    let _driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
    for page in 0..pages {
        let sent = vm.model().translate(STREAM, 0x10_0040 + page * PAGE, true);
        assert_eq!(sent, Ok(doorbell(page).0));
        let read = vm.model().translate(STREAM, 0x10_0040 + page * PAGE, false);
        assert!(read.is_err(), "messages are writes");
    }
}

fn driven(config: Config) -> (Vm, Driven) {
    let vm = Vm::one(config);
    let space = Space::plain(&vm, 1);
    let driven = Driven::new(&vm, 0, (STREAM, NAME), &space);
    (vm, driven)
}

#[test]
fn a_device_that_does_not_answer_stops_the_count_at_its_own_entry() {
    for at in [0, 1, 30, 62] {
        let vm = Vm::one(Config {
            ats: true,
            ..Config::default()
        });
        let space = Space::plain(&vm, 1);
        let driven = Driven::with(&vm, 0, (STREAM, NAME), &space, true);
        let mut commands = vec![says::asid(1); 63];
        commands[at] = says::atc(NAME, 0x5000, 0);
        // Once may be another's: it is asked again.
        vm.model().time_out_atc();
        assert_eq!(driven.say(&commands).complete, 63);
        vm.model().mute(STREAM, true);
        let progress = driven.say(&commands);
        let error = Error::Hardware(IommuError::DeviceTlb(DeviceId(STREAM)));
        assert_eq!((progress.complete, progress.result), (at, Err(error)));
        assert_eq!(driven.say(&commands[at..]).complete, 63 - at);
    }
}

#[test]
fn a_command_that_could_not_be_read_is_read_again_and_counted_once() {
    for pace in [Pace::AtOnce, Pace::Reads(2)] {
        let (vm, driven) = driven(Config {
            pace,
            ..Config::default()
        });
        for aborts in [1, 2, 3] {
            vm.model().commands();
            vm.model().abort_fetches(aborts);
            let progress = driven.say(&[says::asid(1); 5]);
            assert_eq!((progress.complete, progress.result), (5, Ok(())));
            let sent = vm.model().commands();
            let sent = sent.iter().filter(|it| it[0] as u8 == 0x11).count();
            assert_eq!(sent, 5);
        }
        vm.model().abort_fetches(u32::MAX);
        let progress = driven.say(&[says::asid(1); 5]);
        let error = Error::Hardware(IommuError::Command(2));
        assert_eq!((progress.complete, progress.result), (0, Err(error)));
    }
}

#[test]
fn an_smmu_that_is_gone_counts_nothing() {
    let (vm, driven) = driven(Config::default());
    vm.model().gone(true);
    let progress = driven.say(&[says::asid(1); 5]);
    assert_eq!(progress.complete, 0);
    assert_eq!(progress.result, Err(Error::Hardware(IommuError::Gone)));
}
