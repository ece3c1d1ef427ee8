//! Doorbells of message interrupts: each address space has its own window, where the caller wants it and as large as it
//! wants. A doorbell's page has the same IOVA in every table of the space.

use alloc::vec::Vec;

use super::super::driver::Access;
use super::super::{Error, inner::Inner, room};
use super::{Space, WINDOW};
use crate::addr::{Hpa, Iova, PAGE_SIZE, Span};

/// How doorbells are mapped: messages are writes.
pub(super) const ACCESS: Access = Access::WRITE.union(Access::DEVICE);

/// Where doorbells are mapped.
#[derive(Debug)]
pub(in crate::object) struct Window {
    pub first: u64,
    pub last: u64,
    /// In the order of first use: page n is n pages past `first`.
    pub pages: Vec<Hpa>,
}

impl Window {
    pub(super) fn span(&self, index: usize) -> Span<Iova> {
        Span {
            base: Iova(self.first + index as u64 * PAGE_SIZE),
            len: PAGE_SIZE,
        }
    }
}

impl Space {
    /// Takes a window for doorbells, in place of one without any.
    pub(in crate::object) fn set_window(&mut self, first: u64, last: u64) -> Result<(), Error> {
        if first & (PAGE_SIZE - 1) != 0 {
            return Err(Error::Misaligned(first));
        }
        if last <= first || (last - first) & (PAGE_SIZE - 1) != PAGE_SIZE - 1 {
            return Err(Error::Misaligned(last));
        }
        if let Some(window) = &self.window
            && !window.pages.is_empty()
        {
            return Err(Error::AddressInUse(window.first));
        }
        let mut others = self.reserved.iter().filter(|it| it.owner != WINDOW);
        if let Some(meets) = others.find(|it| it.first <= last && first <= it.last) {
            return Err(Error::AddressInUse(meets.first.max(first)));
        }
        self.reserve(first, last, WINDOW)?;
        if let Some(old) = self.window.take() {
            let is_old = |it: &super::Reserved| {
                it.owner == WINDOW && it.first == old.first && it.last == old.last
            };
            if let Some(at) = self.reserved.iter().position(is_old) {
                self.reserved.remove(at);
            }
        }
        self.window = Some(Window {
            first,
            last,
            pages: Vec::new(),
        });
        Ok(())
    }

    /// Undoes [`set_window`](Self::set_window) where no doorbell is in it.
    pub(in crate::object) fn drop_window(&mut self) {
        self.window = None;
        self.unreserve(WINDOW);
    }
}

impl Inner {
    /// Chooses the window of an address space.
    pub(in crate::object) fn set_window(
        &mut self,
        ioas: u32,
        first: u64,
        last: u64,
    ) -> Result<(), Error> {
        self.ids.ioas_mut(ioas)?.set_window(first, last)
    }

    /// The IOVA of a doorbell, which is mapped from now on.
    pub(in crate::object) fn doorbell(&mut self, ioas: u32, at: Hpa) -> Result<u64, Error> {
        let page = at.align_down(PAGE_SIZE);
        let offset = at.0 - page.0;
        let space = self.ids.ioas_mut(ioas)?;
        let hwpts = space.hwpts.len();
        let window = space.window.as_mut().ok_or(Error::Invalid(at.0))?;
        if let Some(index) = window.pages.iter().position(|known| *known == page) {
            return Ok(window.span(index).base.0 + offset);
        }
        let span = window.span(window.pages.len());
        if span.base.0 > window.last {
            return Err(Error::NoSpace);
        }
        room::reserve(&mut window.pages, 1)?;
        for which in 0..hwpts {
            let hwpt = self.ids.ioas(ioas)?.hwpts[which];
            let mapped = self
                .ids
                .paging_mut(hwpt)?
                .table_mut()
                .map(span, page, ACCESS);
            if let Err(error) = mapped {
                for done in 0..which {
                    let hwpt = self.ids.ioas(ioas)?.hwpts[done];
                    self.ids.paging_mut(hwpt)?.unmap(span)?;
                }
                return Err(error);
            }
        }
        if let Some(window) = &mut self.ids.ioas_mut(ioas)?.window {
            window.pages.push(page);
        }
        Ok(span.base.0 + offset)
    }
}
