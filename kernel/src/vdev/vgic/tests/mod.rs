//! Tests of the virtual GIC: registers, the ways of an interrupt, and random sequences against a GIC without list
//! registers.

mod ideal;
mod interface;
mod linked;
mod linux;
mod lists;
mod machine;
mod random;
mod registers;
mod renewed;
