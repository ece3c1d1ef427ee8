//! Any order of maps, unmaps and attachments.

use super::{NAME, OTHER, STREAM, VA, ask, ats, device, map, unmap};
use crate::vm::{GUEST, PAGE, RAM, Space, Vm, bytes, entry};
use iommu::model::smmu::{Config, Initiator};
use iommu::object::driver::{HwptFlags, UserData};
use iommu::object::{Device, Error};
use iommu::smmuv3::slice::STAGE_ONE;
use proptest::prelude::*;

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
