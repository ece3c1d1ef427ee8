//! Instructions beside another decoder (iced-x86) and beside arithmetic in wider numbers.

mod arithmetic;
mod effects;
mod iced;
mod walk;
