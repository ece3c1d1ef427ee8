//! Devices that are trusted with ATS.

use super::*;

#[test]
fn ats_is_for_functions_that_have_it_and_no_guest_in_between() {
    let with = |ats: Option<bool>, viommu: bool, change: fn(&mut Machine)| {
        let mut facts = facts();
        for function in &mut facts.functions {
            function.ats = ats;
        }
        broken_on(&facts, |m| {
            m.partitions[0].viommu = viommu;
            m.partitions[0].devices = vec![device("00:01.0")];
            m.partitions[0].devices[0].ats = true;
            change(m);
        })
    };
    let at = |rule| vec![("partition[0].device[0].ats".to_string(), rule)];
    let same: fn(&mut Machine) = |_| {};
    assert_eq!(with(Some(true), false, same), []);
    // Not known on the host: the hypervisor looks again.
    assert_eq!(with(None, false, same), []);
    assert_eq!(with(Some(false), false, same), at(Rule::AtsNone));
    assert_eq!(with(Some(true), true, same), at(Rule::AtsBehindGuest));
    // 01:00.0 sends with the StreamID of 00:01.0, too.
    let beside: fn(&mut Machine) = |m| m.partitions[0].devices.push(device("01:00.0"));
    assert_eq!(with(Some(true), false, beside), at(Rule::AtsOfOne));
    let both: fn(&mut Machine) = |m| {
        m.partitions[0].devices.push(device("01:00.0"));
        m.partitions[0].devices[1].ats = true;
    };
    assert_eq!(with(Some(true), false, both), []);
}

#[test]
fn reserved_memory_is_for_functions_on_x86_without_a_unit_of_the_guests() {
    let with = |platform: Platform, address: &str, viommu: bool| {
        let mut facts = facts();
        facts.platform = platform;
        let all = broken_on(&facts, |m| {
            m.partitions[0].viommu = viommu;
            m.partitions[0].devices = vec![device(address)];
            m.partitions[0].devices[0].reserved_memory = true;
        });
        let at = "partition[0].device[0].reserved_memory";
        all.iter()
            .any(|(path, rule)| path == at && *rule == Rule::ReservedMemory)
    };
    assert!(!with(Platform::X86_64, "00:01.0", false));
    assert!(with(Platform::X86_64, "00:01.0", true));
    assert!(with(Platform::Aarch64, "00:01.0", false));
    assert!(with(Platform::X86_64, "/uart@0", false));
}
