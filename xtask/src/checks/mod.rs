//! The checks, one rule per file; each is a function from the tree to its violations.

pub mod copies;
pub mod floors;
pub mod headers;
pub mod ignored_tests;
pub mod lengths;
pub mod links;
pub mod manifests;
pub mod names;
pub mod private_words;
pub mod processors;
pub mod profiles;
pub mod safety_comments;
pub mod scripts;
pub mod sizes;

pub mod unfinished;
pub mod unsafe_places;
