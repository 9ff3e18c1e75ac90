//! The whole program against servers: the embedded sandbox, and those that others wrote.

mod sandboxed;
mod world;
