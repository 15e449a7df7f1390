//! The reference back end passes its own suite.

use bitnet_core::reference::ReferenceBackend;

#[test]
fn reference_conforms() {
    bitnet_testing::conformance(&ReferenceBackend, &[]);
}

#[test]
#[should_panic(expected = "is not the name of a case")]
fn unknown_skip_is_refused() {
    bitnet_testing::conformance(&ReferenceBackend, &["no such case"]);
}
