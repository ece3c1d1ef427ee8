//! Who goes through what is cached under each domain.
//!
//! What is cached of a first stage is told apart by domain and PASID (VT-d, 6.2.1), and forgotten by both (6.5.2.4): whoever
//! has it forgotten for a domain has to know the PASIDs.

use alloc::vec::Vec;

use crate::id::{CacheTag, DeviceId};
use crate::physical::IommuError;

/// One PASID of one device with a first stage.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) struct User {
    pub tag: CacheTag,
    pub pasid: u32,
    pub device: DeviceId,
}

/// All that have a first stage, in order.
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

    pub(super) fn remove(&mut self, user: User) {
        if let Ok(at) = self.0.binary_search(&user) {
            self.0.remove(at);
        }
    }

    /// The first PASID of a domain that comes after `last`.
    pub(super) fn next(&self, tag: CacheTag, last: Option<u32>) -> Option<u32> {
        let key = |user: &User| (user.tag, Some(user.pasid));
        let at = self.0.partition_point(|user| key(user) <= (tag, last));
        let found = self.0.get(at).filter(|user| user.tag == tag);
        found.map(|user| user.pasid)
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
        };
        for (tag, pasid, device) in [(2, 7, 1), (2, 0, 1), (2, 7, 0), (1, 3, 1), (3, 0, 1)] {
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
        assert_eq!(all(&users, 2), [0, 7]);
        assert_eq!(all(&users, 1), [3]);
        assert_eq!(all(&users, 4), []);
        users.remove(user(2, 7, 1));
        assert_eq!(all(&users, 2), [0, 7]);
        users.remove(user(2, 7, 0));
        users.remove(user(2, 7, 0));
        assert_eq!(all(&users, 2), [0]);
    }
}
