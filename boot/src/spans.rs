//! Lists of address ranges, as every firmware has them.

use alloc::vec::Vec;

use iommu::addr::{Hpa, Span};

/// Sorts, drops what is empty, joins what touches.
pub fn merge(spans: Vec<Span<Hpa>>) -> Vec<Span<Hpa>> {
    let mut sorted: Vec<Span<Hpa>> = Vec::with_capacity(spans.len());
    for span in spans.into_iter().filter(|span| span.len != 0) {
        // The sorts of `core` are made for long lists and several KiB of code for each type.
        sorted.insert(
            sorted.partition_point(|other| other.base <= span.base),
            span,
        );
    }
    let mut merged: Vec<Span<Hpa>> = Vec::with_capacity(sorted.len());
    for span in sorted {
        match merged.last_mut() {
            Some(last) if span.base <= last.end() => {
                last.len = last.len.max(span.end() - last.base);
            }
            _ => merged.push(span),
        }
    }
    merged
}
