//! Rules on virtual functions (VFs) and the physical ones that have them.

use super::super::{DeviceAddress, Key, Machine, MachineFacts, Path, Rule};
use super::Problems;
use super::given::Given;

/// What each function can have. Which VFs there are then is a fact like that of any other function.
pub fn functions(machine: &Machine, facts: &MachineFacts, out: &mut Problems) {
    let all = &machine.machine.sriov;
    for (i, sriov) in all.iter().enumerate() {
        let at = Path::ROOT.key(Key::Machine).key(Key::Sriov).index(i);
        let address = at.key(Key::Address);
        if let Some(first) = all[..i].iter().position(|it| it.address == sriov.address) {
            let other = Path::ROOT.key(Key::Machine).key(Key::Sriov).index(first);
            out.add_two(Rule::SriovTwice, address, Some(other.key(Key::Address)));
            continue;
        }
        let total = facts.function(&sriov.address).map(|it| it.vfs);
        let vfs = sriov.vfs;
        match total {
            None => out.add(Rule::DeviceUnknown, address),
            Some(0) => out.add(Rule::SriovUnknown, address),
            Some(_) if vfs == 0 => out.add(Rule::SriovNone, at.key(Key::Vfs)),
            Some(total) if vfs > total => {
                out.add(Rule::SriovTooMany { vfs, total }, at.key(Key::Vfs));
            }
            Some(_) => {}
        }
    }
}

/// Whoever has a physical function has power over its VFs: where another partition has one of them, it says that it
/// serves it.
pub fn managers(given: &[Given<'_>], machine: &Machine, out: &mut Problems) {
    for one in given {
        let address = &one.device.address;
        let mut all = machine.machine.sriov.iter();
        if one.device.manages_vfs && !all.any(|it| DeviceAddress::Pci(it.address) == *address) {
            out.add(Rule::SriovManagesNone, one.at.key(Key::ManagesVfs));
        }
        let Some(physical) = one.function.and_then(|it| it.physical) else {
            continue;
        };
        let has = |it: &&Given<'_>| it.function.is_some_and(|it| it.address == physical);
        if let Some(owner) = given.iter().find(has)
            && owner.partition != one.partition
            && !owner.device.manages_vfs
        {
            let rule = Rule::SriovManaged { physical };
            out.add_two(rule, one.address(), Some(owner.address()));
        }
    }
}
