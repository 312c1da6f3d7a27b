//! From the text of a Dockerfile to its syntax tree.

mod diagnostic;
mod span;
pub mod word;

pub use diagnostic::{Diagnostic, Severity};
pub use span::Span;
