//! Compare, confirm, repair.
