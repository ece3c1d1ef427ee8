//! Any order of attachments at any PASID.

use std::collections::BTreeMap;

use super::{Own, STREAM, VA, device, map, pasids, reach, unmap};
use crate::vm::Vm;
use iommu::model::smmu::{Config, Denied};
use proptest::prelude::*;

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
