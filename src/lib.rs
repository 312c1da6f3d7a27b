//! Builds OCI images from Dockerfiles: parser, graph, solver, snapshots, layers and exporters.

pub mod builder;
pub mod cache;
pub mod cli;
pub mod export;
pub mod import;
pub mod layer;
pub mod mount;
pub mod oci;
pub mod parser;
pub mod runtime;
pub mod snapshot;
pub mod store;
