//! mica as its users meet it: the real binary, a module for each thing that it is asked to do.
//!
//! Runs as root and as a plain user, without internet, registry or clock. What the machine cannot do
//! is skipped, and the reason is printed.

mod archives;
mod build;
mod cache;
mod changing_context;
mod check;
mod chroot;
mod concurrent;
mod context;
mod copied_again;
mod env;
mod errors;
mod faults;
mod image;
mod images;
mod import;
mod instructions;
mod interrupt;
mod isolation;
mod kaniko;
mod load;
mod login;
mod named_contexts;
mod outputs;
mod own_proc;
mod pull;
mod push;
mod real_registry;
mod refusals;
mod registry;
mod remote;
mod remote_context;
mod reproducible;
mod run;
mod search;
mod secrets;
mod server;
mod shared_cache;
mod small_machine;
mod ssh;
mod stages;
mod stdin;
mod system;
mod system_calls;
mod tls;
mod unread;
mod walls;
