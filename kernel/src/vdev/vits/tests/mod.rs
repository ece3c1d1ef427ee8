//! Tests of the virtual ITS: the way Linux uses it, each command's errors, and commands made of noise.

mod bench;
mod commands;
mod linux;
mod noise;
