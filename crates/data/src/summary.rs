//! What `tune data` reports.
