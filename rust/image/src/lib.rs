//! Pictures in, training-ready pictures out, in batches, without Python.
