//! mica
fn main() {
    mica::runtime::init_if_child();
}
