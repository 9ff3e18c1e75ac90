//! The wiring: links, tasks, shutdown.
