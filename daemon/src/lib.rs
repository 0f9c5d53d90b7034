//! What podwasm's daemons have in common, whatever their work is: how they begin and end, and whom they listen to.

pub mod heap;
pub mod listener;
pub mod logging;
pub mod privileges;
pub mod signals;
