//! Rules on devices that are trusted with address translation services (ATS).

use super::super::{Key, Path, Rule};
use super::Problems;
use super::given::Given;

/// What each of them has, and who shares a stream with it.
pub fn trusted(given: &[Given<'_>], out: &mut Problems) {
    for one in given.iter().filter(|it| it.device.ats) {
        let at = one.at.key(Key::Ats);
        if one.is_node() || one.function.is_some_and(|it| it.ats == Some(false)) {
            out.add(Rule::AtsNone, at);
        } else if one.owner.viommu {
            let viommu = Path::partition(one.partition).key(Key::Viommu);
            out.add_two(Rule::AtsBehindGuest, at, Some(viommu));
        }
        let shares = |other: &&Given<'_>| {
            other.partition == one.partition && !other.device.ats && one.common(other).is_some()
        };
        if let Some(other) = given.iter().find(shares) {
            out.add_two(Rule::AtsOfOne, at, Some(other.address()));
        }
    }
}
