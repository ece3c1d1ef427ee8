//! Bounded queues of the events that a guest sees, one for each type of each slice.

use super::driver::Entry;
use super::ids::Object;
use super::inner::Inner;
use super::ring::{Item, Ring};
use super::{Error, room};

/// An event in the guest's terms, in its type's own format, zero-extended.
pub type Event = Entry;

/// See the module's description.
#[derive(Debug)]
pub(super) struct Events {
    pub viommu: u32,
    pub ring: Ring<Event>,
}

/// Bytes of the header of a record in the byte stream.
const HEADER: usize = 8;
/// Flag in the header: records were lost, and no payload follows.
const LOST_EVENTS: u32 = 1;

impl Inner {
    /// A queue of `depth` events of type `kind`.
    pub(super) fn veventq_alloc(
        &mut self,
        viommu: u32,
        kind: u32,
        depth: u32,
    ) -> Result<u32, Error> {
        if kind == 0 {
            return Err(Error::Unsupported(kind));
        }
        if depth == 0 || depth > super::ring::MAX_DEPTH {
            return Err(Error::Invalid(depth.into()));
        }
        let slice = self.ids.viommu(viommu)?;
        if slice.events.iter().any(|(known, _)| *known == kind) {
            return Err(Error::Exists(kind.into()));
        }
        if !slice.ops.has_events(kind) {
            return Err(Error::Unsupported(kind));
        }
        let id = self.publish_with(|inner, id| {
            let ring = Ring::new(depth)?;
            let slice = inner.ids.viommu_mut(viommu)?;
            room::reserve(&mut slice.events, 1)?;
            slice.events.push((kind, id));
            Ok(Object::Veventq(Events { viommu, ring }))
        })?;
        self.ids.grab(viommu);
        Ok(id)
    }

    pub(super) fn veventq_destroyed(&mut self, id: u32, events: &Events) {
        if let Ok(slice) = self.ids.viommu_mut(events.viommu) {
            slice.events.retain(|(_, it)| *it != id);
        }
        self.put(events.viommu);
    }

    /// Reads whole records into `bytes`, each of `event_len` bytes behind a header, as many as fit.
    pub(super) fn veventq_read(
        &mut self,
        id: u32,
        event_len: usize,
        bytes: &mut [u8],
    ) -> Result<usize, Error> {
        let ring = &mut self.ids.veventq_mut(id)?.ring;
        if bytes.len() < HEADER {
            return Err(Error::MessageSize(HEADER));
        }
        let event_len = event_len.min(size_of::<Event>());
        let mut done = 0;
        while let Some(item) = ring.peek() {
            let (flags, sequence, len) = match item {
                Item::Record { sequence, .. } => (0, sequence, HEADER + event_len),
                Item::Lost { sequence } => (LOST_EVENTS, sequence, HEADER),
            };
            if bytes.len() - done < len {
                // The first one has to fit.
                return match done {
                    0 => Err(Error::Invalid(len as u64)),
                    _ => Ok(done),
                };
            }
            let out = &mut bytes[done..done + len];
            out[..4].copy_from_slice(&flags.to_le_bytes());
            out[4..8].copy_from_slice(&sequence.to_le_bytes());
            if let Item::Record { record, .. } = item {
                for (out, word) in out[HEADER..].chunks_mut(8).zip(record) {
                    out.copy_from_slice(&word.to_le_bytes()[..out.len()]);
                }
            }
            done += len;
            ring.pop();
        }
        Ok(done)
    }
}
