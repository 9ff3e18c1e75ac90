//! Pure: the operations of each key, and what may be sent now.
