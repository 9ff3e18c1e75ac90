//! Files and variables against what a user was promised.
