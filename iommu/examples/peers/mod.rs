//! Page tables of other crates, each as one thing that maps a range of 4 KiB pages to itself and unmaps it again.
#![allow(dead_code, reason = "each example uses a part")]

pub mod aarch64_paging;
pub mod page_table_multiarch;
pub mod x86_64;

pub const PAGE: u64 = 4096;

/// A table of a peer. Its rounds take the memory of tables that they free from where they put it.
pub trait Peer {
    /// Maps `leaves` pages at `base`.
    fn map(&mut self, base: u64, leaves: u64);
    /// Unmaps them.
    fn unmap(&mut self, base: u64, leaves: u64);
    /// Frees the tables of that range that have become empty; where a peer has no such call, nothing.
    fn clean_up(&mut self, base: u64, leaves: u64);
}
