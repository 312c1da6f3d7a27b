//! mica
fn main() {}
