//! Builds OCI images from Dockerfiles: parser, graph, solver, snapshots, layers and exporters.

pub mod layer;
pub mod oci;
pub mod snapshot;
