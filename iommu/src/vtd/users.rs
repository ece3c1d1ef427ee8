//! Who goes through what is cached under each domain.
//!
//! What is cached of a first stage is told apart by domain and PASID (VT-d, 6.2.1), and forgotten by both (6.5.2.4): whoever
//! has it forgotten for a domain has to know the PASIDs. What a device has cached itself is forgotten by source and PASID.

use alloc::vec::Vec;

use crate::id::{CacheTag, DeviceId};
use crate::physical::IommuError;

/// One PASID of one device.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct User {
    pub tag: CacheTag,
    pub pasid: u32,
    pub device: DeviceId,
    /// There is a first stage.
    pub first: bool,
    /// The device may cache what it is told.
    pub ats: bool,
}

/// All that have a first stage, or a device TLB, in order.
#[derive(Default)]
pub(super) struct Users(Vec<User>);

impl Users {
    /// # Errors
    /// [`IommuError::OutOfMemory`].
    pub(super) fn add(&mut self, user: User) -> Result<(), IommuError> {
        if let Err(at) = self.0.binary_search(&user) {
            let room = self.0.try_reserve(1);
            room.map_err(|_| IommuError::OutOfMemory)?;
            self.0.insert(at, user);
        }
        Ok(())
    }

    /// A device has nothing at a PASID any more but what `kept` says.
    pub(super) fn retain(&mut self, device: DeviceId, pasid: u32, kept: Option<User>) {
        self.0
            .retain(|user| (user.device, user.pasid) != (device, pasid) || Some(*user) == kept);
    }

    /// Whether a device may cache anything.
    pub(super) fn caches(&self, device: DeviceId) -> bool {
        self.0.iter().any(|user| user.device == device && user.ats)
    }

    /// Those of a domain.
    fn of(&self, tag: CacheTag) -> impl Iterator<Item = &User> {
        let at = self.0.partition_point(|user| user.tag < tag);
        self.0[at..].iter().take_while(move |user| user.tag == tag)
    }

    /// The first PASID of a domain's first stages that comes after `last`.
    pub(super) fn next(&self, tag: CacheTag, last: Option<u32>) -> Option<u32> {
        let mut of = self.of(tag).filter(|user| user.first);
        let found = of.find(|user| last.is_none_or(|last| user.pasid > last));
        found.map(|user| user.pasid)
    }

    /// The first of a domain's devices with a TLB that comes after `last`.
    pub(super) fn next_caching(&self, tag: CacheTag, last: Option<User>) -> Option<User> {
        let mut of = self.of(tag).filter(|user| user.ats);
        let found = of.find(|user| last.is_none_or(|last| **user > last));
        found.copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_pasids_of_a_domain_come_once_each_and_in_order() {
        let mut users = Users::default();
        let user = |tag, pasid, device| User {
            tag: CacheTag(tag),
            pasid,
            device: DeviceId(device),
            first: pasid != 9,
            ats: device == 1,
        };
        let list = [
            (2, 7, 1),
            (2, 0, 1),
            (2, 7, 0),
            (1, 3, 1),
            (3, 0, 1),
            (2, 9, 1),
        ];
        for (tag, pasid, device) in list {
            users.add(user(tag, pasid, device)).unwrap();
            users.add(user(tag, pasid, device)).unwrap();
        }
        let all = |users: &Users, tag| {
            let mut last = None;
            let mut all = Vec::new();
            while let Some(pasid) = users.next(CacheTag(tag), last) {
                all.push(pasid);
                last = Some(pasid);
            }
            all
        };
        let caching = |users: &Users, tag| {
            let mut last = None;
            let mut all = Vec::new();
            while let Some(user) = users.next_caching(CacheTag(tag), last) {
                all.push((user.pasid, user.device.0));
                last = Some(user);
            }
            all
        };
        assert_eq!(all(&users, 2), [0, 7]);
        assert_eq!(all(&users, 1), [3]);
        assert_eq!(all(&users, 4), []);
        assert_eq!(caching(&users, 2), [(0, 1), (7, 1), (9, 1)]);
        users.retain(DeviceId(1), 7, None);
        assert_eq!(all(&users, 2), [0, 7]);
        assert_eq!(caching(&users, 2), [(0, 1), (9, 1)]);
        users.retain(DeviceId(0), 7, Some(user(2, 7, 0)));
        assert_eq!(all(&users, 2), [0, 7]);
        users.retain(DeviceId(0), 7, None);
        assert_eq!(all(&users, 2), [0]);
    }
}
