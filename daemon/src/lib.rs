//! What podwasm's daemons have in common, whatever their work is: how they begin, and whom they listen to.

pub mod listener;
pub mod privileges;
