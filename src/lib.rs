//! Builds OCI images from Dockerfiles: parser, graph, solver, snapshots, layers and exporters.

pub mod mount;
pub mod oci;
pub mod runtime;
