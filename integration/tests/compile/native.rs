//! What compiler and engine make of modules.
