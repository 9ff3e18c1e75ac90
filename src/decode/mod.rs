//! Pure: bytes to model.
