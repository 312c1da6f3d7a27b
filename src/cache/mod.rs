//! The step cache: what a step would make, found by what it is made from.
//!
//! Two questions are asked of each vertex of the graph, the cheap one first:
//!
//! 1. The **definition key**: what is to be done, to inputs of which definition keys? It is known
//!    before anything runs. A hit ends the matter: nothing that leads to the vertex is even looked at.
//! 2. The **content key**: what is to be done, to inputs that turned out to hold which bytes? It is
//!    asked once the inputs are there, and stops a rebuild where a step that was redone made the
//!    same files as before. It is not asked above a COPY that was done before with other files: what
//!    comes after it has to be done, and begins while the layer is still being hashed.
//!
//! Both are SHA-256 digests of an encoding of named, length-prefixed fields ([`key::KeyHasher`]):
//!
//! | goes in | FROM | RUN | COPY, ADD | WORKDIR |
//! |---|---|---|---|---|
//! | the version of this table | ✓ | ✓ | ✓ | ✓ |
//! | chain of the image's layers | ✓ | | | |
//! | the root file system's key (definition or content) | | ✓ | ✓ | ✓ |
//! | `SOURCE_DATE_EPOCH` | | ✓ | ✓ | ✓ |
//! | platform | | ✓ | | |
//! | argv, environment with the ARGs in scope, folder, user | | ✓ | | |
//! | network and security mode, host names added, ulimits, /dev/shm | | ✓ | | |
//! | mounts: type, target, options, secret and cache IDs | | ✓ | | |
//! | what bind mounts show: context files' digests, or a stage's key ¹ | | ✓ | | |
//! | destination, owner, mode, flags | | | ✓ | path, owner |
//! | sources: context files' digests, or a stage's key ¹ and the pattern | | | ✓ | |
//! | here-documents' text | | ✓ ² | ✓ | |
//!
//! A source from elsewhere has a key of its own: the digest and the name of a URL's file, or the commit,
//! the folder, whether submodules come along, and where a `.git` that stays says that it is from.
//!
//! ¹ In the definition key a stage counts by its definition key, in the content key by the digests
//! of the files that are copied or mounted, so that a stage that was rebuilt to the same files
//! changes nothing. ² As part of argv.
//!
//! A context file counts by type, mode, link target, `security.capability` and bytes
//! ([`content`]). **Left out on purpose:** times, inode numbers, owners of a context folder's files (they
//! become 0:0), proxy variables that no ARG declares, the values of secrets, what SSH agents and cache
//! mounts hold, IP addresses of added host names, the Dockerfile's comments and formatting, and the
//! order in which unrelated steps stand.

pub mod content;
mod index;
mod key;
pub mod receipts;
mod records;
mod shared;

pub use index::{CacheError, Step, StepCache};
pub use key::{CacheKey, KeyHasher};
pub use shared::{SharedCache, SharedIndex, SharedIndexError};
