//! Builds OCI images from Dockerfiles: parser, graph, solver, snapshots, layers and exporters.

pub mod builder;
pub mod oci;
pub mod parser;
