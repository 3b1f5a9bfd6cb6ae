//! Socket options and calls that rustix does not wrap. Private; each function is safe to call.
