//! Quantisers and storage codecs between numbers and trits.
#![forbid(unsafe_code)]
