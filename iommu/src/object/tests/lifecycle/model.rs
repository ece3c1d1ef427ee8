//! Who refers to whom, and what each operation answers by that.

use alloc::collections::{BTreeMap, BTreeSet};
use alloc::vec::Vec;

use super::super::super::Errno;
use super::{DEVICES, Op, iommu_of};

/// What an ID names, by whom it refers to.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Thing {
    Ioas(BTreeSet<u64>),
    Paging {
        ioas: u32,
        nest: bool,
        auto: bool,
    },
    Nested(u32),
    Viommu {
        parent: u32,
        iommu: usize,
    },
    Vdevice {
        viommu: u32,
        device: usize,
        virt_id: u64,
    },
    Veventq(u32),
    Device,
    Tombstone,
}

#[derive(Default)]
pub(super) struct Model {
    pub(super) things: BTreeMap<u32, Thing>,
    pub(super) bound: [Option<u32>; DEVICES],
    pub(super) attached: [Option<u32>; DEVICES],
}

pub(super) type Answer = Result<u32, Errno>;

impl Model {
    fn add(&mut self, thing: Thing) -> Answer {
        let id = (1..).find(|id| !self.things.contains_key(id)).unwrap();
        self.things.insert(id, thing);
        Ok(id)
    }

    fn referred(&self, id: u32) -> bool {
        let by_thing = |thing: &Thing| match thing {
            Thing::Paging { ioas: to, .. }
            | Thing::Nested(to)
            | Thing::Viommu { parent: to, .. }
            | Thing::Vdevice { viommu: to, .. }
            | Thing::Veventq(to) => *to == id,
            _ => false,
        };
        self.attached.contains(&Some(id)) || self.things.values().any(by_thing)
    }

    fn device(&self, device: usize) -> Result<u32, Errno> {
        self.bound[device].ok_or(Errno::ENOENT)
    }

    fn viommu(&self, id: u32) -> Result<usize, Errno> {
        match self.things.get(&id) {
            Some(Thing::Viommu { iommu, .. }) => Ok(*iommu),
            _ => Err(Errno::ENOENT),
        }
    }

    /// An automatic table that nothing is attached to is not there.
    fn sweep(&mut self) {
        let gone = |(id, thing): (&u32, &Thing)| {
            let auto = matches!(thing, Thing::Paging { auto: true, .. });
            (auto && !self.attached.contains(&Some(*id))).then_some(*id)
        };
        let gone: Vec<_> = self.things.iter().filter_map(gone).collect();
        for id in gone {
            self.things.remove(&id);
        }
    }

    fn attach(&mut self, device: usize, pt: u32) -> Answer {
        self.device(device)?;
        let to = match self.things.get(&pt) {
            None | Some(Thing::Tombstone) => return Err(Errno::ENOENT),
            Some(Thing::Paging { .. }) => pt,
            Some(Thing::Nested(viommu)) => {
                if self.viommu(*viommu)? != iommu_of(device) && self.attached[device] != Some(pt) {
                    return Err(Errno::EINVAL);
                }
                let named = |thing: &Thing| matches!(thing, Thing::Vdevice { viommu: it, device: of, .. } if it == viommu && *of == device);
                // One that is there already is not looked at again.
                if self.attached[device] != Some(pt) && !self.things.values().any(named) {
                    return Err(Errno::ENOENT);
                }
                pt
            }
            Some(Thing::Ioas(_)) => {
                let auto = self.things.iter().find(|(_, thing)| {
                    matches!(thing, Thing::Paging { ioas, auto: true, .. } if *ioas == pt)
                });
                match auto {
                    Some((id, _)) => *id,
                    None => self.add(Thing::Paging {
                        ioas: pt,
                        nest: false,
                        auto: true,
                    })?,
                }
            }
            Some(_) => return Err(Errno::EINVAL),
        };
        self.attached[device] = Some(to);
        self.sweep();
        Ok(to)
    }

    fn detach(&mut self, device: usize) {
        self.attached[device] = None;
        self.sweep();
    }

    fn toggle(&mut self, device: usize) -> Answer {
        let Some(id) = self.bound[device].take() else {
            let id = self.add(Thing::Device)?;
            self.bound[device] = Some(id);
            return Ok(id);
        };
        self.detach(device);
        for thing in self.things.values_mut() {
            if matches!(thing, Thing::Vdevice { device: of, .. } if *of == device) {
                *thing = Thing::Tombstone;
            }
        }
        self.things.remove(&id);
        Ok(0)
    }

    fn hwpt(&mut self, pt: u32, device: usize, nest: bool) -> Answer {
        self.device(device)?;
        match self.things.get(&pt) {
            Some(Thing::Ioas(_)) => self.add(Thing::Paging {
                ioas: pt,
                nest,
                auto: false,
            }),
            // No data.
            Some(Thing::Paging { .. } | Thing::Viommu { .. }) => Err(Errno::EOPNOTSUPP),
            _ => Err(Errno::EINVAL),
        }
    }

    fn nested(&mut self, pt: u32, device: usize) -> Answer {
        self.device(device)?;
        match self.things.get(&pt) {
            Some(Thing::Ioas(_)) => Err(Errno::EOPNOTSUPP),
            Some(Thing::Paging { nest: false, .. }) => Err(Errno::EINVAL),
            // This hardware nests through slices only.
            Some(Thing::Paging { .. }) => Err(Errno::EOPNOTSUPP),
            Some(Thing::Viommu { iommu, .. }) if *iommu == iommu_of(device) => {
                self.add(Thing::Nested(pt))
            }
            _ => Err(Errno::EINVAL),
        }
    }

    fn slice(&mut self, parent: u32, device: usize) -> Answer {
        self.device(device)?;
        let iommu = iommu_of(device);
        match self.things.get(&parent) {
            Some(Thing::Paging { nest: true, .. }) => self.add(Thing::Viommu { parent, iommu }),
            Some(Thing::Paging { .. }) => Err(Errno::EINVAL),
            _ => Err(Errno::ENOENT),
        }
    }

    fn name(&mut self, viommu: u32, device: usize, virt_id: u64) -> Answer {
        let iommu = self.viommu(viommu)?;
        self.device(device)?;
        if iommu != iommu_of(device) {
            return Err(Errno::EINVAL);
        }
        let taken = |thing: &Thing| match thing {
            Thing::Vdevice {
                viommu: it,
                device: of,
                virt_id: name,
            } => *of == device || (*it == viommu && *name == virt_id),
            _ => false,
        };
        if self.things.values().any(taken) {
            return Err(Errno::EEXIST);
        }
        self.add(Thing::Vdevice {
            viommu,
            device,
            virt_id,
        })
    }

    pub(super) fn invalidate(&self, id: u32, virt_id: u64) -> (usize, Result<(), Errno>) {
        match self.things.get(&id) {
            None | Some(Thing::Tombstone) => (0, Err(Errno::ENOENT)),
            Some(Thing::Nested(_)) => (0, Err(Errno::EOPNOTSUPP)),
            Some(Thing::Viommu { .. }) => {
                let named = |thing: &Thing| matches!(thing, Thing::Vdevice { viommu, virt_id: name, .. } if *viommu == id && *name == virt_id);
                if self.things.values().any(named) {
                    (2, Ok(()))
                } else {
                    (1, Err(Errno::EIO))
                }
            }
            Some(_) => (0, Err(Errno::EINVAL)),
        }
    }

    fn areas(&mut self, id: u32) -> Result<&mut BTreeSet<u64>, Errno> {
        match self.things.get_mut(&id) {
            Some(Thing::Ioas(areas)) => Ok(areas),
            _ => Err(Errno::ENOENT),
        }
    }

    fn destroy(&mut self, id: u32) -> Answer {
        match self.things.get(&id) {
            None | Some(Thing::Tombstone) => Err(Errno::ENOENT),
            Some(Thing::Device) => Err(Errno::EBUSY),
            Some(_) if self.referred(id) => Err(Errno::EBUSY),
            Some(_) => {
                self.things.remove(&id);
                Ok(0)
            }
        }
    }

    pub(super) fn apply(&mut self, op: Op) -> Answer {
        match op {
            Op::Ioas => self.add(Thing::Ioas(BTreeSet::new())),
            Op::Destroy(id) => self.destroy(id),
            Op::Map(id, slot) => match self.areas(id)?.insert(slot) {
                true => Ok(0),
                false => Err(Errno::EEXIST),
            },
            Op::Unmap(id, slot) => match self.areas(id)?.remove(&slot) {
                true => Ok(0),
                false => Err(Errno::ENOENT),
            },
            Op::Hwpt { pt, device, nest } => self.hwpt(pt, device, nest),
            Op::Nested { pt, device } => self.nested(pt, device),
            Op::Viommu { parent, device } => self.slice(parent, device),
            Op::Vdevice {
                viommu,
                device,
                virt_id,
            } => self.name(viommu, device, virt_id),
            Op::Veventq(viommu) => {
                self.viommu(viommu)?;
                if self.things.values().any(|it| *it == Thing::Veventq(viommu)) {
                    return Err(Errno::EEXIST);
                }
                self.add(Thing::Veventq(viommu))
            }
            Op::Invalidate(id, virt_id) => {
                let (complete, result) = self.invalidate(id, virt_id);
                result.map(|()| complete as u32)
            }
            Op::Attach { device, pt } => self.attach(device, pt),
            Op::Detach(device) => {
                self.device(device)?;
                self.detach(device);
                Ok(0)
            }
            Op::Toggle(device) => self.toggle(device),
        }
    }
}
