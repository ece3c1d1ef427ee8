//! The VT-d unit that a guest sees, on the objects, the real driver and the strict model.

mod bounds;
mod guest;
mod modes;
mod nested;
mod pasids;
mod random;
mod requests;
mod shadow;
mod words;
