//! From a syntax tree to an image.

pub mod glob;
pub mod ignore;
